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
  io_uring_probe* probe = io_uring_get_probe_ring(&ring);
  if (probe == nullptr) return Error{"this kernel's io_uring is too old to be asked what it can do; use --io epoll"};
  constexpr int kNeeded[] = {IORING_OP_ACCEPT, IORING_OP_RECV, IORING_OP_SEND, IORING_OP_POLL_ADD,
                             IORING_OP_ASYNC_CANCEL};
  bool all = true;
  for (const int op : kNeeded) all = all && io_uring_opcode_supported(probe, op) != 0;
  io_uring_free_probe(probe);
  if (!all) return Error{"this kernel's io_uring lacks socket operations; use --io epoll"};
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
      Status opcodes = check_opcodes(ring);
      if (!opcodes.ok()) io_uring_queue_exit(&ring);
      return opcodes;
    }
    if (error != -EINVAL) break;
  }
  return explain(-error);
}

}  // namespace natrp
