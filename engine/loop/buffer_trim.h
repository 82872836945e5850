// loop/buffer_trim.h
//
// BufferTrim: after a burst, gives the pages of a loop's receive buffers back to the system.
//
//     resting ──the BufRing has grown──▶ watching ──a second of few receives──▶ draining ──▶ resting
//        ▲                                   └──a busy second──▶ resting
//        └── at the end of each turn it looks again whether the BufRing has grown (BufRing::has_grown)
//
// The kernel has no call that takes an offered buffer back, and it fills them in turn. So draining is receiving: bytes
// of our own, one buffer each, until only the first few are on offer. A conn that receives meanwhile is served as ever.
//
// Thread   its loop's.
// Memory   a descriptor while it drains, two at the start. Where there are none it tries again a second later.
// Never    ticks while the buffers are as few as at the start: an idle loop sleeps.
#pragma once

#include "base/fd.h"
#include "loop/owned.h"

namespace natrp {

class Loop;

class BufferTrim {
 public:
  explicit BufferTrim(Loop& loop);
  // The loop's op has landed, or its backend is gone.
  ~BufferTrim();
  BufferTrim(const BufferTrim&) = delete;
  BufferTrim& operator=(const BufferTrim&) = delete;

  // At the end of each turn.
  void after_turn();

 private:
  void on_watch();
  void on_drained(Op& op);
  void drain();
  void finish();

  Loop& loop_;
  OwnedTimer<&BufferTrim::on_watch> watch_{*this};
  OwnedOp<&BufferTrim::on_drained> drain_{*this};
  Fd source_;  // the socket that is drained
  uint64_t uses_before_ = 0;
};

}  // namespace natrp
