// base/clock.h
//
// The only clock of the engine: CLOCK_MONOTONIC. Wall-clock steps and suspend never move a deadline.
#pragma once

#include <cstdint>
#include <ctime>

namespace natrp {

inline uint64_t now_ns() {
  timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<uint64_t>(ts.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(ts.tv_nsec);
}

inline uint64_t now_ms() { return now_ns() / 1'000'000u; }

}  // namespace natrp
