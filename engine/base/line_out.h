// base/line_out.h
//
// LineOut: whole lines to standard error or standard output, and no wait for a reader that stands still. A line goes
// whole or not at all: of one that went in part (to a terminal, or longer than PIPE_BUF) the rest goes before the next.
//
// The descriptor's file is shared with other processes (a shell, a successor), and so is O_NONBLOCK: it is not set
// there. A pipe or a terminal is opened once more, as a file of our own that has it; a socket is asked with each send.
// Where that is refused (another user's pipe), poll(2) tells whether PIPE_BUF bytes have room, and whoever writes to
// it between that and our write may make us wait.
//
// A reader that is late is waited for: kLineWaitNs in a second, and not again before it has taken what it missed.
//
// Thread   one at a time.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/fd.h"

namespace natrp {

class LineOut {
 public:
  // fd stays the caller's; what it leads to may change.
  explicit LineOut(int fd) : fd_(fd) {}

  // false: no byte of it was written, and error() says why.
  bool write(std::string_view line);
  // The rest of a line that went in part. Whether none is left.
  bool finish();
  // The errno of the last write that failed. EAGAIN: nobody reads.
  int error() const { return error_; }

 private:
  enum class Kind { kFile, kSocket, kOwn, kShared };
  void look();
  size_t write_some(std::string_view bytes);
  ssize_t try_write(std::string_view bytes);
  bool wait_a_little();

  const int fd_;
  Kind kind_ = Kind::kFile;
  Fd own_;  // kOwn: the same pipe or terminal, without waiting
  dev_t device_ = 0;  // which file fd_ is
  ino_t inode_ = 0;
  std::string rest_;
  int error_ = 0;
  bool stands_still_ = false;  // it took less than all of the last line
  uint64_t wait_period_ns_ = 0;  // when it began
  uint64_t wait_left_ns_ = 0;
};

}  // namespace natrp
