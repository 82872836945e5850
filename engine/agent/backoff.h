// agent/backoff.h
//
// Backoff: how long an agent waits before it tries again to have a session, and which of its attempts the log hears of.
// Full jitter (a random part of a time that doubles): a thousand agents of one edge do not come in the same second.
//
// Thread   its owner's.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <random>
#include <string>

#include "base/limits.h"

namespace natrp {

class Backoff {
 public:
  enum class Cause : uint8_t {
    kNobodyThere,  // no connection: trying costs the edge nothing, and visitors wait for it to be back
    kTurnedAway,   // the edge is there, and has too much to do, or does not want us
  };

  explicit Backoff(uint32_t seed) : random_(seed) {}
  // All is well: the next wait is a short one.
  void reset() { within_ms_ = 0; }
  // There is a session: what ends it is news.
  void succeeded() {
    why_.clear();
    in_a_row_ = 0;
  }
  // After one more attempt that failed: ms until the next.
  uint32_t next_ms(Cause cause) {
    const uint32_t most = cause == Cause::kNobodyThere ? kBackoffNobodyThereMaxMs : kBackoffMaxMs;
    within_ms_ = within_ms_ == 0 ? kBackoffFirstMs : std::min(within_ms_ * 2, most);
    return std::uniform_int_distribution<uint32_t>(0, within_ms_)(random_);
  }
  // Whether the log is to have it: the first of its kind, and then the 2nd, 4th, 8th … in a row.
  bool is_news(const std::string& why) {
    in_a_row_ = why == why_ ? in_a_row_ + 1 : 1;
    why_ = why;
    return std::has_single_bit(in_a_row_);
  }
  uint32_t in_a_row() const { return in_a_row_; }

 private:
  std::minstd_rand random_;
  uint32_t within_ms_ = 0;
  std::string why_;  // the last attempt failed
  uint32_t in_a_row_ = 0;
};

}  // namespace natrp
