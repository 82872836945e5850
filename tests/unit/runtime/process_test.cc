#include "runtime/process.h"

#include <gtest/gtest.h>

#include <memory>

#include "base/limits.h"
#include "base/no_descriptors.h"

namespace natrp {
namespace {

TEST(Descriptors, WhatIsSharedOutIsNeverMoreThanThereIs) {
  for (const unsigned workers : {1u, 2u, 8u, kWorkersMax}) {
    for (uint64_t descriptors = 2 * (32 + 8 * workers); descriptors < (8u << 20); descriptors += descriptors / 7) {
      const uint64_t conns = conns_for_descriptors(descriptors, workers);
      const uint64_t pipes = pipes_for_descriptors(descriptors, workers);
      ASSERT_LE(conns * workers + 2 * pipes * workers + 16 + 2 * workers, descriptors) << workers << " workers";
      ASSERT_LE(conns, kConnsPerWorkerMax);
    }
  }
}

TEST(Descriptors, AMillionOfThemAreNearlyAllForConns) {
  EXPECT_GT(conns_for_descriptors(1u << 20, 2), 500'000u);
  EXPECT_EQ(pipes_for_descriptors(1u << 20, 2), kPipesPerWorkerMax);
  EXPECT_GT(conns_for_descriptors(1024, 2) * 2, 600u);
}

TEST(Signals, WithoutADescriptorTheirWatchSaysSo) {
  auto none = std::make_unique<NoDescriptors>();
  const auto signals = open_signals();
  none.reset();
  ASSERT_FALSE(signals.ok());
  EXPECT_EQ(signals.error().errno_value, EMFILE);
  EXPECT_TRUE(open_signals().ok());
}

}  // namespace
}  // namespace natrp
