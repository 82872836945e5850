#include "runtime/wake_policy.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace natrp {
namespace {

// struct sched_attr of linux/sched/types.h, its first version: that header and glibc's <sched.h> exclude each other
// until Linux 6.2's headers.
struct SchedAttr {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime_ns;  // of SCHED_OTHER: the slice, since 6.12
  uint64_t deadline_ns;
  uint64_t period_ns;
};
static_assert(sizeof(SchedAttr) == 48, "SCHED_ATTR_SIZE_VER0");

// What is not said here (niceness, flags) stays as it is: the operator's.
// A slice of 0 is the system's.
bool set_policy_and_slice(uint32_t policy, uint64_t slice_ns) {
  SchedAttr attr{};
  if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) != 0) return false;
  attr.policy = policy;
  attr.runtime_ns = slice_ns;
  return syscall(SYS_sched_setattr, 0, &attr, 0) == 0;
}

}  // namespace

void WakePolicy::end_period(uint64_t turn_ms) {
  const uint64_t bytes = counters_.get(Counter::kBytesUp) + counters_.get(Counter::kBytesDown);
  const uint64_t spliced = counters_.get(Counter::kBytesSpliced);
  const uint64_t visitors = counters_.get(Counter::kVisitors);
  const uint64_t moved = bytes - bytes_;
  const uint64_t moved_spliced = spliced - spliced_;
  // A period may have lasted long, with an idle worker in it: what counts is how much it moved in its time.
  const uint64_t lasted_ms = turn_ms - period_began_ms_;
  const bool much = moved_spliced / kBulkPeriodBytes >= lasted_ms / kBulkPeriodMs;
  const bool only_bulk = much && moved == moved_spliced && visitors == visitors_;
  bytes_ = bytes;
  spliced_ = spliced;
  visitors_ = visitors;
  period_began_ms_ = turn_ms;
  bulk_periods_ = only_bulk ? bulk_periods_ + 1 : 0;
  // A stream's first bytes are copied, too: one such period shows no message yet. Between two messages may be periods
  // without any.
  if (!much || bulk_periods_ >= kBulkPeriods) {
    mixed_periods_ = 0;
  } else if (!only_bulk) {
    ++mixed_periods_;
  }
  const WakeMode wanted = bulk_periods_ >= kBulkPeriods     ? WakeMode::kBulk
                          : mixed_periods_ >= kMixedPeriods ? WakeMode::kQuick
                                                            : WakeMode::kUsual;
  if (wanted == mode_ || refused_) return;
  if (set_mode_(wanted)) {
    mode_ = wanted;
  } else {
    refused_ = true;  // by a sandbox: once is enough
  }
}

bool set_thread_mode(WakeMode mode) {
  const int policy = mode == WakeMode::kBulk ? SCHED_BATCH : SCHED_OTHER;
  if (set_policy_and_slice(static_cast<uint32_t>(policy), mode == WakeMode::kQuick ? kQuickSliceNs : 0)) return true;
  // Some sandboxes let the older call through and not the newer one. It leaves the slice as it is.
  const sched_param none{};
  return sched_setscheduler(0, policy, &none) == 0;
}

bool thread_is_ordinary() { return sched_getscheduler(0) == SCHED_OTHER; }

}  // namespace natrp
