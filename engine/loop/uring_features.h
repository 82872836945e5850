// loop/uring_features.h
//
// What this kernel's io_uring can do, found by asking it: opcodes by probe, set-up flags by trying and dropping the
// refused one. Never by comparing versions: vendors backport, and containers forbid.
//
// Also the one private place for constants newer than Debian 12's liburing 2.3 (the kernel's ABI is stable).
#pragma once

#include <liburing.h>

#include "base/result.h"

// In linux/io_uring.h since 6.1: Debian 12's copy has it, older distributions' may not.
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif

namespace natrp {

struct UringSetup {
  unsigned sq_entries;
  unsigned cq_entries;
};

// Sets up ring for the calling thread with the best flags the kernel takes, and checks that every opcode we use
// exists. On failure the sentence names the probable cause and the remedy; ring is not initialised then.
Status setup_ring(io_uring& ring, const UringSetup& setup);

}  // namespace natrp
