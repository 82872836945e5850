// The connection table: find, claim + release, and what readers cost writers and writers cost a reader.
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

void find_a_conn_that_is_gone(benchmark::State& state) {
  natrp::ConnShard shard(0, kSlots);
  natrp::Conn* conn = shard.claim(7, {}, natrp::ConnRole::kVisitor, 0);
  const natrp::SlotId id = shard.id_of(*conn);
  shard.release(*conn);
  for (auto _ : state) benchmark::DoNotOptimize(shard.find(id));
}
BENCHMARK(find_a_conn_that_is_gone);

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

// A reader lists 1,000 conns in each of 8 shards while so many of their owners claim, count bytes and release. One
// item is one conn that was listed; the writers share the CPUs with the reader.
void scan_while_owners_write(benchmark::State& state) {
  constexpr size_t kShards = 8;
  constexpr int kLive = 1000;
  natrp::ConnTable table;
  const natrp::Address peer = natrp::Address::parse("127.0.0.1:1").value();
  std::vector<natrp::Conn*> first;  // of each shard
  for (size_t i = 0; i < kShards; ++i) {
    natrp::ConnShard& shard = table.add_shard(kSlots);
    for (int fd = 0; fd < kLive; ++fd) {
      natrp::Conn* conn = shard.claim(fd, peer, natrp::ConnRole::kVisitor, 1);
      if (fd == 0) first.push_back(conn);
    }
  }
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> writes{0};
  std::vector<std::thread> owners;
  for (size_t i = 0; i < static_cast<size_t>(state.range(0)); ++i) {
    owners.emplace_back([&, i] {
      natrp::ConnShard& shard = table.shard(i);
      uint64_t done = 0;
      for (; !stop.load(std::memory_order_relaxed); ++done) {
        natrp::Conn* conn = shard.claim(7, peer, natrp::ConnRole::kVisitor, 1);
        first[i]->bytes_received.fetch_add(64, std::memory_order_relaxed);
        shard.release(*conn);
      }
      writes += done;
    });
  }
  uint64_t listed = 0;
  for (auto _ : state) {
    uint64_t bytes = 0;
    table.for_each([&](const natrp::ConnView& view) {
      bytes += view.bytes_received;
      ++listed;
    });
    benchmark::DoNotOptimize(bytes);
  }
  stop = true;
  for (auto& owner : owners) owner.join();
  state.SetItemsProcessed(static_cast<int64_t>(listed));
  state.counters["writes"] = benchmark::Counter(static_cast<double>(writes), benchmark::Counter::kIsRate);
}
BENCHMARK(scan_while_owners_write)->Arg(0)->Arg(1)->Arg(8)->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
