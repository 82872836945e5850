// loop/timer_wheel.h
//
// TimerWheel: deadlines of one thread, in milliseconds. Two levels: 256 ticks of 4 ms (about a second), then 256
// slots of about a second each; later ones wait in the last slot and are looked at again. Arming, disarming and
// firing are O(1); a timer fires at its deadline or up to 4 ms later, or behind a turn that takes longer, never before.
//
// Thread   its loop's. A Timer is a member of the object it serves, which disarms it before it goes.
#pragma once

#include <array>
#include <cstdint>

#include "base/list.h"

namespace natrp {

struct Timer {
  ListLink link;
  uint64_t deadline_ms = 0;
  void (*handler)(Timer&) = nullptr;
  bool armed() const { return link.linked(); }
};

class TimerWheel {
 public:
  static constexpr uint64_t kTickMs = 4;

  void start_at(uint64_t now_ms);
  // A new turn began: delays count from here. Fires nothing; without it a timer armed by the first handler after a
  // long sleep would count from before the sleep, and be due at once.
  void begin_turn(uint64_t now_ms);
  // Arms timer (again, if it was armed) to fire in delay_ms from the wheel's time.
  void arm(Timer& timer, uint64_t delay_ms);
  void disarm(Timer& timer);
  // Fires what is due. A handler may arm or disarm any timer.
  void advance(uint64_t now_ms);
  // Milliseconds until something may be due: an upper bound on how long to sleep; -1 when no timer is armed.
  int next_timeout_ms(uint64_t now_ms) const;
  unsigned armed() const { return armed_; }

 private:
  static constexpr unsigned kSlots = 256;
  using Slot = List<Timer, &Timer::link>;
  void place(Timer& timer);
  void fire_slot(Slot& slot);
  void cascade();

  std::array<Slot, kSlots> near_;
  std::array<Slot, kSlots> far_;
  uint64_t now_ms_ = 0;
  uint64_t tick_ = 0;  // the next tick to fire
  unsigned armed_ = 0;
};

}  // namespace natrp
