// runtime/process.h
//
// The life of the process: signals as events of a loop, the limits that it was started with, systemd's notification
// socket.
//
// Thread   block_signals, check_process_limits, reserve_descriptors: main, before any other thread starts.
//          raise_descriptor_limit and the arithmetic of descriptors: any; each worker asks for its share of pipes.
//          The rest: the control thread.
#pragma once

#include <cstdint>

#include "base/fd.h"
#include "base/result.h"
#include "loop/loop.h"
#include "loop/owned.h"

namespace natrp {

// Blocks SIGTERM, SIGINT, SIGUSR1, SIGUSR2 and SIGHUP in this thread and all that it starts, and ignores SIGPIPE (a
// splice into a closed socket raises it; there is no MSG_NOSIGNAL for splice) and, in a child that has it not blocked,
// SIGHUP. Called when the options are there, whose files may be pipes that never end: until then SIGTERM ends the
// process. (What a service manager or a predecessor had blocked stays so.)
void block_signals();

// Raises RLIMIT_NOFILE to its hard limit and returns it.
uint64_t raise_descriptor_limit();

// Whether a daemon with this many workers can work with what the process was given: descriptors (their limit is raised
// first, and a warning in the log says when they are few) and address space.
Status check_process_limits(unsigned workers);

// Makes the kernel's table of this process's descriptors as large as they may become, kDescriptorsReserved at most. It
// starts with 64 places, doubles and never shrinks. In a process of several threads each doubling waits for an RCU
// grace period (expand_fdtable in the kernel's fs/file.c), and the worker that accepts, dials or makes a pipe stands
// still with all its visitors: for 8 to 20 ms, three times in the first burst of 256.
void reserve_descriptors();

// How the descriptors of the process are shared out. These parts, and what the process itself needs, are together no
// more than there are: a worker whose table of conns is full refuses a visitor before accept(2) fails with EMFILE. The
// listeners of leases, another eighth at most, are not counted in: where they and the sessions are as many as they may
// be, accept may fail, and pauses.
uint64_t session_descriptors(uint64_t descriptors);                            // control channels of all sessions
uint32_t conns_for_descriptors(uint64_t descriptors, unsigned workers);        // conns of each worker, one each
unsigned pipes_for_descriptors(uint64_t descriptors, unsigned workers);        // pipes of each worker, two each

// A service manager listens to notify_systemd().
bool is_managed();
// sd_notify(3) without the library: "READY=1", "STOPPING=1", "STATUS=…". Does nothing outside systemd.
void notify_systemd(const char* state);

// The signals that block_signals() blocks, as a descriptor for a SignalWatch.
Result<Fd> open_signals();

// Delivers the signals that block_signals() blocks in the loop's thread. Without a service manager, SIGTERM and SIGINT
// that come within 100 ms are one. signals: of open_signals().
class SignalWatch {
 public:
  using OnSignal = void (*)(void* context, int signal);
  SignalWatch(Loop& loop, Fd signals, OnSignal on_signal, void* context);
  ~SignalWatch();

 private:
  void on_op(Op& op);

  OwnedOp<&SignalWatch::on_op> watch_{*this};
  Loop& loop_;
  uint64_t stops_again_ms_ = 0;  // until then a signal to stop is part of the last one
  OnSignal on_signal_;
  void* context_;
  Fd fd_;
};

}  // namespace natrp
