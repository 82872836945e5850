// runtime/process.h
//
// The life of the process: signals as events of a loop, the descriptor limit, systemd's notification socket.
//
// Thread   main, before any other thread starts (block_signals, raise_descriptor_limit), and the control loop.
#pragma once

#include <cstdint>

#include "base/fd.h"
#include "loop/loop.h"

namespace natrp {

// Blocks SIGTERM, SIGINT and SIGHUP in this thread and all that it starts, and ignores SIGPIPE (a splice into a
// closed socket raises it; there is no MSG_NOSIGNAL for splice). Call first in main.
void block_signals();

// Raises RLIMIT_NOFILE to its hard limit and returns it.
uint64_t raise_descriptor_limit();

// How many conns the descriptors are enough for: one each, less what the process itself needs.
uint32_t conns_for_descriptors(uint64_t descriptors, unsigned workers);

// sd_notify(3) without the library: "READY=1", "STOPPING=1", "STATUS=…". Does nothing outside systemd.
void notify_systemd(const char* state);

// Delivers SIGTERM and SIGINT in the loop's thread. fd of the signalfd is owned.
class SignalWatch {
 public:
  using OnSignal = void (*)(void* context, int signal);
  SignalWatch(Loop& loop, OnSignal on_signal, void* context);
  ~SignalWatch();

 private:
  static void on_op(Op& op);
  struct WatchOp {
    Op op;
    SignalWatch* self;
  } watch_;
  Loop& loop_;
  OnSignal on_signal_;
  void* context_;
  Fd fd_;
};

}  // namespace natrp
