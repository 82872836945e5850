// The connection table: find, claim + release, and what a reader that scans the shard costs its owner.
#include <benchmark/benchmark.h>

#include <atomic>
#include <thread>
#include <vector>

#include "net/conn_table.h"

namespace {

constexpr uint32_t kSlots = 1u << 16;

void find_a_live_conn(benchmark::State& state) {
  natrp::ConnShard shard(0, kSlots);
  std::vector<natrp::SlotId> ids;
  for (uint32_t i = 0; i < 4096; ++i) {
    ids.push_back(shard.id_of(*shard.claim(static_cast<int>(i), {}, natrp::ConnRole::kVisitor, 0)));
  }
  size_t at = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(shard.find(ids[at]));
    at = (at + 1021) & 4095;
  }
}
BENCHMARK(find_a_live_conn);

void claim_and_release(benchmark::State& state) {
  natrp::ConnShard shard(0, kSlots);
  const natrp::Address peer = natrp::Address::parse("127.0.0.1:1").value();
  for (auto _ : state) {
    natrp::Conn* conn = shard.claim(7, peer, natrp::ConnRole::kVisitor, 1);
    benchmark::DoNotOptimize(conn);
    shard.release(*conn);
  }
}
BENCHMARK(claim_and_release);

void claim_and_release_while_others_scan(benchmark::State& state) {
  natrp::ConnTable table;
  natrp::ConnShard& shard = table.add_shard(kSlots);
  const natrp::Address peer = natrp::Address::parse("127.0.0.1:1").value();
  for (int i = 0; i < 1000; ++i) shard.claim(i, peer, natrp::ConnRole::kVisitor, 1);
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  for (int64_t i = 0; i < state.range(0); ++i) {
    readers.emplace_back([&] {
      while (!stop.load(std::memory_order_relaxed)) {
        uint64_t bytes = 0;
        table.for_each([&](const natrp::ConnView& view) { bytes += view.bytes_received; });
        benchmark::DoNotOptimize(bytes);
      }
    });
  }
  for (auto _ : state) {
    natrp::Conn* conn = shard.claim(7, peer, natrp::ConnRole::kVisitor, 1);
    benchmark::DoNotOptimize(conn);
    shard.release(*conn);
  }
  stop = true;
  for (auto& reader : readers) reader.join();
}
BENCHMARK(claim_and_release_while_others_scan)->Arg(1)->Arg(8);

}  // namespace

BENCHMARK_MAIN();
