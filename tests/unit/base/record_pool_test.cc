// Records that are kept for the next user, and those of a burst that are not.
#include "base/record_pool.h"

#include <gtest/gtest.h>

#include <vector>

namespace natrp {
namespace {

struct Record {
  explicit Record(int& counted) : alive(counted) { ++alive; }
  ~Record() { --alive; }
  Record(const Record&) = delete;
  Record& operator=(const Record&) = delete;

  ListLink pool_link;
  int& alive;
  int value = 0;
};
using Pool = RecordPool<Record, &Record::pool_link>;

TEST(RecordPool, TheRecordUsedLastIsTheNextAndHoldsWhatItHeld) {
  int alive = 0;
  Pool pool(4);
  Record& first = pool.take(alive);
  Record& second = pool.take(alive);
  first.value = 1;
  second.value = 2;
  pool.give_back(second);
  pool.give_back(first);
  EXPECT_EQ(pool.take(alive).value, 1);
  EXPECT_EQ(pool.take(alive).value, 2);
  EXPECT_EQ(alive, 2);
}

TEST(RecordPool, WhatABurstNeededGoesBackToTheHeap) {
  int alive = 0;
  Pool pool(4);
  std::vector<Record*> taken;
  for (int i = 0; i < 100; ++i) taken.push_back(&pool.take(alive));
  EXPECT_EQ(pool.taken(), 100u);
  EXPECT_EQ(alive, 100);
  for (Record* record : taken) pool.give_back(*record);
  EXPECT_EQ(pool.taken(), 0u);
  EXPECT_EQ(alive, 4);
}

TEST(RecordPool, ForEachSeesWhatIsTakenAndMayGiveItBack) {
  int alive = 0;
  Pool pool(1);
  for (int i = 0; i < 10; ++i) pool.take(alive).value = i;
  std::vector<int> seen;
  pool.for_each([&](Record& record) {
    seen.push_back(record.value);
    if (record.value % 2 == 0) pool.give_back(record);
  });
  EXPECT_EQ(seen, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
  EXPECT_EQ(pool.taken(), 5u);
  EXPECT_EQ(alive, 6);
}

TEST(RecordPool, TakenRecordsEndWithThePool) {
  int alive = 0;
  {
    Pool pool(4);
    pool.give_back(pool.take(alive));
    pool.take(alive);
    pool.take(alive);
    EXPECT_EQ(alive, 2);
  }
  EXPECT_EQ(alive, 0);
}

}  // namespace
}  // namespace natrp
