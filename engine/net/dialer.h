// net/dialer.h
//
// Dial: one attempt to connect, with a deadline. Tries each address in turn, as ssh does, and gives each its share of
// the time that is left, so that a silent one does not keep the others from being tried.
//
// Life     idle ──start──▶ connecting ──▶ on_done(fd, 0) or on_done(-1, errno)  → idle
// Thread   its loop's. The addresses are copied in: they live until the end.
// Owns     the descriptor until on_done hands it over.
// Never    hands over a socket that is connected to itself: nobody listens there, so it counts as refused.
#pragma once

#include <vector>

#include "base/fd.h"
#include "loop/loop.h"
#include "loop/owned.h"
#include "net/address.h"
#include "net/socket.h"

namespace natrp {

class Dial {
 public:
  // fd ≥ 0 belongs to the receiver: connected; error is then 0, or ECONNRESET when the peer has reset it already (what
  // it sent before can still be read). Else error is the errno of the last address. The Dial may be reused or destroyed
  // inside the call.
  using OnDone = void (*)(void* context, int fd, int error);
  Dial(Loop& loop, OnDone on_done, void* context);
  ~Dial();
  Dial(const Dial&) = delete;
  Dial& operator=(const Dial&) = delete;

  // on_done never runs inside start().
  void start(const std::vector<Address>& addresses, uint32_t timeout_ms, const SocketOptions& options);
  // on_done still runs, with ECANCELED, or with what was faster: a connection, the last address's error, the deadline.
  void cancel();
  bool running() const { return running_; }

 private:
  void on_op(Op& op);
  void on_timer();
  bool try_next();
  void arm_deadline();
  void failed(int error);
  void finish(int fd, int error);

  OwnedOp<&Dial::on_op> poll_{*this};
  OwnedTimer<&Dial::on_timer> deadline_{*this};
  Loop& loop_;
  OnDone on_done_;
  void* context_;
  std::vector<Address> addresses_;  // keeps its capacity: a Dial that is used again does not allocate
  size_t next_ = 0;
  uint64_t give_up_ms_ = 0;
  Fd fd_;
  SocketOptions options_;
  int last_error_ = 0;
  bool running_ = false;
  bool cancelled_ = false;
  bool late_ = false;
};

}  // namespace natrp
