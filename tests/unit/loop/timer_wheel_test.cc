#include "loop/timer_wheel.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace natrp {
namespace {

struct Alarm {
  Timer timer;  // first: the handler finds its alarm by a cast
  std::vector<uint64_t> fired_ms;
  const uint64_t* clock = nullptr;
  TimerWheel* wheel = nullptr;
  uint64_t again_ms = 0;    // armed again with this, when not 0
  Alarm* victim = nullptr;  // disarmed by the handler
  static void on_timer(Timer& timer) {
    auto& self = *reinterpret_cast<Alarm*>(&timer);
    self.fired_ms.push_back(*self.clock);
    if (self.victim != nullptr) self.wheel->disarm(self.victim->timer);
    if (self.again_ms != 0) self.wheel->arm(self.timer, self.again_ms);
  }
};

class TimerWheelTest : public testing::Test {
 protected:
  void SetUp() override { wheel.start_at(clock); }
  void attach(Alarm& alarm) {
    alarm.timer.handler = Alarm::on_timer;
    alarm.clock = &clock;
    alarm.wheel = &wheel;
  }
  void pass(uint64_t ms) {
    clock += ms;
    wheel.advance(clock);
  }
  uint64_t clock = 1'000'003;
  TimerWheel wheel;
};

TEST_F(TimerWheelTest, FiresAtItsDeadlineOrFourMillisecondsLaterAndNeverBefore) {
  // Every phase of a tick, and delays on both sides of every border between the levels.
  for (const uint64_t start : {1'000'000u, 1'000'001u, 1'000'002u, 1'000'003u, 1'023'996u, 1'023'999u}) {
    for (uint64_t delay : {0u, 1u, 3u, 4u, 5u, 1000u, 1019u, 1020u, 1023u, 1024u, 1025u, 2047u, 2048u, 5000u, 10000u}) {
      TimerWheel wheel;
      uint64_t clock = start;
      wheel.start_at(clock);
      Alarm alarm;
      alarm.timer.handler = Alarm::on_timer;
      alarm.clock = &clock;
      wheel.arm(alarm.timer, delay);
      while (alarm.fired_ms.empty() && clock < start + delay + 5000) wheel.advance(++clock);
      ASSERT_EQ(alarm.fired_ms.size(), 1u);
      EXPECT_GE(alarm.fired_ms[0], start + delay) << "start " << start << " delay " << delay;
      EXPECT_LE(alarm.fired_ms[0], start + delay + 5) << "start " << start << " delay " << delay;
    }
  }
}

TEST_F(TimerWheelTest, EveryDelayUpToFiveSecondsIsKeptFromEveryTick) {
  // One timer per delay, all at once: whatever slot or level holds it.
  std::vector<Alarm> alarms(5000);
  for (size_t i = 0; i < alarms.size(); ++i) {
    attach(alarms[i]);
    wheel.arm(alarms[i].timer, i);
  }
  EXPECT_EQ(wheel.armed(), alarms.size());
  const uint64_t start = clock;
  while (clock < start + 5100) pass(1);
  for (size_t i = 0; i < alarms.size(); ++i) {
    ASSERT_EQ(alarms[i].fired_ms.size(), 1u) << "delay " << i;
    EXPECT_GE(alarms[i].fired_ms[0], start + i) << "delay " << i;
    EXPECT_LE(alarms[i].fired_ms[0], start + i + 5) << "delay " << i;
  }
  EXPECT_EQ(wheel.armed(), 0u);
}

TEST_F(TimerWheelTest, RandomDelaysArmedAtRandomTimesFireInOrderOfTheirDeadlines) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    Alarm alarm;
    attach(alarm);
    // Something else is armed, so that the wheel does not jump.
    Alarm other;
    attach(other);
    other.again_ms = 100;
    wheel.arm(other.timer, 100);
    pass(random() % 3000);
    const uint64_t delay = random() % 20000;
    const uint64_t deadline = clock + delay;
    wheel.arm(alarm.timer, delay);
    while (alarm.fired_ms.empty() && clock < deadline + 100) pass(1 + random() % 9);
    ASSERT_EQ(alarm.fired_ms.size(), 1u);
    EXPECT_GE(alarm.fired_ms[0], deadline);
    EXPECT_LE(alarm.fired_ms[0], deadline + 14);
    wheel.disarm(other.timer);
  }
}

TEST_F(TimerWheelTest, ADeadlineDaysAwayIsKept) {
  Alarm alarm;
  attach(alarm);
  const uint64_t delay = 3 * 24 * 3600 * 1000ull;
  const uint64_t deadline = clock + delay;
  wheel.arm(alarm.timer, delay);
  while (clock + 500 < deadline) pass(499);
  EXPECT_TRUE(alarm.fired_ms.empty());
  while (alarm.fired_ms.empty() && clock < deadline + 10) pass(1);
  ASSERT_EQ(alarm.fired_ms.size(), 1u);
  EXPECT_GE(alarm.fired_ms[0], deadline);
}

TEST_F(TimerWheelTest, AStepOfTheClockOverManyRoundsFiresEverythingOnce) {
  std::vector<Alarm> alarms(100);
  for (size_t i = 0; i < alarms.size(); ++i) {
    attach(alarms[i]);
    wheel.arm(alarms[i].timer, i * 977);
  }
  pass(500'000);
  for (const Alarm& alarm : alarms) EXPECT_EQ(alarm.fired_ms.size(), 1u);
}

TEST_F(TimerWheelTest, ATimerMayBeArmedAgainInItsOwnHandler) {
  Alarm alarm;
  attach(alarm);
  alarm.again_ms = 10;
  wheel.arm(alarm.timer, 10);
  for (int i = 0; i < 1000; ++i) pass(1);
  EXPECT_GE(alarm.fired_ms.size(), 1000u / 16);
  for (size_t i = 1; i < alarm.fired_ms.size(); ++i) EXPECT_GE(alarm.fired_ms[i] - alarm.fired_ms[i - 1], 10u);
  wheel.disarm(alarm.timer);
  const size_t fired = alarm.fired_ms.size();
  pass(100);
  EXPECT_EQ(alarm.fired_ms.size(), fired);
}

TEST_F(TimerWheelTest, AHandlerMayDisarmATimerThatIsDueInTheSameTick) {
  Alarm first;
  Alarm second;
  attach(first);
  attach(second);
  first.victim = &second;
  wheel.arm(first.timer, 8);
  wheel.arm(second.timer, 8);
  pass(100);
  EXPECT_EQ(first.fired_ms.size(), 1u);
  EXPECT_TRUE(second.fired_ms.empty());
  EXPECT_EQ(wheel.armed(), 0u);
}

TEST_F(TimerWheelTest, ArmingAgainMovesTheDeadline) {
  Alarm alarm;
  attach(alarm);
  wheel.arm(alarm.timer, 10);
  wheel.arm(alarm.timer, 3000);
  EXPECT_EQ(wheel.armed(), 1u);
  pass(2999);
  EXPECT_TRUE(alarm.fired_ms.empty());
  pass(6);
  EXPECT_EQ(alarm.fired_ms.size(), 1u);
}

TEST_F(TimerWheelTest, SleepingAsLongAsItSaysIsNeverTooLong) {
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    Alarm alarm;
    attach(alarm);
    const uint64_t delay = random() % 5000;
    const uint64_t deadline = clock + delay;
    wheel.arm(alarm.timer, delay);
    int sleeps = 0;
    while (alarm.fired_ms.empty()) {
      const int sleep = wheel.next_timeout_ms(clock);
      ASSERT_GE(sleep, 0);
      ASSERT_LT(++sleeps, 20) << "it wakes without need";
      pass(static_cast<uint64_t>(sleep));
    }
    EXPECT_GE(alarm.fired_ms[0], deadline);
    EXPECT_LE(alarm.fired_ms[0], deadline + 4);
  }
  EXPECT_EQ(wheel.next_timeout_ms(clock), -1);
}

}  // namespace
}  // namespace natrp
