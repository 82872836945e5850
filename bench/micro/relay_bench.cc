// The relay's pools: a pipe and a receive buffer, borrowed and given back warm; and a pipe made new, for comparison.
#include <benchmark/benchmark.h>

#include "loop/loop.h"
#include "relay/pipe_pool.h"

namespace {

void borrow_a_warm_pipe(benchmark::State& state) {
  natrp::Counters counters;
  natrp::PipePool pool(counters, 8, 1);
  for (auto _ : state) {
    const uint16_t pipe = pool.take();
    benchmark::DoNotOptimize(pipe);
    pool.give_back(pipe, false);
  }
}
BENCHMARK(borrow_a_warm_pipe);

// More pairs want one than there may be: each asks, is refused, and copies.
void ask_for_a_pipe_when_none_is_left(benchmark::State& state) {
  natrp::Counters counters;
  natrp::PipePool pool(counters, 1, 1);
  const uint16_t pipe = pool.take();
  for (auto _ : state) benchmark::DoNotOptimize(pool.take());
  pool.give_back(pipe, false);
}
BENCHMARK(ask_for_a_pipe_when_none_is_left);

void make_and_close_a_pipe(benchmark::State& state) {
  natrp::Counters counters;
  natrp::PipePool pool(counters, 8, 1);
  for (auto _ : state) pool.give_back(pool.take(), true);
}
BENCHMARK(make_and_close_a_pipe);

void borrow_a_buffer(benchmark::State& state) {
  auto made = natrp::make_loop(natrp::IoKind::kEpoll);
  natrp::BufRing& buffers = made.value().loop->buffers();
  for (auto _ : state) {
    uint16_t id = 0;
    benchmark::DoNotOptimize(buffers.take(id));
    buffers.release(id);
  }
}
BENCHMARK(borrow_a_buffer);

}  // namespace

BENCHMARK_MAIN();
