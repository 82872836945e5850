// runtime/wake_policy.h
//
// WakePolicy: how eager the kernel is to run a worker that has just become ready.
//
//     EAGER   SCHED_OTHER with a short slice: a wake-up takes the processor from whoever asked for a longer one and
//             has had its share. What messages want. The share is as before: who wakes often gets no more of it.
//     BULK    SCHED_BATCH with the system's slice: a wake-up waits for its turn. More bytes have come by then, so a
//             turn moves more of them.
//
// Life     eager, from its construction on
//          eager ──kBulkPeriods in which all that moved was spliced, and much──▶ bulk
//          bulk ──one period with a message, a visitor or little──▶ eager
// Thread   the worker's.
// Never    waits, ticks by itself (an idle worker sleeps), touches a thread that somebody gave another policy.
//
// Where every processor is busy, with service and visitors on the same host, BULK makes streams cost 20 to 30 % less
// processor time a byte; where one is idle, nothing changes. Beside messages it would cost them milliseconds: hence the
// periods. The short slice takes a third of the p99 of messages beside streams, and two thirds together with shorter
// turns of the streams (kBytesPerTurn); before Linux 6.12 the kernel ignores it.
#pragma once

#include <cstdint>

#include "base/counters.h"
#include "base/limits.h"

namespace natrp {

class WakePolicy {
 public:
  // Makes the calling thread BULK, or EAGER again. False: refused.
  using SetBulk = bool (*)(bool bulk);
  WakePolicy(const Counters& counters, SetBulk set_bulk) : counters_(counters), set_bulk_(set_bulk) { set(false); }

  void after_turn(uint64_t turn_ms) {
    if (turn_ms - period_began_ms_ >= kBulkPeriodMs) end_period(turn_ms);
  }
  bool bulk() const { return bulk_; }

 private:
  void end_period(uint64_t turn_ms);
  void set(bool bulk);

  const Counters& counters_;
  const SetBulk set_bulk_;
  uint64_t period_began_ms_ = 0;
  uint64_t bytes_ = 0;     // at the end of the last period
  uint64_t spliced_ = 0;
  uint64_t visitors_ = 0;
  unsigned bulk_periods_ = 0;
  bool bulk_ = false;
  bool refused_ = false;
};

// The real SetBulk. The thread must have SCHED_OTHER or SCHED_BATCH.
bool set_thread_bulk(bool bulk);
// Whether WakePolicy may touch the calling thread: not one that runs in real time or only when nobody else does.
bool thread_is_ordinary();

}  // namespace natrp
