// runtime/start_trim.h
//
// StartTrim: once the start is over, takes the pages of programs and libraries that only the start touched out of the
// process's page tables.
//
//     resting ──soon()──▶ waiting ──kStartTrimMs──▶ trimmed, resting      at most kStartTrims times
//
// libcrypto alone has 3.8 MB mapped after it has made its tables; an idle daemon uses 0.5 MB of them. Three quarters of
// what an idle edge had mapped was such code. The kernel keeps the pages in its page cache as long as it likes, and one
// that is needed again is mapped again by a minor fault, 16 at once. So this frees no memory by itself: it lets the
// kernel take such pages first where memory is short, and the process is as big as what it works with.
//
// Thread   its loop's; trim_file_pages(): any.
// Never    drops a page whose bytes are not the file's: a segment in which a debugger, a probe or a hook has written
//          one, stays as it is.
#pragma once

#include <cstddef>

#include "base/limits.h"
#include "loop/owned.h"

namespace natrp {

class Loop;

class StartTrim {
 public:
  explicit StartTrim(Loop& loop) : loop_(loop) {}
  ~StartTrim();
  StartTrim(const StartTrim&) = delete;
  StartTrim& operator=(const StartTrim&) = delete;

  // A part of the start is over (the daemon is ready; its first session is there). Does nothing after kStartTrims
  // trims.
  void soon();

 private:
  void on_due();

  Loop& loop_;
  OwnedTimer<&StartTrim::on_due> due_{*this};
  unsigned left_ = kStartTrims;
};

// Unmaps the resident pages of all segments that no one may write to. What they hold comes from the file again.
// Returns the bytes of the segments that it took. Where the process may not read its own page map, none.
size_t trim_file_pages();

}  // namespace natrp
