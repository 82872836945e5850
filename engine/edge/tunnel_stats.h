// edge/tunnel_stats.h
//
// TunnelStats: the visitors and the bytes of one tunnel, from its lease on.
//
// Life     made with the tunnel's lease (of an original natrp's client: with the client), gone when the last worker has
//          no port and no visitor of it any more.
// Thread   a Place is written by its worker only, when a visitor comes and when it is over; any thread reads.
// Memory   a cache line for each worker; nothing for a visitor.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "control/status_info.h"

namespace natrp {

struct TunnelStats {
  explicit TunnelStats(size_t workers) : places(workers) {}

  struct alignas(64) Place {
    std::atomic<uint64_t> visitors{0};  // that came
    std::atomic<uint64_t> refused{0};   // of these
    std::atomic<uint64_t> over{0};      // likewise, whatever became of them
    std::atomic<uint64_t> bytes_up{0};  // of those that are over
    std::atomic<uint64_t> bytes_down{0};

    // Release: who sees what a visitor has added sees that its conns are gone, and does not count them again
    // (admin/live_bytes).
    static void add(std::atomic<uint64_t>& cell, uint64_t amount) {
      cell.store(cell.load(std::memory_order_relaxed) + amount, std::memory_order_release);
    }
  };
  std::vector<Place> places;  // one for each worker

  // Over all workers, without the bytes of visitors that are still there.
  TunnelCounts sum() const {
    TunnelCounts counts;
    uint64_t over = 0;
    // First those that are over: no visitor is over that has not come, in whichever worker.
    for (const Place& place : places) over += place.over.load(std::memory_order_acquire);
    for (const Place& place : places) {
      counts.visitors_total += place.visitors.load(std::memory_order_acquire);
      counts.visitors_refused += place.refused.load(std::memory_order_acquire);
      counts.bytes_up += place.bytes_up.load(std::memory_order_acquire);
      counts.bytes_down += place.bytes_down.load(std::memory_order_acquire);
    }
    counts.visitors_live = counts.visitors_total - over;
    return counts;
  }
};

}  // namespace natrp
