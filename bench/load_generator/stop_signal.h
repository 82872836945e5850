#pragma once
// How a bench tool is told to stop: SIGTERM and SIGINT, as a descriptor that becomes readable.

#include <signal.h>
#include <sys/signalfd.h>

#include "sockets.h"

namespace natrp::bench {

// Blocks both signals in the calling thread: call it before there are others, which inherit that.
inline Fd watch_stop_signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
    return Fd(::signalfd(-1, &set, SFD_CLOEXEC));
}

}  // namespace natrp::bench
