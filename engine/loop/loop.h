// loop/loop.h
//
// Loop: how one thread waits for the kernel. Three of them honour the same contract: UringLoop (a ring) and EpollLoop
// (readiness dressed as completion, one attempt per event), which pass the same tests, and the tests' SimLoop.
//
// Thread   made, used and destroyed by one thread. Only wake() may be called from others.
// Never    calls a handler inside submit() or cancel(); a handler runs in run_once() and nowhere else.
//
// The data path's synchronous calls (try_*) go through the loop too, so that the simulated kernel sees them.
#pragma once

#include <sched.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/limits.h"
#include "base/result.h"
#include "loop/brief_wait.h"
#include "loop/buf_ring.h"
#include "loop/buffer_trim.h"
#include "loop/op.h"
#include "loop/patient_ops.h"
#include "loop/timer_wheel.h"

namespace natrp {

enum class IoKind { kAuto, kUring, kEpoll };

// What the peer of a socket sees when it is closed.
enum class CloseWith : uint8_t {
  kFin,    // a FIN behind all that was sent
  kReset,  // a RST
};

class Loop {
 public:
  virtual ~Loop() = default;
  virtual const char* name() const = 0;
  // True when receives and sends are cheaper as ops, batched over all conns, than as calls of our own.
  virtual bool batches_messages() const = 0;
  // False while this turn has so few completions that a call on the spot costs less than an op and its completion.
  virtual bool worth_batching() const = 0;

  // Starts op. kind, fd, data, len and handler are set by the caller, and stay; but a poll has no data of its own.
  virtual void submit(Op& op) = 0;
  // Asks for op's end. Its handler still runs, once, later. Cancelling an op that is not in flight does nothing.
  virtual void cancel(Op& op) = 0;
  // Submits what is pending, waits at most timeout_ms (-1: until something happens) and runs handlers and due timers.
  virtual void run_once(int timeout_ms) = 0;
  // Turns until done(), for within_ms at most. For the end of an owner, whose ops land in a turn or two: the bound is
  // for a kernel that does not keep its word. It is a time, because under a flood 100 turns pass in a millisecond.
  template <typename Done>
  void land_until(Done done, uint32_t within_ms = kLandingMs) {
    for (const uint64_t late_ms = now_ms() + within_ms; !done() && now_ms() < late_ms;) run_once(kLandingTurnMs);
  }
  // From the next turn on: handlers of patient ops run after those of all others, one a turn. For a worker that carries
  // messages beside streams; where there are only streams, a turn of its own for each op would cost them a percent.
  void set_messages_first(bool on) { patient_.set(on); }
  // Whether the loop looks for an answer before it sleeps (loop/brief_wait.h). At first it does not.
  void set_brief_wait(bool on) { brief_wait_.set(on); }
  // From any thread: makes run_once return soon, after calling the wake handler.
  virtual void wake() = 0;
  void set_wake_handler(void (*handler)(void*), void* context) {
    wake_handler_ = handler;
    wake_context_ = context;
  }

  // Non-blocking calls on the spot: bytes, 0 at end of stream, or -errno (-EAGAIN: not now).
  virtual ssize_t try_recv(int fd, void* data, size_t len) = 0;
  virtual ssize_t try_send(int fd, const void* data, size_t len) = 0;
  // From a socket into a pipe or from a pipe into a socket. Never SPLICE_F_MORE: a partly filled pipe would be corked.
  virtual ssize_t try_splice(int from, int to, size_t len) = 0;
  virtual int shutdown_write(int fd) = 0;   // 0 or -errno
  virtual int bytes_unacknowledged(int fd) = 0;  // SIOCOUTQ; ≥ 0 or -errno
  virtual int bytes_readable(int fd) = 0;        // FIONREAD; ≥ 0 or -errno
  virtual bool is_at_mark(int fd) = 0;           // TCP: the next byte is an urgent mark (SIOCATMARK)
  virtual bool is_reset(int fd) = 0;             // the peer has reset it, whether or not bytes are left to read
  // TCP_CLOSE: it was reset, and a call may have been told so already, or both its directions are over. False where it
  // is not TCP's.
  virtual bool is_tcp_closed(int fd) = 0;
  // TCP: how long the peer has answered nothing though it was asked, in ms. 0: nothing is unanswered. A peer that
  // answers and takes no bytes (a closed window) is not silent.
  virtual int peer_silent_ms(int fd) = 0;
  // TCP: how long ago data last left this host for fd's peer, in ms. While the peer reads, some leaves now and then,
  // however much is queued. Not TCP, or nothing was ever sent: UINT32_MAX.
  virtual uint32_t sent_ms_ago(int fd) = 0;
  // Closes fd, whatever net/socket has set for a plain close(2). No op on fd may be in flight.
  virtual void close(int fd, CloseWith with) = 0;
  // Forgets fd, which goes on to another thread's loop. No op on fd may be in flight.
  virtual void let_go(int) {}

  BufRing& buffers() { return buffers_; }
  TimerWheel& timers() { return timers_; }
  // The time of this turn; cheaper than asking the clock for each pump.
  uint64_t turn_ms() const { return turn_ms_; }

 protected:
  BufRing buffers_;
  TimerWheel timers_;
  BriefWait brief_wait_;
  PatientOps patient_;
  uint64_t turn_ms_ = 0;
  void (*wake_handler_)(void*) = nullptr;
  void* wake_context_ = nullptr;
};

struct LoopChoice {
  std::unique_ptr<Loop> loop;
  std::string reason;  // kAuto that fell back to epoll: why, as a sentence; else empty
};

// Makes the loop of the calling thread. kUring fails where the kernel refuses a ring; kAuto falls back to epoll.
Result<LoopChoice> make_loop(IoKind kind);

// Of an accept(2) that failed: whether to call it again at once. The connection that was next has gone while it waited,
// or a signal came; another connection may wait behind it.
bool accept_may_go_on(int error);

// The system calls behind try_*, and what becomes of buffers after a burst: shared by the two real backends.
class SystemCallLoop : public Loop {
 public:
  ssize_t try_recv(int fd, void* data, size_t len) override;
  ssize_t try_send(int fd, const void* data, size_t len) override;
  ssize_t try_splice(int from, int to, size_t len) override;
  int shutdown_write(int fd) override;
  int bytes_unacknowledged(int fd) override;
  int bytes_readable(int fd) override;
  bool is_at_mark(int fd) override;
  bool is_reset(int fd) override;
  bool is_tcp_closed(int fd) override;
  int peer_silent_ms(int fd) override;
  uint32_t sent_ms_ago(int fd) override;

 protected:
  static void close_now(int fd, CloseWith with);
  // Before a turn, while ops of streams wait for theirs: threads that are due have the processor first. A message may
  // need one of them, its peer or the next worker on its way, and would wait until the kernel sees that our slice is
  // over: it looks only at its tick (4 ms at 250 Hz) and when a thread wakes. A thread that yields gives up the rest of
  // its slice, a short one here (runtime/wake_policy). Before Linux 6.18 it is put behind that slice's end instead, and
  // keeps its share of the processor.
  void let_others_go_first() const {
    if (!patient_.empty()) sched_yield();
  }

  BufferTrim trim_{*this};
};

}  // namespace natrp
