#include "control/registry.h"

#include <gtest/gtest.h>

#include "base/limits.h"

namespace natrp {
namespace {

SlotId session(uint32_t number) { return SlotId::make(0, number, 1); }

TEST(Takeover, FollowsTheRule) {
  struct Case {
    TakeoverQuestion question;
    Takeover expected;
  };
  const Case cases[] = {
      {{false, false, false, 0, false}, Takeover::kNobodyThere},
      {{true, true, false, 0, false}, Takeover::kOwn},
      {{true, false, true, 0, false}, Takeover::kSameInstance},
      {{true, false, false, kSessionSilentMs, false}, Takeover::kSilent},
      {{true, false, false, kSessionSilentMs - 1, false}, Takeover::kRefused},
      {{true, false, false, kSessionSilentMs - 1, true}, Takeover::kReplaced},
      {{true, false, false, 0, true}, Takeover::kReplaced},
      {{true, false, false, 0, false}, Takeover::kRefused},
  };
  for (const Case& one : cases) EXPECT_EQ(decide_takeover(one.question), one.expected);
}

TEST(Registry, ANewInstanceOfTheSameAgentTakesOverAtOnce) {
  Registry registry;
  registry.open_session(session(1), "a", "instance", 0);
  ASSERT_TRUE(registry.take_tunnel(session(1), "web", 0, false, 0).ok());
  registry.open_session(session(2), "a", "instance", 1);
  const TakeoverAnswer answer = registry.take_tunnel(session(2), "web", 0, false, 1);
  EXPECT_EQ(answer.takeover, Takeover::kSameInstance);
  EXPECT_EQ(answer.loser, session(1));
  EXPECT_EQ(registry.holder("a", "web"), session(2));
  registry.close_session(session(1));
  EXPECT_EQ(registry.holder("a", "web"), session(2)) << "what was taken over is not the loser's to give up";
}

TEST(Registry, ASecondLivingAgentIsRefusedInASentence) {
  Registry registry;
  registry.open_session(session(1), "a", "one", 0);
  ASSERT_TRUE(registry.take_tunnel(session(1), "web", 0, false, 0).ok());
  registry.open_session(session(2), "a", "two", 5000);
  registry.heard(session(1), 4000);
  const TakeoverAnswer refused = registry.take_tunnel(session(2), "web", 0, false, 5000);
  EXPECT_FALSE(refused.ok());
  EXPECT_NE(refused.sentence.find("'web'"), std::string::npos);
  EXPECT_FALSE(refused.loser.valid());
  EXPECT_EQ(registry.holder("a", "web"), session(1));
  const TakeoverAnswer replaced = registry.take_tunnel(session(2), "web", 0, true, 5000);
  EXPECT_EQ(replaced.takeover, Takeover::kReplaced);
  EXPECT_EQ(replaced.loser, session(1));
}

TEST(Registry, ASilentSessionGivesWay) {
  Registry registry;
  registry.open_session(session(1), "a", "one", 0);
  ASSERT_TRUE(registry.take_tunnel(session(1), "web", 0, false, 0).ok());
  registry.heard(session(1), 1000);
  registry.open_session(session(2), "a", "two", 1000);
  EXPECT_FALSE(registry.take_tunnel(session(2), "web", 0, false, 1000 + kSessionSilentMs - 1).ok());
  const TakeoverAnswer answer = registry.take_tunnel(session(2), "web", 0, false, 1000 + kSessionSilentMs);
  EXPECT_EQ(answer.takeover, Takeover::kSilent);
  EXPECT_EQ(answer.loser, session(1));
}

TEST(Registry, AgentsThatSendNoInstanceAreStrangers) {
  Registry registry;
  registry.open_session(session(1), "a", "", 0);
  registry.open_session(session(2), "a", "", 0);
  ASSERT_TRUE(registry.take_tunnel(session(1), "web", 0, false, 0).ok());
  EXPECT_FALSE(registry.take_tunnel(session(2), "web", 0, false, 0).ok());
}

TEST(Registry, TunnelsOfOneNameBelongToDifferentClients) {
  Registry registry;
  registry.open_session(session(1), "a", "one", 0);
  registry.open_session(session(2), "b", "one", 0);
  EXPECT_TRUE(registry.take_tunnel(session(1), "web", 0, false, 0).ok());
  EXPECT_EQ(registry.take_tunnel(session(2), "web", 0, false, 0).takeover, Takeover::kNobodyThere);
}

TEST(Registry, TheMostTunnelsOfAClientAreThoseOfAllItsSessions) {
  Registry registry;
  registry.open_session(session(1), "a", "one", 0);
  registry.open_session(session(2), "a", "two", 0);
  registry.open_session(session(3), "aa", "three", 0);
  ASSERT_TRUE(registry.take_tunnel(session(3), "of-another-client", 2, false, 0).ok());
  ASSERT_TRUE(registry.take_tunnel(session(1), "web", 2, false, 0).ok());
  ASSERT_TRUE(registry.take_tunnel(session(2), "ssh", 2, false, 0).ok());
  const TakeoverAnswer refused = registry.take_tunnel(session(2), "db", 2, false, 0);
  EXPECT_EQ(refused.takeover, Takeover::kTooMany);
  EXPECT_EQ(refused.sentence, "client 'a' may have 2 tunnels at a time, and other agents of it have some; "
                              "the edge's operator can raise it");
  EXPECT_TRUE(refused.may_change) << "the other session may end, or be dead already";
  const TakeoverAnswer for_good = registry.take_tunnel(session(3), "one-more", 1, false, 0);
  EXPECT_EQ(for_good.sentence, "client 'aa' may have 1 tunnel at a time; the edge's operator can raise it");
  EXPECT_FALSE(for_good.may_change);
  EXPECT_FALSE(registry.holder("a", "db").valid());
  EXPECT_EQ(registry.take_tunnel(session(1), "web", 2, false, 0).takeover, Takeover::kOwn);
  EXPECT_EQ(registry.take_tunnel(session(2), "web", 2, true, 0).takeover, Takeover::kReplaced) << "not one more";
  EXPECT_TRUE(registry.take_tunnel(session(2), "db", 0, false, 0).ok()) << "0 is no limit";
}

TEST(Registry, ATunnelIsGivenUpByItsOwnSessionAlone) {
  Registry registry;
  registry.open_session(session(1), "a", "one", 0);
  registry.open_session(session(2), "a", "two", 0);
  ASSERT_TRUE(registry.take_tunnel(session(1), "web", 0, false, 0).ok());
  ASSERT_TRUE(registry.take_tunnel(session(2), "ssh", 0, false, 0).ok());
  EXPECT_EQ(registry.sessions_of("a").size(), 2u);
  EXPECT_FALSE(registry.give_up_tunnel(session(2), "web")) << "it is the other session's";
  EXPECT_TRUE(registry.give_up_tunnel(session(1), "web"));
  EXPECT_FALSE(registry.holder("a", "web").valid());
  EXPECT_EQ(registry.holder("a", "ssh"), session(2));
  registry.close_session(session(2));
  EXPECT_FALSE(registry.holder("a", "ssh").valid());
  EXPECT_EQ(registry.sessions(), 1u);
}

}  // namespace
}  // namespace natrp
