#include "runtime/wake_policy.h"

#include <sched.h>

namespace natrp {

void WakePolicy::end_period(uint64_t turn_ms) {
  const uint64_t bytes = counters_.get(Counter::kBytesUp) + counters_.get(Counter::kBytesDown);
  const uint64_t spliced = counters_.get(Counter::kBytesSpliced);
  const uint64_t visitors = counters_.get(Counter::kVisitors);
  const uint64_t moved = bytes - bytes_;
  // A period may have lasted long, with an idle worker in it: what counts is how much it moved in its time.
  const uint64_t lasted_ms = turn_ms - period_began_ms_;
  const bool only_bulk = moved == spliced - spliced_ && visitors == visitors_ &&
                         moved / kBulkPeriodBytes >= lasted_ms / kBulkPeriodMs;
  bytes_ = bytes;
  spliced_ = spliced;
  visitors_ = visitors;
  period_began_ms_ = turn_ms;
  bulk_periods_ = only_bulk ? bulk_periods_ + 1 : 0;
  const bool wanted = bulk_periods_ >= kBulkPeriods;
  if (wanted != bulk_ && !refused_) set(wanted);
}

void WakePolicy::set(bool bulk) {
  if (set_bulk_(bulk)) {
    bulk_ = bulk;
  } else {
    refused_ = true;  // by a sandbox: once is enough
  }
}

bool set_thread_bulk(bool bulk) {
  const sched_param none{};
  return sched_setscheduler(0, bulk ? SCHED_BATCH : SCHED_OTHER, &none) == 0;
}

bool thread_is_ordinary() { return sched_getscheduler(0) == SCHED_OTHER; }

}  // namespace natrp
