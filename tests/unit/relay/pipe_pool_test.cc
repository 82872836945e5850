#include "relay/pipe_pool.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <set>
#include <vector>

#include "base/limits.h"
#include "base/no_descriptors.h"

namespace natrp {
namespace {

class PipePoolTest : public testing::Test {
 protected:
  Counters counters;
};

TEST_F(PipePoolTest, ItGivesAtMostSoManyAndThenNone) {
  PipePool pool(counters, 3, 1);
  std::set<uint16_t> taken;
  for (int i = 0; i < 3; ++i) taken.insert(pool.take());
  EXPECT_EQ(taken.size(), 3u);
  EXPECT_FALSE(taken.contains(PipePool::kNone));
  EXPECT_EQ(pool.take(), PipePool::kNone);
  EXPECT_EQ(pool.borrowed(), 3u);
  EXPECT_EQ(counters.get(Counter::kPipesOpen), 3u);
  for (const uint16_t id : taken) pool.give_back(id, false);
  EXPECT_EQ(pool.borrowed(), 0u);
  EXPECT_EQ(pool.open(), 3u) << "clean ones are kept";
}

TEST_F(PipePoolTest, APipeIsNonBlockingAndAsLargeAsItSays) {
  PipePool pool(counters, 1, 1);
  const PipePool::Pipe pipe = pool.at(pool.take());
  EXPECT_NE(::fcntl(pipe.read_fd, F_GETFL) & O_NONBLOCK, 0);
  EXPECT_NE(::fcntl(pipe.write_fd, F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(::fcntl(pipe.write_fd, F_GETPIPE_SZ), static_cast<int>(pipe.bytes_max));
  EXPECT_GE(pipe.bytes_max, kPipeBytesMin);
  pool.give_back(0, false);
}

TEST_F(PipePoolTest, APipeWithBytesInItIsClosedAndNobodyGetsThoseBytes) {
  PipePool pool(counters, 1, 1);
  const uint16_t id = pool.take();
  ASSERT_EQ(::write(pool.at(id).write_fd, "secret", 6), 6);
  pool.give_back(id, true);
  EXPECT_EQ(pool.open(), 0u);
  const uint16_t next = pool.take();
  ASSERT_NE(next, PipePool::kNone) << "its place is free again";
  char buffer[16];
  EXPECT_EQ(::read(pool.at(next).read_fd, buffer, sizeof buffer), -1);
  pool.give_back(next, false);
}

TEST_F(PipePoolTest, WithoutADescriptorThereIsNoPipeAndLaterThereIsOneAgain) {
  PipePool pool(counters, 4, 1);
  auto none = std::make_unique<NoDescriptors>();
  const uint16_t refused = pool.take();
  none.reset();
  EXPECT_EQ(refused, PipePool::kNone);
  const uint16_t id = pool.take();
  ASSERT_NE(id, PipePool::kNone) << "the shortage is over";
  pool.give_back(id, false);
}

TEST_F(PipePoolTest, TrimmingClosesThePooledOnesAndLeavesTheBorrowed) {
  PipePool pool(counters, 8, 1);
  std::vector<uint16_t> taken;
  for (int i = 0; i < 6; ++i) taken.push_back(pool.take());
  for (int i = 0; i < 4; ++i) pool.give_back(taken[i], false);
  pool.trim(1);
  EXPECT_EQ(pool.open(), 3u);
  EXPECT_EQ(pool.borrowed(), 2u);
  for (int i = 4; i < 6; ++i) pool.give_back(taken[i], false);
  pool.trim(0);
  EXPECT_EQ(counters.get(Counter::kPipesOpen), 0u);
}

}  // namespace
}  // namespace natrp
