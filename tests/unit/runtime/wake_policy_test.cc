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

std::vector<bool> asked;  // of set_bulk, in this order
bool accepted = true;

class WakePolicyTest : public testing::Test {
 protected:
  WakePolicyTest() {
    accepted = true;
    policy.after_turn(now_ms);
    asked.clear();
  }

  static bool set_bulk(bool bulk) {
    asked.push_back(bulk);
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
    ASSERT_TRUE(policy.bulk());
  }

  Counters counters;
  WakePolicy policy{counters, set_bulk};
  uint64_t now_ms = 1'000'000;
};

TEST_F(WakePolicyTest, NothingButBulkForAWhileMakesItBulkOnce) {
  for (unsigned i = 0; i + 1 < kBulkPeriods; ++i) period(kBulkPeriodBytes);
  EXPECT_FALSE(policy.bulk());
  for (int i = 0; i < 10; ++i) period(3 * kBulkPeriodBytes);
  EXPECT_TRUE(policy.bulk());
  EXPECT_EQ(asked, std::vector<bool>{true});
}

TEST_F(WakePolicyTest, OneMessageMakesItEager) {
  become_bulk();
  period(kBulkPeriodBytes, 1);
  EXPECT_FALSE(policy.bulk());
}

TEST_F(WakePolicyTest, AVisitorMakesItEager) {
  become_bulk();
  period(kBulkPeriodBytes, 0, 1);
  EXPECT_FALSE(policy.bulk());
}

TEST_F(WakePolicyTest, ATrickleIsNoBulk) {
  for (int i = 0; i < 10; ++i) period(kBulkPeriodBytes - 1);
  EXPECT_FALSE(policy.bulk());
  become_bulk();
  period(kBulkPeriodBytes - 1);
  EXPECT_FALSE(policy.bulk());
}

TEST_F(WakePolicyTest, AfterAPauseThePeriodIsMeasuredByItsTime) {
  become_bulk();
  period(kBulkPeriodBytes, 0, 0, 20 * kBulkPeriodMs);
  EXPECT_FALSE(policy.bulk());
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
  EXPECT_FALSE(policy.bulk());
  EXPECT_EQ(asked.size(), 1u);
}

TEST_F(WakePolicyTest, WhereTheFirstWishIsRefusedNoneFollows) {
  accepted = false;
  WakePolicy refused(counters, set_bulk);
  for (uint64_t i = 0; i < 3 * kBulkPeriods; ++i) {
    counters.add(Counter::kBytesUp, kBulkPeriodBytes);
    counters.add(Counter::kBytesSpliced, kBulkPeriodBytes);
    refused.after_turn(now_ms + i * kBulkPeriodMs);
  }
  EXPECT_EQ(asked, std::vector<bool>{false});
}

uint64_t slice_ns() {
  uint64_t attr[6] = {};  // struct sched_attr: size and policy, flags, niceness and priority, runtime, …
  EXPECT_EQ(syscall(SYS_sched_getattr, 0, attr, sizeof attr, 0), 0);
  return attr[3];
}

TEST(ThreadPolicy, AnEagerThreadHasAShortSliceAndKeepsItsNiceness) {
  std::thread([] {
    const uint64_t usual_ns = slice_ns();
    if (usual_ns == 0) GTEST_SKIP() << "this kernel has no slices of a thread's own (6.12 has)";
    ASSERT_EQ(setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 5), 0);
    ASSERT_TRUE(set_thread_bulk(false));
    EXPECT_EQ(slice_ns(), kEagerSliceNs);
    EXPECT_EQ(getpriority(PRIO_PROCESS, static_cast<id_t>(gettid())), 5);
    ASSERT_TRUE(set_thread_bulk(true));
    EXPECT_EQ(slice_ns(), usual_ns);
    EXPECT_EQ(getpriority(PRIO_PROCESS, static_cast<id_t>(gettid())), 5);
  }).join();
}

TEST(ThreadPolicy, AThreadGoesToBatchAndBack) {
  std::thread([] {
    ASSERT_TRUE(thread_is_ordinary());
    ASSERT_TRUE(set_thread_bulk(true));
    EXPECT_EQ(sched_getscheduler(0), SCHED_BATCH);
    EXPECT_FALSE(thread_is_ordinary());
    ASSERT_TRUE(set_thread_bulk(false));
    EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
  }).join();
}

}  // namespace
}  // namespace natrp
