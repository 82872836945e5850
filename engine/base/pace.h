// base/pace.h
//
// Pace: something may happen now, and not again before every_ms are over. What strangers can cause as often as they
// like (wrong tokens, visitors that are refused) is logged at a pace; the caller counts what came in between.
//
// Thread   one.
#pragma once

#include <cstdint>

namespace natrp {

// Between two lines of one kind.
inline constexpr uint64_t kLogPaceMs = 1000;

class Pace {
 public:
  explicit Pace(uint64_t every_ms) : every_ms_(every_ms) {}
  // True: it may, and this was the time. now_ms: of base/clock.h or a loop's turn, one of them always.
  bool due(uint64_t now_ms) {
    if (now_ms < again_ms_) return false;
    again_ms_ = now_ms + every_ms_;
    return true;
  }

 private:
  const uint64_t every_ms_;
  uint64_t again_ms_ = 0;
};

}  // namespace natrp
