#include "loop/buf_ring.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "base/limits.h"

namespace natrp {
namespace {

TEST(BufRing, EveryBufferCanBeTakenOnceAndNoneTwice) {
  BufRing buffers;
  buffers.setup(nullptr, nullptr);
  std::set<uint16_t> taken;
  uint16_t id = 0;
  while (buffers.take(id)) EXPECT_TRUE(taken.insert(id).second);
  EXPECT_EQ(taken.size(), kBuffersMax);
  EXPECT_EQ(buffers.held(), kBuffersMax);
  EXPECT_TRUE(buffers.exhausted());
  buffers.release(17);
  EXPECT_FALSE(buffers.exhausted());
  ASSERT_TRUE(buffers.take(id));
  EXPECT_EQ(id, 17);
}

TEST(BufRing, TheBufferThatWasReleasedLastIsUsedFirst) {
  BufRing buffers;
  buffers.setup(nullptr, nullptr);
  uint16_t first = 0;
  uint16_t second = 0;
  ASSERT_TRUE(buffers.take(first));
  ASSERT_TRUE(buffers.take(second));
  buffers.release(second);
  buffers.release(first);
  uint16_t again = 0;
  ASSERT_TRUE(buffers.take(again));
  EXPECT_EQ(again, first) << "its pages are the warm ones";
}

TEST(BufRing, BuffersDoNotOverlap) {
  BufRing buffers;
  buffers.setup(nullptr, nullptr);
  for (uint16_t id : {0, 1, 2, 4095}) {
    for (size_t at : {size_t{0}, kBufferRoomBytes - 1}) buffers.data(id)[at] = static_cast<unsigned char>(id + 1);
  }
  for (uint16_t id : {0, 1, 2, 4095}) {
    EXPECT_EQ(buffers.data(id)[0], static_cast<unsigned char>(id + 1));
    EXPECT_EQ(buffers.data(id)[kBufferRoomBytes - 1], static_cast<unsigned char>(id + 1));
  }
}

TEST(BufRing, WhatTheKernelFilledIsReplacedUntilEverythingIsHeld) {
  struct Kernel {
    std::vector<uint16_t> offered;
  } kernel;
  BufRing buffers;
  buffers.setup([](void* context, uint16_t id) { static_cast<Kernel*>(context)->offered.push_back(id); }, &kernel);
  EXPECT_EQ(kernel.offered.size(), kBuffersOfferedFirst);
  std::set<uint16_t> held;
  for (size_t at = 0; at < kernel.offered.size(); ++at) {
    EXPECT_FALSE(buffers.exhausted());
    EXPECT_TRUE(held.insert(kernel.offered[at]).second) << "offered while it was held";
    buffers.filled();
  }
  EXPECT_EQ(held.size(), kBuffersMax);
  EXPECT_TRUE(buffers.exhausted());
  buffers.release(5);
  EXPECT_EQ(kernel.offered.back(), 5) << "a released buffer is offered at once when too few are";
  EXPECT_FALSE(buffers.exhausted());
}

TEST(BufRing, OffersGrowByDoublingUpToTheirBound) {
  unsigned offered = 0;
  BufRing buffers;
  buffers.setup([](void* context, uint16_t) { ++*static_cast<unsigned*>(context); }, &offered);
  for (unsigned wanted = kBuffersOfferedFirst; wanted < kBuffersOffered; wanted *= 2) {
    EXPECT_EQ(offered, wanted);
    buffers.offer_more();
  }
  EXPECT_EQ(offered, kBuffersOffered);
  buffers.offer_more();
  EXPECT_EQ(offered, kBuffersOffered) << "the ring has no more entries";
}

TEST(BufRing, OffersGoBackToTheFewestByBeingFilled) {
  std::vector<uint16_t> offered;
  BufRing buffers;
  buffers.setup([](void* context, uint16_t id) { static_cast<std::vector<uint16_t>*>(context)->push_back(id); },
                &offered);
  buffers.offer_more();
  EXPECT_TRUE(buffers.has_grown());
  EXPECT_EQ(buffers.offer_fewest(), kBuffersOfferedFirst);
  for (unsigned i = 0; i < kBuffersOfferedFirst; ++i) {
    EXPECT_EQ(buffers.surplus(), kBuffersOfferedFirst - i);
    buffers.filled();
    buffers.release(offered[i]);
  }
  EXPECT_EQ(offered.size(), 2 * kBuffersOfferedFirst);
  EXPECT_FALSE(buffers.has_grown());
}

TEST(BufRing, TrimTakesOnlyWhatNobodyHasAndNotTheWarmest) {
  BufRing buffers;
  buffers.setup(nullptr, nullptr);
  std::vector<uint16_t> held(3 * kBuffersSpare);
  for (uint16_t& id : held) {
    ASSERT_TRUE(buffers.take(id));
    buffers.data(id)[0] = 7;
  }
  EXPECT_FALSE(buffers.has_grown()) << "these are held";
  for (unsigned i = 1; i < held.size(); ++i) buffers.release(held[i]);
  EXPECT_TRUE(buffers.has_grown());
  buffers.trim();
  EXPECT_FALSE(buffers.has_grown());
  EXPECT_EQ(buffers.data(held[0])[0], 7);
  for (unsigned i = 1; i < held.size(); ++i) {
    const bool warm = i >= held.size() - kBuffersSpare;
    EXPECT_EQ(buffers.data(held[i])[0], warm ? 7 : 0) << i;
  }
}

}  // namespace
}  // namespace natrp
