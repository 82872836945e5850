// Data channels that come back to the edge: whom they serve next, and what agents that are slow, cut off or hostile
// make of that.
#include "base/limits.h"
#include "edge/edge_rig.h"
#include "relay/chunk_text.h"

namespace natrp {
namespace {

constexpr uint32_t kPatienceMs = 5000;

class ChannelReturnTest : public EdgeWorkerTest {
 protected:
  // The agent's end of a channel that has shown its ticket to that worker.
  Peer& bring(const EdgeSession& session, unsigned worker = 0) {
    loopback::Two two = loopback::connected();
    Peer& agent = agents.emplace_back();
    agent.fd = std::move(two.far);
    rig->in_worker(worker, [&] { rig->role(worker).take_channel(two.near.release(), session.id); });
    return agent;
  }
  // Visitors and the agent's ends act until done().
  bool until(const std::function<bool()>& done, uint32_t patience_ms = kPatienceMs) {
    const auto turn = [&] {
      for (Peer& agent : agents) agent.turn();
      return done();
    };
    return rig->until(turn, patience_ms);
  }
  bool wait_parked(const EdgeSession& session, unsigned worker = 0) {
    return until([&] { return session.places[worker].parked.load() == 1; });
  }
  // A Start, what the visitor said, and its end.
  static bool heard_all(const Peer& agent, const std::string& said, size_t from = 0) {
    const std::string expected = (said.empty() ? "" : chunk_of(said)) + kEndText;
    return agent.heard.size() >= from + kStartBytes && agent.heard.substr(from + kStartBytes) == expected;
  }
  // A visitor that has said all and ended, and a channel whose agent knows.
  struct Asked {
    Peer& visitor;
    Peer& agent;
  };
  Asked ask(const EdgeSession& session, unsigned worker = 0) {
    Peer& visitor = rig->visit(worker, "native");
    visitor.say = "question";
    visitor.closes = true;
    EXPECT_TRUE(wait_parked(session, worker));
    Peer& agent = bring(session, worker);
    EXPECT_TRUE(until([&] { return heard_all(agent, "question"); }));
    return {visitor, agent};
  }
  // … and was answered, while its channel is not free.
  Asked ask_and_answer(const EdgeSession& session, unsigned worker = 0) {
    const Asked asked = ask(session, worker);
    asked.agent.say = chunk_of("answer") + kEndText;
    EXPECT_TRUE(until([&] { return asked.visitor.over() && session.conns->live.load() == 0; }));
    EXPECT_TRUE(asked.visitor.ended);
    EXPECT_EQ(asked.visitor.heard, "answer");
    asked.visitor.fd.reset();
    return asked;
  }
  bool wait_ready(const EdgeSession& session, uint32_t count) {
    return until([&] { return session.places[0].ready.load() == count; });
  }

  std::deque<Peer> agents;
};

// --- Whom it serves next ------------------------------------------------------------------------------------------

TEST_P(ChannelReturnTest, AChannelThatCameBackServesAVisitorThatWaitsHereAtOnce) {
  make();
  if (IsSkipped()) return;
  const auto session = rig->open_session(true);
  const auto [first, agent] = ask(*session);
  Peer& second = rig->visit(0, "native");
  second.say = "me too";
  second.closes = true;
  ASSERT_TRUE(wait_parked(*session));
  const size_t heard = agent.heard.size();
  agent.say = chunk_of("answer") + kEndText + kFreeText;
  ASSERT_TRUE(until([&] { return first.over() && heard_all(agent, "me too", heard); }));
  EXPECT_EQ(first.heard, "answer");
  EXPECT_TRUE(first.ended);
  agent.say += chunk_of("another") + kEndText;
  EXPECT_TRUE(until([&] { return second.over(); }));
  EXPECT_EQ(second.heard, "another");
  EXPECT_TRUE(second.ended);
  EXPECT_EQ(rig->count(Counter::kChannelsReturned), 1u);
  EXPECT_EQ(rig->count(Counter::kChannelsMoved), 0u);
}

TEST_P(ChannelReturnTest, AChannelThatCameBackMovesToTheWorkerWhereAVisitorWaits) {
  make(2);
  if (IsSkipped()) return;
  const auto session = rig->open_session(true);
  const auto [first, agent] = ask(*session);
  Peer& second = rig->visit(1, "native");
  second.say = "me too";
  second.closes = true;
  ASSERT_TRUE(wait_parked(*session, 1));
  const size_t heard = agent.heard.size();
  agent.say = chunk_of("answer") + kEndText + kFreeText;
  ASSERT_TRUE(until([&] { return first.over() && heard_all(agent, "me too", heard); }));
  EXPECT_TRUE(first.ended);
  agent.say += chunk_of("another") + kEndText + kFreeText;
  EXPECT_TRUE(until([&] { return second.over() && session->places[1].ready.load() == 1; }));
  EXPECT_EQ(second.heard, "another");
  EXPECT_TRUE(second.ended);
  EXPECT_EQ(rig->count(Counter::kChannelsMoved), 1u);
  EXPECT_EQ(rig->count(Counter::kChannelsReturned), 2u);
}

TEST_P(ChannelReturnTest, NothingOfItsVisitorIsToldOfAChannelThatCameBack) {
  make();
  if (IsSkipped()) return;
  const auto session = rig->open_session(true);
  const auto [visitor, agent] = ask(*session);
  agent.say = chunk_of("answer");
  ASSERT_TRUE(until([&] { return visitor.heard == "answer"; }));
  ASSERT_EQ(rig->channels().size(), 1u);
  EXPECT_EQ(rig->channels()[0].tunnel, 9u);
  EXPECT_EQ(rig->channels()[0].bytes_received, visitor.heard.size());
  agent.say += kEndText + kFreeText;
  ASSERT_TRUE(wait_ready(*session, 1));
  ASSERT_EQ(rig->channels().size(), 1u);
  EXPECT_EQ(rig->channels()[0].tunnel, 0u);
  EXPECT_EQ(rig->channels()[0].bytes_received, 0u);
}

// --- Before it is free --------------------------------------------------------------------------------------------

TEST_P(ChannelReturnTest, AnAnswerWhoseEndComesWithHalfAFreeEndsCleanlyAndTheOtherHalfFreesTheChannel) {
  make();
  if (IsSkipped()) return;
  const auto session = rig->open_session(true);
  const auto [visitor, agent] = ask(*session);
  agent.say = chunk_of("answer") + kEndText + kFreeText.substr(0, 1);
  ASSERT_TRUE(until([&] { return visitor.over() && session->conns->live.load() == 0; }));
  EXPECT_EQ(visitor.heard, "answer");
  EXPECT_TRUE(visitor.ended);
  EXPECT_EQ(session->places[0].ready.load(), 0u);
  agent.say += kFreeText.substr(1);
  EXPECT_TRUE(wait_ready(*session, 1));
  EXPECT_FALSE(agent.over());
}

TEST_P(ChannelReturnTest, NonsenseInsteadOfFreeEndsItsChannelAndNoOther) {
  make();
  if (IsSkipped()) return;
  const auto session = rig->open_session(true);
  const auto [other, other_agent] = ask(*session);
  for (const std::string& nonsense : {chunk_header(5), chunk_of("x"), kEndText, chunk_header(kChunkRaw),
                                      kFreeText + kFreeText}) {
    const auto [visitor, agent] = ask(*session);
    agent.say = chunk_of("answer") + kEndText;
    ASSERT_TRUE(until([&] { return visitor.over() && session->conns->live.load() == 1; }));
    EXPECT_TRUE(visitor.ended);
    agent.say += nonsense;
    EXPECT_TRUE(until([&] { return agent.over(); })) << testing::PrintToString(nonsense);
  }
  other_agent.say = chunk_of("answer") + kEndText + kFreeText;
  EXPECT_TRUE(until([&] { return other.over(); }));
  EXPECT_EQ(other.heard, "answer");
  EXPECT_TRUE(other.ended);
  EXPECT_TRUE(wait_ready(*session, 1));
  EXPECT_EQ(session->conns->live.load(), 0u);
}

TEST_P(ChannelReturnTest, AFinBehindFreeIsAResetForTheVisitorThatWaited) {
  make();
  if (IsSkipped()) return;
  const auto session = rig->open_session(true);
  const auto [first, agent] = ask(*session);
  Peer& second = rig->visit(0, "native");
  second.say = "me too";
  ASSERT_TRUE(wait_parked(*session));
  agent.say = chunk_of("answer") + kEndText + kFreeText;
  agent.closes = true;
  EXPECT_TRUE(until([&] { return first.over() && second.over(); }));
  EXPECT_EQ(first.heard, "answer");
  EXPECT_TRUE(first.ended);
  EXPECT_TRUE(second.was_reset) << "an empty answer with a clean end";
}

// --- Whose channel never comes back -------------------------------------------------------------------------------

TEST_P(ChannelReturnTest, AVisitorThatIsOverGivesItsPlaceBackThoughItsChannelIsNotFree) {
  make();
  if (IsSkipped()) return;
  const auto session = rig->open_session(true, 1);
  const auto first = ask_and_answer(*session);
  ask_and_answer(*session);
  EXPECT_EQ(session->conns->refused[0].load(), 0u);
  EXPECT_FALSE(first.agent.over());
  EXPECT_EQ(rig->slots_claimed(0), 2u) << "both channels are waited for";
}

TEST_P(ChannelReturnTest, ASessionHasNoMoreChannelsThatMayComeBackThanItMayHaveReady) {
  make(2);
  if (IsSkipped()) return;
  const auto session = rig->open_session(true);
  ASSERT_EQ(session->ready_max.load(), kReadyChannelsHeld);
  const auto claimed = [&] { return rig->slots_claimed(0) + rig->slots_claimed(1); };
  for (unsigned i = 0; i < kReadyChannelsHeld; ++i) {
    ask_and_answer(*session, i % 2);
    ASSERT_FALSE(HasFailure()) << i;
  }
  EXPECT_EQ(claimed(), kReadyChannelsHeld);
  for (const Peer& agent : agents) EXPECT_FALSE(agent.over());
  for (unsigned i = 0; i < 10; ++i) {
    const auto [visitor, agent] = ask_and_answer(*session, i % 2);
    EXPECT_TRUE(until([&] { return agent.over(); }));
    EXPECT_TRUE(agent.ended) << "by FIN: a reset could take bytes away";
    ASSERT_FALSE(HasFailure());
  }
  EXPECT_EQ(claimed(), kReadyChannelsHeld);
  // That they may come back keeps no new one from being ready.
  const Peer& fresh = bring(*session);
  EXPECT_TRUE(wait_ready(*session, 1));
  EXPECT_FALSE(fresh.over());
}

TEST_P(ChannelReturnTest, ChannelsThatMayComeBackLeaveASlotForTheVisitorOfEach) {
  constexpr uint32_t kSlots = 20;
  make(1, kSlots);
  if (IsSkipped()) return;
  const auto session = rig->open_session(true);
  for (uint32_t i = 0; i < 2 * kSlots; ++i) {
    ask_and_answer(*session);
    ASSERT_FALSE(HasFailure()) << "visitor " << i << ", " << rig->slots_claimed(0) << " slots are claimed";
  }
  EXPECT_EQ(rig->slots_claimed(0), kSlots / 2);
}

INSTANTIATE_TEST_SUITE_P(Loops, ChannelReturnTest, testing::Values(IoKind::kEpoll, IoKind::kUring), loop_of);

}  // namespace
}  // namespace natrp
