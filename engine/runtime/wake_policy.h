// runtime/wake_policy.h
//
// WakePolicy: how eager the kernel is to run a worker that has just become ready.
//
//     USUAL   SCHED_OTHER with the system's slice: a wake-up may take the processor from the thread that has it. What
//             messages want.
//     QUICK   The same with a short slice: a wake-up takes the processor sooner, from a thread that asked for a longer
//             slice and has had its share. What messages want beside streams: these move less at a time, one of them in
//             a turn of the loop and behind its messages (loop/patient_ops). The share of the processor stays the same;
//             but slices are shorter, and so is what one slice does at once.
//     BULK    SCHED_BATCH with the system's slice: a wake-up waits for its turn. More bytes have come by then, so a
//             turn moves more of them.
//
// Life     usual ──kMixedPeriods with much spliced, and a message or a visitor──▶ quick
//          usual, quick ──kBulkPeriods in which all that moved was spliced, and much──▶ bulk
//          quick ──one period with little spliced──▶ usual
//          bulk ──one period with a message, a visitor or little──▶ usual
// Thread   the worker's.
// Never    waits, ticks by itself (an idle worker sleeps), touches a thread that somebody gave another policy.
//
// Where every processor is busy, with service and visitors on the same host, BULK makes streams cost 20 to 30 % less
// processor time a byte; where one is idle, nothing changes. Beside messages it would cost them milliseconds: hence the
// periods. QUICK halves the p99 of messages beside streams; in it, streams alone would be preempted a third more often,
// and messages alone would come in smaller batches. Before Linux 6.12 the kernel ignores the slice.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/counters.h"
#include "base/limits.h"

namespace natrp {

enum class WakeMode : uint8_t { kUsual, kQuick, kBulk };

class WakePolicy {
 public:
  // Makes the calling thread so. False: refused.
  using SetMode = bool (*)(WakeMode mode);
  WakePolicy(const Counters& counters, SetMode set_mode) : counters_(counters), set_mode_(set_mode) {}

  void after_turn(uint64_t turn_ms) {
    if (turn_ms - period_began_ms_ >= kBulkPeriodMs) end_period(turn_ms);
  }
  WakeMode mode() const { return mode_; }
  // What a stream may move in a turn of this mode.
  size_t bytes_per_turn() const { return mode_ == WakeMode::kQuick ? kBytesPerTurnQuick : kBytesPerTurn; }

 private:
  void end_period(uint64_t turn_ms);

  const Counters& counters_;
  const SetMode set_mode_;
  uint64_t period_began_ms_ = 0;
  uint64_t bytes_ = 0;     // at the end of the last period
  uint64_t spliced_ = 0;
  uint64_t visitors_ = 0;
  unsigned bulk_periods_ = 0;
  unsigned mixed_periods_ = 0;
  WakeMode mode_ = WakeMode::kUsual;
  bool refused_ = false;
};

// The real SetMode. The thread must have SCHED_OTHER or SCHED_BATCH.
bool set_thread_mode(WakeMode mode);
// Whether WakePolicy may touch the calling thread: not one that runs in real time or only when nobody else does.
bool thread_is_ordinary();

}  // namespace natrp
