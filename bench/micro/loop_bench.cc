// What a thread does between two system calls: timers and letters.
#include <benchmark/benchmark.h>

#include <atomic>
#include <thread>
#include <vector>

#include "loop/loop.h"
#include "loop/mailbox.h"
#include "loop/timer_wheel.h"

namespace {

void arm_and_disarm_a_timer(benchmark::State& state) {
  natrp::TimerWheel wheel;
  wheel.start_at(0);
  std::vector<natrp::Timer> timers(1024);
  for (auto& timer : timers) {
    timer.handler = [](natrp::Timer&) {};
    wheel.arm(timer, 5000);
  }
  size_t at = 0;
  for (auto _ : state) {
    wheel.arm(timers[at], 5000);
    at = (at + 1) & 1023;
  }
  for (auto& timer : timers) wheel.disarm(timer);
}
BENCHMARK(arm_and_disarm_a_timer);

void fire_a_thousand_timers(benchmark::State& state) {
  natrp::TimerWheel wheel;
  uint64_t now = 0;
  wheel.start_at(now);
  std::vector<natrp::Timer> timers(1000);
  for (auto& timer : timers) timer.handler = [](natrp::Timer&) {};
  for (auto _ : state) {
    for (auto& timer : timers) wheel.arm(timer, 100);
    now += 200;
    wheel.advance(now);
  }
  state.SetItemsProcessed(state.iterations() * 1000);
}
BENCHMARK(fire_a_thousand_timers);

void post_and_deliver_a_letter(benchmark::State& state) {
  auto made = natrp::make_loop(natrp::IoKind::kEpoll);
  natrp::Mailbox mailbox(*made.value().loop);
  uint64_t sum = 0;
  for (auto _ : state) {
    mailbox.post([&sum] { ++sum; });
    mailbox.deliver();
  }
  benchmark::DoNotOptimize(sum);
}
BENCHMARK(post_and_deliver_a_letter);

// A letter there and a letter back between two threads that both sleep in their loops: two hand-overs.
void a_letter_there_and_back(benchmark::State& state) {
  auto here = natrp::make_loop(natrp::IoKind::kAuto);
  natrp::Mailbox home(*here.value().loop);
  std::atomic<natrp::Mailbox*> there{nullptr};
  bool stop = false;
  std::thread other([&] {
    auto loop = natrp::make_loop(natrp::IoKind::kAuto);
    natrp::Mailbox mailbox(*loop.value().loop);
    there = &mailbox;
    while (!stop) loop.value().loop->run_once(-1);
  });
  while (there.load() == nullptr) std::this_thread::yield();
  for (auto _ : state) {
    bool back = false;
    there.load()->post([&home, &back] { home.post([&back] { back = true; }); });
    while (!back) here.value().loop->run_once(-1);
  }
  there.load()->post([&stop] { stop = true; });
  other.join();
}
BENCHMARK(a_letter_there_and_back)->UseRealTime();

// Many threads post to one owner, as workers do to the control thread. One item is one letter, made, handed over, run
// and freed; the posts of a burst that find the box filled wake nobody.
void letters_of_many_threads(benchmark::State& state) {
  constexpr uint64_t kBurst = 64;
  const auto senders = static_cast<size_t>(state.range(0));
  auto here = natrp::make_loop(natrp::IoKind::kAuto);
  natrp::Mailbox box(*here.value().loop);
  std::atomic<uint64_t> turn{0};
  std::atomic<bool> stop{false};
  uint64_t delivered = 0;  // the owner's
  std::vector<std::thread> threads;
  for (size_t i = 0; i < senders; ++i) {
    threads.emplace_back([&] {
      for (uint64_t seen = 0; !stop.load();) {
        const uint64_t now = turn.load();
        if (now == seen) {
          turn.wait(now);
          continue;
        }
        seen = now;
        for (uint64_t letter = 0; letter < kBurst; ++letter) box.post([&delivered] { ++delivered; });
      }
    });
  }
  uint64_t expected = 0;
  for (auto _ : state) {
    expected += kBurst * senders;
    ++turn;
    turn.notify_all();
    while (delivered < expected) here.value().loop->run_once(-1);
  }
  stop = true;
  ++turn;
  turn.notify_all();
  for (auto& thread : threads) thread.join();
  box.deliver();
  state.SetItemsProcessed(static_cast<int64_t>(expected));
}
BENCHMARK(letters_of_many_threads)->Arg(1)->Arg(8)->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
