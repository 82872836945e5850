// loop/uring_loop.h
//
// UringLoop: the Loop over a ring. All that was submitted in a turn goes to the kernel in the one call that also
// waits; completions are copied out before their handlers run, up to 256 at a time.
//
// Thread   one. wake() from any.
// Never    splices through the ring: IORING_OP_SPLICE always runs in a kernel worker thread.
#pragma once

#include <liburing.h>

#include <vector>

#include "base/fd.h"
#include "loop/loop.h"
#include "loop/owned.h"

namespace natrp {

class UringLoop final : public SystemCallLoop {
 public:
  static Result<std::unique_ptr<Loop>> make();
  ~UringLoop() override;

  const char* name() const override { return "uring"; }
  bool batches_messages() const override { return true; }
  bool worth_batching() const override { return completions_ > kSparseTurn; }
  void submit(Op& op) override;
  void cancel(Op& op) override;
  void run_once(int timeout_ms) override;
  void wake() override;
  void close(int fd, CloseWith with) override;

 private:
  UringLoop() = default;
  Status start();
  // Has op handled whenever fd, which is this loop's own, is readable.
  void poll_own(Op& op, int fd);
  io_uring_sqe* next_sqe();
  bool prepare(Op& op);
  bool prepare_cancel(Op& op);
  void retry_postponed();
  void enqueue(Op& op);
  static bool watch_beside(const Fd& epoll, Op& op, uint32_t mask);
  void finish_later(Op& op);
  void finish(Op& op, int32_t result);
  void on_hang_ups(Op& op);
  bool wait_aside(Op& op, uint32_t mask);
  void on_room(Op& op);
  bool goes_on(Op& op, int32_t& result);
  bool send_goes_on(Op& op, int32_t& result);
  void landed(Op& op);
  void complete(uint64_t user_data, int32_t result, uint32_t flags);
  void on_wake(Op& op);
  bool has_come() const;
  void submit_and_wait(int timeout_ms);
  void run_completions();

  // A turn of more completions than this is worth batching: one conn alone has one, seldom two.
  static constexpr unsigned kSparseTurn = 2;

  io_uring ring_{};
  bool ring_made_ = false;
  unsigned completions_ = 0;               // of this turn
  io_uring_buf_ring* offered_ = nullptr;   // the provided-buffer ring shared with the kernel
  size_t offered_bytes_ = 0;
  Fd event_;
  OwnedOp<&UringLoop::on_wake> wake_op_{*this};
  // kHangUp goes through an epoll instance that the ring polls: IORING_OP_POLL_ADD always adds RDHUP to its mask, so on
  // a half-closed socket it would complete at once. Such ops are rare, and cost nothing until they fire.
  Fd hang_ups_;
  OwnedOp<&UringLoop::on_hang_ups> hang_ups_op_{*this};
  // And so do waits for room in a half-closed socket: in the ring, each would complete at once, again and again. In an
  // instance of their own, because the other direction's kHangUp may be on the same socket.
  Fd rooms_;
  OwnedOp<&UringLoop::on_room> rooms_op_{*this};
  std::vector<Op*> cancelled_aside_;       // cancelled ops of both instances, to be finished in the next turn
  std::vector<Op*> finishing_;             // the same while they are finished; both vectors keep their capacity
  std::vector<Op*> postponed_;             // found no SQE in their turn (EBUSY from a full completion queue)
  std::vector<Op*> postponed_cancels_;
};

}  // namespace natrp
