// loop/epoll_loop.h
//
// EpollLoop: the Loop where no ring may be had (containers often forbid io_uring). Readiness dressed as completion:
// an op is attempted in the next round (kRoundsPerTurn), and what would block then waits for its edge.
//
// Thread   one. wake() from any.
// How      each descriptor is registered once, edge-triggered, for everything. Only a listener is level-triggered,
//          and exclusive: it wakes one of the threads that share it. epoll_event.data carries the
//          descriptor and a generation: an event that was fetched before a close never reaches the next owner of that
//          number (HAProxy's rule).
#pragma once

#include <sys/epoll.h>

#include <vector>

#include "base/fd.h"
#include "loop/loop.h"

namespace natrp {

class EpollLoop final : public SystemCallLoop {
 public:
  static Result<std::unique_ptr<Loop>> make();
  ~EpollLoop() override = default;

  const char* name() const override { return "epoll"; }
  bool batches_messages() const override { return false; }
  bool worth_batching() const override { return false; }
  void submit(Op& op) override;
  void cancel(Op& op) override;
  void run_once(int timeout_ms) override;
  void wake() override;
  void close(int fd, CloseWith with) override;
  void let_go(int fd) override;

 private:
  // What waits on one descriptor: at most one op that reads (accept, receive, poll) and one that writes.
  struct Waiting {
    Op* reader = nullptr;
    Op* writer = nullptr;
    uint32_t generation = 0;
    bool registered = false;
    bool hung_up = false;  // an edge with RDHUP, HUP or ERR came: it will not come again
    bool urgent = false;   // an edge with PRI came: a read may stop at the urgent mark, with bytes behind it
  };

  EpollLoop(Fd epoll, Fd event);
  Waiting& waiting(int fd);
  Op*& place(Waiting& at, const Op& op);
  bool watch(int fd, Waiting& at, uint32_t events);
  void enqueue(Op& op);
  void try_ready();
  void attempt_queued(Op& op);
  void attempt(Op& op);
  static int32_t send_rest(Op& op);
  bool perform(Op& op, int32_t& result);
  void finish(Op& op, int32_t result, bool more);
  void accept_some(Op& op);
  void on_event(const epoll_event& event);

  Fd epoll_;
  Fd event_;
  std::vector<Waiting> table_;   // by descriptor
  std::vector<Op*> ready_;       // to be attempted in the next round
  std::vector<Op*> running_;     // the round being attempted; a queued Op does not move
};

}  // namespace natrp
