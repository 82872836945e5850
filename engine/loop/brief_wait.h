// loop/brief_wait.h
//
// BriefWait: whether a loop looks for a few µs more before it sleeps, because the answer to a message is near.
//
// An exchange through a tunnel is six wake-ups of sleeping threads, one behind the other, and each costs more than the
// work that it wakes for: the processor that it wakes has gone idle, on a virtual machine by leaving it. A loop that
// looks instead is there when the answer comes. Between two looks it yields the processor to whoever wants it.
//
//     tries ──nothing came in kBriefWaitNs──▶ passes over 1, 2, 4 … kBriefWaitPassedMax waits ──▶ tries
//       ▲ └──something came──▶ tries
//       └──after kBriefWaitRestMs, or longer── rests ◀──somebody else had the processor for kBriefWaitContendedNs
//
// It rests where other threads compute: by yielding, a thread loses its place before them; one that sleeps keeps it.
//
// Thread   its loop's.
// Memory   none.
// Never    looks where no message came since the loop last slept (an idle loop sleeps, and so does one that only
//          splices), where so many came that the next ones are there already, or with --brief-wait off.
#pragma once

#include <sched.h>

#include <algorithm>
#include <cstdint>

#include "base/clock.h"
#include "base/limits.h"

namespace natrp {

class BriefWait {
 public:
  void set(bool on) { on_ = on; }
  // Before the loop sleeps. False: let it. receives: how many receives into buffers there have been.
  bool is_worth_it(uint64_t turn_ms, uint64_t receives) {
    const uint64_t came = receives - receives_;
    receives_ = receives;
    if (!on_ || came == 0 || came > kBriefWaitReceivesMax || turn_ms < rests_until_ms_) return false;
    if (to_pass_over_ == 0) return true;
    --to_pass_over_;
    return false;
  }

  // True: has_come() was true in time. It is asked once at least.
  template <typename HasCome>
  bool wait(HasCome has_come) {
    const uint64_t began = now_ns();
    for (uint64_t now = began;;) {
      if (has_come()) {
        answered();
        return true;
      }
      sched_yield();
      const uint64_t looked = now;
      now = now_ns();
      if (now - looked >= kBriefWaitContendedNs) {
        contended(now / 1'000'000);
        return false;
      }
      if (now - began >= kBriefWaitNs) {
        unanswered();
        return false;
      }
    }
  }

  // What a wait has taught.
  void answered() { passed_over_ = 0; }
  void unanswered() {
    passed_over_ = std::clamp(passed_over_ * 2, 1u, kBriefWaitPassedMax);
    to_pass_over_ = passed_over_;
  }
  void contended(uint64_t now_ms) {
    // Another thread had the processor as soon as the last rest was over: a longer rest. Else it only came by.
    const bool again = now_ms - rests_until_ms_ < rest_ms_;
    rest_ms_ = again ? std::min(rest_ms_ * 2, kBriefWaitRestMaxMs) : kBriefWaitRestMs;
    rests_until_ms_ = now_ms + rest_ms_;
  }

 private:
  uint64_t receives_ = 0;      // until the loop last wanted to sleep
  unsigned passed_over_ = 0;   // after the last wait
  unsigned to_pass_over_ = 0;  // of these, still
  uint32_t rest_ms_ = 0;       // the last one
  uint64_t rests_until_ms_ = 0;
  bool on_ = false;
};

}  // namespace natrp
