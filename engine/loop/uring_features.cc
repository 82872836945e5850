#include "loop/uring_features.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace natrp {
namespace {

// Which sysctl or filter is behind a refused io_uring_setup: the operator's first question.
Error explain(int errno_value) {
  if (errno_value == ENOSYS) {
    return {"io_uring is not in this kernel (or a container hides it); use --io epoll", ENOSYS};
  }
  if (errno_value == EPERM || errno_value == EACCES) {
    char value = '0';
    if (std::FILE* file = std::fopen("/proc/sys/kernel/io_uring_disabled", "re")) {
      if (std::fread(&value, 1, 1, file) != 1) value = '0';
      std::fclose(file);
    }
    if (value != '0') {
      return {"io_uring is switched off by the sysctl kernel.io_uring_disabled; set it to 0, or use --io epoll",
              errno_value};
    }
    return {"io_uring is forbidden here, probably by a container's seccomp profile (Docker's default since 25.0); "
            "allow io_uring_setup, io_uring_enter and io_uring_register, or use --io epoll",
            errno_value};
  }
  if (errno_value == ENOMEM) {
    return {"io_uring got no memory; raise RLIMIT_MEMLOCK (kernels before 5.12 count rings on it), or use --io epoll",
            errno_value};
  }
  return Error::from_errno("io_uring cannot be set up", errno_value);
}

Status check_opcodes(io_uring& ring) {
  constexpr unsigned kOpsAsked = 256;
  alignas(io_uring_probe) char room[sizeof(io_uring_probe) + kOpsAsked * sizeof(io_uring_probe_op)] = {};
  auto* probe = reinterpret_cast<io_uring_probe*>(room);
  const int asked = io_uring_register_probe(&ring, probe, kOpsAsked);
  if (asked == -EINVAL) return Error{"this kernel's io_uring is too old to be asked what it can do; use --io epoll"};
  if (asked < 0) return explain(-asked);
  for (const int op : {IORING_OP_ACCEPT, IORING_OP_RECV, IORING_OP_SEND, IORING_OP_POLL_ADD, IORING_OP_ASYNC_CANCEL}) {
    if (io_uring_opcode_supported(probe, op) == 0) {
      return Error{"this kernel's io_uring lacks socket operations; use --io epoll"};
    }
  }
  return Done{};
}

// One op through it. A seccomp profile may allow io_uring_setup, and refuse io_uring_enter: a loop could do nothing but
// ask for ever.
Status try_ring(io_uring& ring) {
  io_uring_prep_nop(io_uring_get_sqe(&ring));
  const int submitted = io_uring_submit_and_wait(&ring, 1);
  if (submitted < 0) return explain(-submitted);
  io_uring_cqe* cqe = nullptr;
  if (io_uring_peek_cqe(&ring, &cqe) != 0) return Error{"this kernel's io_uring completes nothing; use --io epoll"};
  io_uring_cqe_seen(&ring, cqe);
  return Done{};
}

}  // namespace

Status setup_ring(io_uring& ring, const UringSetup& setup) {
  // SINGLE_ISSUER   only this thread submits: the kernel drops a lock.
  // DEFER_TASKRUN   completions run when we ask for events, not on any return to user mode: they come in batches and
  //                 never interrupt a splice. The price: nothing completes unless we wait with GETEVENTS, as we do.
  // TASKRUN_FLAG    a word in memory says that we should: it can be looked at without a call (loop/brief_wait).
  // COOP_TASKRUN    where DEFER_TASKRUN is refused (before 6.1): no interrupt of a running thread by a completion.
  // SUBMIT_ALL      one bad SQE does not hold back those behind it.
  // Each kernel refuses what it does not know with EINVAL: drop the newest and ask again.
  constexpr unsigned kCommon = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE;
  constexpr unsigned kAttempts[] = {
      IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG | kCommon,
      IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | kCommon,
      IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | kCommon,
      IORING_SETUP_CQSIZE,
  };
  int error = -EINVAL;
  for (const unsigned flags : kAttempts) {
    io_uring_params params;
    std::memset(&params, 0, sizeof params);
    params.flags = flags;
    params.cq_entries = setup.cq_entries;
    error = io_uring_queue_init_params(setup.sq_entries, &ring, &params);
    if (error == 0) {
      const unsigned needed = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_FAST_POLL;
      if ((params.features & needed) != needed) {
        io_uring_queue_exit(&ring);
        return Error{"this kernel's io_uring is too old (it may drop completions); use --io epoll"};
      }
      Status works = check_opcodes(ring);
      if (works.ok()) works = try_ring(ring);
      if (!works.ok()) io_uring_queue_exit(&ring);
      return works;
    }
    if (error != -EINVAL) break;
  }
  return explain(-error);
}

}  // namespace natrp
