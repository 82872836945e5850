#include "net/acceptor.h"

#include <cerrno>

#include "base/check.h"
#include "base/limits.h"

namespace natrp {

Acceptor::Acceptor(Loop& loop, Counters& counters, int listener_fd, OnAccept on_accept, void* context)
    : loop_(loop), counters_(counters), on_accept_(on_accept), context_(context) {
  accept_.kind = OpKind::kAccept;
  accept_.fd = listener_fd;
}

Acceptor::~Acceptor() {
  NATRP_CHECK(!accept_.in_flight, "an acceptor is destroyed after it landed");
  loop_.timers().disarm(pause_);
}

void Acceptor::start() { loop_.submit(accept_); }

void Acceptor::stop(void (*on_landed)(void*), void* context) {
  NATRP_CHECK(!stopping_, "an acceptor is stopped once");
  stopping_ = true;
  on_landed_ = on_landed;
  landed_context_ = context;
  if (accept_.in_flight) {
    loop_.cancel(accept_);
  } else {
    // Later, like any other landing: the caller may be one of our handlers.
    loop_.timers().arm(pause_, 0);
  }
}

// A waiter that is armed anew goes to the end of the listener's queue (add_wait_queue_exclusive).
void Acceptor::step_back() { loop_.cancel(accept_); }

void Acceptor::landed() {
  if (on_landed_ != nullptr) on_landed_(landed_context_);
}

void Acceptor::on_timer() {
  if (stopping_) return landed();
  loop_.submit(accept_);
}

void Acceptor::pause(Counter why) {
  counters_.add(why);
  loop_.timers().arm(pause_, kAcceptPauseMs);
}

void Acceptor::on_op(Op& op) {
  if (op.result >= 0) {
    if (stopping_ && on_landed_ == nullptr) {
      // Nobody is left to take it: a reset, as the kernel gives a closed backlog.
      loop_.close(op.result, CloseWith::kReset);
    } else {
      on_accept_(context_, op.result);
    }
  }
  if (op.in_flight) return;
  if (stopping_) return landed();
  if (op.result == -EMFILE || op.result == -ENFILE || op.result == -ENOBUFS || op.result == -ENOMEM) {
    // No descriptor left: trying again at once would burn the processor that could free some.
    return pause(Counter::kAcceptPauses);
  }
  // The control thread has shut the listener down to free its port at once; its stop() is on the way.
  if (op.result == -EINVAL || op.result == -EBADF) return;
  const bool may_go_on =
      op.result >= 0 || op.result == -ECANCELED || op.result == -EAGAIN || accept_may_go_on(-op.result);
  if (!may_go_on) {
    // Refused (EPERM, EACCES: a security module), and the connection still waits: it would be refused again at once.
    return pause(Counter::kAcceptsFailed);
  }
  // A multishot accept may end after any success or a visitor that left, and it may step back; it is armed again.
  loop_.submit(op);
}

}  // namespace natrp
