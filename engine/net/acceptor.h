// net/acceptor.h
//
// Acceptor: takes conns from a listening descriptor that all workers share; the kernel wakes one of them.
//
// Life     idle ──start──▶ accepting ──refused, EMFILE──▶ paused (100 ms) ──▶ accepting ──stop──▶ stopping ──▶ landed
// Thread   its worker's.
// Never    owns the listener or what it accepted: on_accept's receiver owns each descriptor.
#pragma once

#include "base/counters.h"
#include "loop/loop.h"
#include "loop/owned.h"

namespace natrp {

class Acceptor {
 public:
  // on_accept(context, fd): fd is non-blocking and belongs to the receiver.
  using OnAccept = void (*)(void* context, int fd);
  Acceptor(Loop& loop, Counters& counters, int listener_fd, OnAccept on_accept, void* context);
  ~Acceptor();
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  void start();
  // on_landed(context) runs when no op is in flight: the acceptor may be destroyed then, inside it too. Until then
  // on_accept may still be called; without an on_landed, never again.
  void stop(void (*on_landed)(void* context), void* context);
  bool stopping() const { return stopping_; }
  // Goes behind the other workers that wait at this listener: the kernel wakes the first of them, which would always be
  // the same one.
  void step_back();

 private:
  void on_op(Op& op);
  void pause(Counter why);
  void on_timer();
  void landed();

  OwnedOp<&Acceptor::on_op> accept_{*this};
  OwnedTimer<&Acceptor::on_timer> pause_{*this};
  Loop& loop_;
  Counters& counters_;
  OnAccept on_accept_;
  void* context_;
  void (*on_landed_)(void*) = nullptr;
  void* landed_context_ = nullptr;
  bool stopping_ = false;
};

}  // namespace natrp
