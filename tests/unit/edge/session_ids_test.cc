#include "edge/session_ids.h"

#include <gtest/gtest.h>

#include <set>

namespace natrp {
namespace {

TEST(SessionIds, NoNameIsGivenTwiceWhenTheIndexesBeginAgain) {
  SessionIds ids(SlotId::kIndexMax - 2);
  std::set<uint64_t> words;
  for (int i = 0; i < 3; ++i) words.insert(ids.next().word);
  const SlotId again = ids.next();
  EXPECT_EQ(again.index(), 1u);
  EXPECT_EQ(again.generation(), 3u);
  words.insert(again.word);
  words.insert(SessionIds().next().word);
  EXPECT_EQ(words.size(), 5u);
}

TEST(SessionIds, AnIndexIsPassedOverWhileItsSessionIsRemembered) {
  SessionIds ids;
  const auto pairs_flow_on = std::make_shared<int>(0);
  auto over = std::make_shared<int>(0);
  const SlotId first = ids.next();
  ids.remember(first, pairs_flow_on);
  ids.remember(ids.next(), over);
  over.reset();
  for (uint32_t i = 3; i <= SlotId::kIndexMax; ++i) ids.next();
  EXPECT_EQ(ids.next(), SlotId::make(0, 2, 3)) << "index 1 has a session, index 2 had one";
}

TEST(SessionIds, WhoIsForgottenCostsNothing) {
  SessionIds ids;
  const auto lives = std::make_shared<int>(0);
  const SlotId first = ids.next();
  ids.remember(first, lives);
  for (int i = 0; i < 100000; ++i) ids.remember(ids.next(), std::make_shared<int>(0));
  EXPECT_LE(ids.remembered(), 64u);
}

}  // namespace
}  // namespace natrp
