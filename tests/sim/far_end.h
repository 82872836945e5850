// What the relay's simulations share: who speaks at the far end of a simulated socket and judges what it hears, and the
// run over thousands of seeds. NATRP_SIM_SEED=N replays one, NATRP_SIM_SEEDS=N sets how many are run.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "sim/sim_loop.h"

namespace natrp {

// A byte that says where it belongs: lost, doubled, reordered or somebody else's bytes all show.
inline char byte_at(uint64_t stream, uint64_t position) {
  return static_cast<char>(((position + 1) * 0x9e3779b97f4a7c15ull + stream * 0xbf58476d1ce4e5b9ull) >> 41);
}

// A visitor or a service.
struct FarEnd {
  SimLoop* loop = nullptr;
  int fd = -1;
  uint64_t speaks = 0;  // the streams
  uint64_t hears = 0;
  uint64_t total = 0;             // how much it says …
  uint64_t resets_after = ~0ull;  // … before it resets instead of ending
  bool resets_at_last = false;    // it resets after its end
  bool waits = false;             // it says nothing before it has heard the other's end
  size_t inbox_max = 0;
  size_t pace = 0;
  uint64_t said = 0;
  uint64_t heard = 0;
  bool ended = false;
  bool was_reset = false;
  std::string wrong;

  bool resets() const { return resets_after != ~0ull; }
  bool gone() const { return loop->socket(fd).far_reset; }
  bool over() const { return ended || was_reset || gone(); }
  std::string text() const {
    const SimSocket& at = loop->socket(fd);
    return "[said " + std::to_string(said) + "/" + std::to_string(total) + " heard " + std::to_string(heard) +
           (at.far_fin ? " fin" : "") + (at.far_reset ? " reset" : "") + (at.near_fin ? " heard-fin" : "") +
           (at.closed ? " closed" : "") + (at.closed_by_reset ? " by-reset" : "") + " inbox " +
           std::to_string(at.inbox.size()) + " outbox " + std::to_string(at.outbox.size()) + "]";
  }
  void turn() {
    SimSocket& at = loop->socket(fd);
    if (!at.closed && !at.far_reset) speak(at);
    if (at.far_reset) return;
    const size_t n = std::min(at.outbox.size(), static_cast<size_t>(loop->random(pace)));
    for (size_t i = 0; i < n; ++i) {
      if (at.outbox[i] != byte_at(hears, heard + i) && wrong.empty()) {
        wrong = "a wrong byte at " + std::to_string(heard + i);
      }
    }
    heard += n;
    at.outbox.erase(0, n);
    if (at.outbox.empty() && at.closed_by_reset) was_reset = true;
    if (at.outbox.empty() && !at.closed_by_reset && (at.near_fin || at.closed)) ended = true;
  }
  void speak(SimSocket& at) {
    if (at.far_fin) {
      if (resets_at_last && loop->random(20) == 0) at.far_reset = true;
      return;
    }
    if (waits && !ended && !was_reset) return;
    const uint64_t end = std::min(total, resets_after);
    uint64_t n = std::min<uint64_t>(end - said, loop->random(pace));
    while (n-- > 0 && at.inbox.size() < inbox_max) at.inbox.push_back(byte_at(speaks, said++));
    if (said < end || loop->random(3) != 0) return;
    (resets() ? at.far_reset : at.far_fin) = true;
  }
};

constexpr int kTurnsMax = 60'000;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr uint64_t kSeeds = 200;  // each maps and unmaps a worker's memory, which a sanitizer pays for dearly
#else
constexpr uint64_t kSeeds = 2000;
#endif

inline bool replays_one_seed() { return std::getenv("NATRP_SIM_SEED") != nullptr; }

// run_seed(seed): empty, or what was wrong.
template <typename RunSeed>
void expect_right_for_all_seeds(RunSeed run_seed) {
  const auto number_from = [](const char* name, uint64_t otherwise) -> uint64_t {
    const char* text = std::getenv(name);
    return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
  };
  const uint64_t first = number_from("NATRP_SIM_SEED", 1);
  const uint64_t count = replays_one_seed() ? 1 : number_from("NATRP_SIM_SEEDS", kSeeds);
  int failures = 0;
  for (uint64_t seed = first; seed < first + count && failures < 5; ++seed) {
    const std::string wrong = run_seed(seed);
    if (wrong.empty()) continue;
    ++failures;
    ADD_FAILURE() << "seed " << seed << ": " << wrong << "; replay it with NATRP_SIM_SEED=" << seed;
  }
}

}  // namespace natrp
