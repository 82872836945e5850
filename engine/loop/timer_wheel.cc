#include "loop/timer_wheel.h"

namespace natrp {

void TimerWheel::start_at(uint64_t now_ms) {
  NATRP_CHECK(armed_ == 0, "the wheel's time is set before the first timer");
  now_ms_ = now_ms;
  tick_ = now_ms / kTickMs;
}

void TimerWheel::begin_turn(uint64_t now_ms) {
  if (armed_ == 0) return advance(now_ms);  // nothing is due: the ticks of the sleep are skipped, not walked
  if (now_ms > now_ms_) now_ms_ = now_ms;
}

void TimerWheel::place(Timer& timer) {
  // Rounded up, so that nothing fires early.
  uint64_t tick = (timer.deadline_ms + kTickMs - 1) / kTickMs;
  if (tick < tick_) tick = tick_;
  if (tick - tick_ < kSlots) {
    near_[tick % kSlots].push_back(timer);
    return;
  }
  uint64_t round = tick / kSlots;
  const uint64_t round_now = tick_ / kSlots;
  if (round - round_now >= kSlots) round = round_now + kSlots - 1;  // looked at again when that slot comes
  far_[round % kSlots].push_back(timer);
}

void TimerWheel::arm(Timer& timer, uint64_t delay_ms) {
  disarm(timer);
  timer.deadline_ms = now_ms_ + delay_ms;
  ++armed_;
  place(timer);
}

void TimerWheel::disarm(Timer& timer) {
  if (!timer.armed()) return;
  timer.link.unlink();
  --armed_;
}

void TimerWheel::fire_slot(Slot& slot) {
  // Taken out first: a handler may arm a timer into this very slot, for 256 ticks later.
  Slot due;
  while (Timer* timer = slot.pop_front()) due.push_back(*timer);
  while (Timer* timer = due.pop_front()) {
    --armed_;
    timer->handler(*timer);
  }
}

void TimerWheel::cascade() {
  Slot& slot = far_[(tick_ / kSlots) % kSlots];
  Slot moved;
  while (Timer* timer = slot.pop_front()) moved.push_back(*timer);
  while (Timer* timer = moved.pop_front()) place(*timer);
}

void TimerWheel::advance(uint64_t now_ms) {
  if (now_ms < now_ms_) return;
  const uint64_t last = now_ms / kTickMs;
  if (armed_ == 0) {
    now_ms_ = now_ms;
    tick_ = last + 1;
    if (tick_ % kSlots == 0) cascade();
    return;
  }
  while (tick_ <= last) {
    now_ms_ = now_ms;
    Slot& slot = near_[tick_ % kSlots];
    ++tick_;
    fire_slot(slot);
    // The far slot of a new round is spread before the round begins, and after the last slot of this one has fired:
    // the last tick of the new round goes into that very slot.
    if (tick_ % kSlots == 0) cascade();
  }
  now_ms_ = now_ms;
}

int TimerWheel::next_timeout_ms(uint64_t now_ms) const {
  if (armed_ == 0) return -1;
  for (unsigned i = 0; i < kSlots; ++i) {
    const uint64_t tick = tick_ + i;
    if (!near_[tick % kSlots].empty()) {
      const uint64_t at = tick * kTickMs;
      return at <= now_ms ? 0 : static_cast<int>(at - now_ms);
    }
    // A far slot may hold something due right after the next round begins: wake there and look.
    if (i > 0 && tick % kSlots == 0) {
      const uint64_t at = tick * kTickMs;
      return at <= now_ms ? 0 : static_cast<int>(at - now_ms);
    }
  }
  return static_cast<int>(kSlots * kTickMs);
}

}  // namespace natrp
