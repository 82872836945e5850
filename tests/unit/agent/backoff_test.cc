// How long an agent waits before it tries again, and what its log hears of it.
#include "agent/backoff.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace natrp {
namespace {

using Cause = Backoff::Cause;

uint32_t longest_of(Backoff& backoff, Cause cause, int attempts) {
  uint32_t longest = 0;
  for (int i = 0; i < attempts; ++i) longest = std::max(longest, backoff.next_ms(cause));
  return longest;
}

TEST(Backoff, TheFirstWaitsAreShortAndTheyGrow) {
  for (uint32_t seed = 1; seed < 100; ++seed) {
    Backoff backoff(seed);
    EXPECT_LE(backoff.next_ms(Cause::kTurnedAway), kBackoffFirstMs);
    EXPECT_LE(backoff.next_ms(Cause::kTurnedAway), 2 * kBackoffFirstMs);
    EXPECT_GT(longest_of(backoff, Cause::kTurnedAway, 100), kBackoffMaxMs / 2);
    EXPECT_LE(longest_of(backoff, Cause::kTurnedAway, 100), kBackoffMaxMs);
  }
}

TEST(Backoff, WhereNobodyIsThereItTriesEveryOtherSecondForEver) {
  for (uint32_t seed = 1; seed < 100; ++seed) {
    Backoff backoff(seed);
    EXPECT_LE(longest_of(backoff, Cause::kNobodyThere, 100), kBackoffNobodyThereMaxMs);
    longest_of(backoff, Cause::kTurnedAway, 20);
    EXPECT_LE(longest_of(backoff, Cause::kNobodyThere, 100), kBackoffNobodyThereMaxMs) << "an overload is over";
  }
}

TEST(Backoff, AfterAResetTheWaitIsAShortOne) {
  Backoff backoff(1);
  longest_of(backoff, Cause::kTurnedAway, 20);
  backoff.reset();
  EXPECT_LE(backoff.next_ms(Cause::kTurnedAway), kBackoffFirstMs);
}

TEST(Backoff, TheLogHearsOfTheFirstOfAKindAndThenOfFewerAndFewer) {
  Backoff backoff(1);
  std::vector<uint32_t> told;
  for (uint32_t i = 1; i <= 40; ++i) {
    if (backoff.is_news("refused")) told.push_back(i);
    EXPECT_EQ(backoff.in_a_row(), i);
  }
  EXPECT_EQ(told, (std::vector<uint32_t>{1, 2, 4, 8, 16, 32}));
  EXPECT_TRUE(backoff.is_news("timed out"));
  EXPECT_TRUE(backoff.is_news("refused"));
  EXPECT_EQ(backoff.in_a_row(), 1u);
  backoff.succeeded();
  EXPECT_TRUE(backoff.is_news("refused"));
  EXPECT_EQ(backoff.in_a_row(), 1u);
}

}  // namespace
}  // namespace natrp
