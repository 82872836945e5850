// base/counters.h
//
// Counters: what happened in one worker, each under a sentence an operator can read. Every worker owns one set;
// the admin thread adds them up.
//
// Thread   written by the owning worker only, with plain relaxed stores (no locked instruction); read by any.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string_view>

namespace natrp {

enum class Counter : uint8_t {
  kVisitors,
  kVisitorsRefused,
  kVisitorsLeft,
  kBytesUp,
  kBytesDown,
  kBytesSpliced,
  kPromotions,
  kDemotions,
  kPumpStalls,
  kPipesExhausted,
  kBuffersExhausted,
  kBuffersReclaimed,
  kPeersSilent,
  kPairsFailed,
  kGarbageRefused,
  kHelloRefused,
  kHelloTimeouts,
  kStrangersDisplaced,
  kConnsRefused,
  kHandshakesRefused,
  kRendezvousTimeouts,
  kServiceFailures,
  kResetsCarried,
  kAcceptPauses,
  kAcceptsFailed,
  kChannelsOpened,
  kChannelsLost,
  kChannelsMoved,
  kChannelsReturned,
  kChannelsSurplus,
  kDialsFailed,
  kConnsLive,     // gauge
  kPairsLive,     // gauge
  kPipesOpen,     // gauge
  kChannelsReady, // gauge
  kCount
};

struct CounterInfo {
  std::string_view name;
  std::string_view sentence;
  bool gauge;
};

const CounterInfo& counter_info(Counter counter);

class alignas(64) Counters {
 public:
  void add(Counter counter, uint64_t amount = 1) {
    auto& cell = cells_[static_cast<size_t>(counter)];
    cell.store(cell.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
  void sub(Counter counter, uint64_t amount = 1) { add(counter, ~amount + 1); }
  void set(Counter counter, uint64_t value) {
    cells_[static_cast<size_t>(counter)].store(value, std::memory_order_relaxed);
  }
  uint64_t get(Counter counter) const { return cells_[static_cast<size_t>(counter)].load(std::memory_order_relaxed); }

 private:
  std::array<std::atomic<uint64_t>, static_cast<size_t>(Counter::kCount)> cells_{};
};

}  // namespace natrp
