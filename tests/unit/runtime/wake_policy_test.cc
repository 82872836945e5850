#include "runtime/wake_policy.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>
#include <vector>

namespace natrp {
namespace {

std::vector<WakeMode> asked;  // of set_mode, in this order
bool accepted = true;

class WakePolicyTest : public testing::Test {
 protected:
  WakePolicyTest() {
    accepted = true;
    asked.clear();
    policy.after_turn(now_ms);
  }

  static bool set_mode(WakeMode mode) {
    asked.push_back(mode);
    return accepted;
  }

  void period(uint64_t spliced, uint64_t copied = 0, unsigned visitors = 0, uint32_t lasts_ms = kBulkPeriodMs) {
    counters.add(Counter::kBytesUp, spliced / 2);
    counters.add(Counter::kBytesDown, spliced - spliced / 2 + copied);
    counters.add(Counter::kBytesSpliced, spliced);
    counters.add(Counter::kVisitors, visitors);
    now_ms += lasts_ms;
    policy.after_turn(now_ms);
  }

  void become_bulk() {
    for (unsigned i = 0; i < kBulkPeriods; ++i) period(kBulkPeriodBytes);
    ASSERT_EQ(policy.mode(), WakeMode::kBulk);
  }

  Counters counters;
  WakePolicy policy{counters, set_mode};
  uint64_t now_ms = 1'000'000;
};

TEST_F(WakePolicyTest, NothingButBulkForAWhileMakesItBulkOnce) {
  for (unsigned i = 0; i + 1 < kBulkPeriods; ++i) period(kBulkPeriodBytes);
  EXPECT_EQ(policy.mode(), WakeMode::kUsual);
  for (int i = 0; i < 10; ++i) period(3 * kBulkPeriodBytes);
  EXPECT_EQ(policy.mode(), WakeMode::kBulk);
  EXPECT_EQ(asked, std::vector{WakeMode::kBulk});
}

TEST_F(WakePolicyTest, OneMessageEndsBulk) {
  become_bulk();
  period(kBulkPeriodBytes, 1);
  EXPECT_EQ(policy.mode(), WakeMode::kUsual);
}

TEST_F(WakePolicyTest, AVisitorEndsBulk) {
  become_bulk();
  period(kBulkPeriodBytes, 0, 1);
  EXPECT_EQ(policy.mode(), WakeMode::kUsual);
}

TEST_F(WakePolicyTest, ATrickleIsNoBulk) {
  for (int i = 0; i < 10; ++i) period(kBulkPeriodBytes - 1);
  EXPECT_EQ(policy.mode(), WakeMode::kUsual);
  become_bulk();
  period(kBulkPeriodBytes - 1);
  EXPECT_EQ(policy.mode(), WakeMode::kUsual);
}

TEST_F(WakePolicyTest, AfterAPauseThePeriodIsMeasuredByItsTime) {
  become_bulk();
  period(kBulkPeriodBytes, 0, 0, 20 * kBulkPeriodMs);
  EXPECT_EQ(policy.mode(), WakeMode::kUsual);
}

TEST_F(WakePolicyTest, TurnsWithinAPeriodAskNothing) {
  for (int i = 0; i < 99; ++i) {
    counters.add(Counter::kBytesUp, kBulkPeriodBytes);
    counters.add(Counter::kBytesSpliced, kBulkPeriodBytes);
    policy.after_turn(now_ms + static_cast<uint64_t>(i) % kBulkPeriodMs);
  }
  EXPECT_TRUE(asked.empty());
}

TEST_F(WakePolicyTest, ARefusalIsTakenOnce) {
  accepted = false;
  for (unsigned i = 0; i < 3 * kBulkPeriods; ++i) period(kBulkPeriodBytes);
  EXPECT_EQ(policy.mode(), WakeMode::kUsual);
  EXPECT_EQ(asked.size(), 1u);
}

TEST_F(WakePolicyTest, MessagesBesideBulkMakeItQuickWithShorterTurns) {
  period(kBulkPeriodBytes, 1);
  EXPECT_EQ(policy.mode(), WakeMode::kUsual) << "a stream's first bytes are copied, too";
  EXPECT_EQ(policy.bytes_per_turn(), kBytesPerTurn);
  for (unsigned i = 1; i < kMixedPeriods; ++i) period(kBulkPeriodBytes, 1);
  EXPECT_EQ(policy.mode(), WakeMode::kQuick);
  EXPECT_EQ(policy.bytes_per_turn(), kBytesPerTurnQuick);
  for (int i = 0; i < 10; ++i) {
    period(kBulkPeriodBytes);  // between two messages
    period(kBulkPeriodBytes, 1);
  }
  EXPECT_EQ(asked, std::vector{WakeMode::kQuick});
}

TEST_F(WakePolicyTest, VisitorsBesideBulkMakeItQuick) {
  for (unsigned i = 0; i < kMixedPeriods; ++i) period(kBulkPeriodBytes, 0, 1);
  EXPECT_EQ(policy.mode(), WakeMode::kQuick);
}

TEST_F(WakePolicyTest, QuickEndsWithTheStreamsOrWithTheMessages) {
  for (unsigned i = 0; i < kMixedPeriods; ++i) period(kBulkPeriodBytes, 1);
  period(0, kBulkPeriodBytes);
  EXPECT_EQ(policy.mode(), WakeMode::kUsual);
  for (unsigned i = 0; i < kMixedPeriods; ++i) period(kBulkPeriodBytes, 1);
  EXPECT_EQ(policy.mode(), WakeMode::kQuick);
  become_bulk();
  period(kBulkPeriodBytes, 1);
  EXPECT_EQ(policy.mode(), WakeMode::kUsual) << "what was before bulk is forgotten";
}

TEST_F(WakePolicyTest, MessagesAloneAskNothing) {
  for (int i = 0; i < 10; ++i) period(0, 2 * kBulkPeriodBytes, 3);
  EXPECT_TRUE(asked.empty());
}

uint64_t slice_ns() {
  uint64_t attr[6] = {};  // struct sched_attr: size and policy, flags, niceness and priority, runtime, …
  EXPECT_EQ(syscall(SYS_sched_getattr, 0, attr, sizeof attr, 0), 0);
  return attr[3];
}

TEST(ThreadPolicy, AQuickThreadHasAShortSliceAndKeepsItsNiceness) {
  std::thread([] {
    const uint64_t usual_ns = slice_ns();
    if (usual_ns == 0) GTEST_SKIP() << "this kernel has no slices of a thread's own (6.12 has)";
    ASSERT_EQ(setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 5), 0);
    for (const WakeMode longer : {WakeMode::kUsual, WakeMode::kBulk}) {
      ASSERT_TRUE(set_thread_mode(WakeMode::kQuick));
      EXPECT_EQ(slice_ns(), kQuickSliceNs);
      EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
      ASSERT_TRUE(set_thread_mode(longer));
      EXPECT_EQ(slice_ns(), usual_ns);
      EXPECT_EQ(getpriority(PRIO_PROCESS, static_cast<id_t>(gettid())), 5);
    }
  }).join();
}

TEST(ThreadPolicy, AThreadGoesToBatchAndBack) {
  std::thread([] {
    ASSERT_TRUE(thread_is_ordinary());
    ASSERT_TRUE(set_thread_mode(WakeMode::kBulk));
    EXPECT_EQ(sched_getscheduler(0), SCHED_BATCH);
    EXPECT_FALSE(thread_is_ordinary());
    ASSERT_TRUE(set_thread_mode(WakeMode::kUsual));
    EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
  }).join();
}

}  // namespace
}  // namespace natrp
