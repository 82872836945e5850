// Where visitors and streams of original clients meet: within a worker, between workers, and who is turned away.
#include "edge/edge_rig.h"

namespace natrp {
namespace {

class GrpcVisitorsTest : public EdgeWorkerTest {
 protected:
  bool ready(uint64_t count) {
    return rig->until([&] { return rig->count(Counter::kChannelsReady) == count; });
  }
  // question and answer arrive.
  void check_met(GrpcSocket& agent, int32_t id, Peer& visitor) {
    visitor.say += "question";
    agent.say(id, "answer");
    EXPECT_TRUE(rig->until([&] { return visitor.heard == "answer" && agent.heard(id) == "question"; }));
  }
  bool closed(GrpcSocket& agent, int32_t id) {
    return rig->until([&] { return agent.call(id).closed; });
  }
  // The edge says something to a client that has left, before it has read what that client had sent. Whether the
  // visitor, which gets all of it, is reset then.
  bool is_reset_behind_an_answer(void (GrpcSocket::*leave)()) {
    make();
    if (IsSkipped()) return leave == &GrpcSocket::reset;
    rig->add_client("client");
    GrpcSocket& agent = rig->connect_agent(0);
    const int32_t id = agent.open("client");
    EXPECT_TRUE(ready(1));
    Peer& visitor = rig->visit(0, "client");
    check_met(agent, id, visitor);
    const std::string rest = some_bytes(30'000);
    rig->in_worker(0, [&] {
      agent.say(id, rest);
      agent.turn();
      (agent.*leave)();
      const int fd = rig->channel_fd(0);
      // One who has left answers with a RST. Where there is one already, this send would be told of it.
      if (leave == &GrpcSocket::close) ::send(fd, "", 1, MSG_NOSIGNAL);
      pollfd was_reset{fd, 0, 0};
      EXPECT_EQ(::poll(&was_reset, 1, 5000), 1);
      rig->role(0).grpc()->drain();
    });
    EXPECT_TRUE(rig->until([&] { return visitor.over(); }));
    EXPECT_TRUE(visitor.heard == "answer" + rest) << visitor.heard.size() << " bytes of " << 6 + rest.size();
    return visitor.was_reset;
  }
};

// --- Between workers ----------------------------------------------------------------------------------------------

TEST_P(GrpcVisitorsTest, AVisitorMovesToTheWorkerThatHasAReadyStream) {
  make(2);
  if (IsSkipped()) return;
  const auto client = rig->add_client("client");
  GrpcSocket& agent = rig->connect_agent(1);
  const int32_t id = agent.open("client");
  ASSERT_TRUE(ready(1));
  Peer& visitor = rig->visit(0, "client");
  check_met(agent, id, visitor);
  EXPECT_EQ(rig->slots_claimed(0), 0u);
  EXPECT_EQ(rig->slots_claimed(1), 2u) << "the agent's and the visitor's";
  EXPECT_EQ(rig->count(Counter::kVisitors), 1u);
  EXPECT_EQ(client->conns->live.load(), 1u);
  EXPECT_EQ(client->stats->sum().visitors_total, 1u);
  visitor.closes = true;
  EXPECT_TRUE(closed(agent, id));
  EXPECT_TRUE(rig->until([&] { return client->conns->live.load() == 0; }));
}

TEST_P(GrpcVisitorsTest, AVisitorThatWaitsMovesToTheWorkerWhereAStreamBecomesReady) {
  make(2);
  if (IsSkipped()) return;
  const auto client = rig->add_client("client");
  Peer& visitor = rig->visit(0, "client");
  visitor.say = "quest";
  ASSERT_TRUE(rig->until([&] { return client->places[0].parked.load() == 1; }));
  GrpcSocket& agent = rig->connect_agent(1);
  const int32_t id = agent.open("client");
  ASSERT_TRUE(rig->until([&] { return agent.heard(id) == "quest"; }));
  visitor.say += "ion";
  agent.say(id, "answer");
  EXPECT_TRUE(rig->until([&] { return visitor.heard == "answer" && agent.heard(id) == "question"; }));
  EXPECT_EQ(client->places[0].parked.load(), 0u);
  EXPECT_EQ(rig->slots_claimed(0), 0u);
  EXPECT_EQ(client->conns->live.load(), 1u);
  agent.finish(id);
  EXPECT_TRUE(rig->until([&] { return visitor.ended; }));
}

TEST_P(GrpcVisitorsTest, ManyVisitorsOfBothWorkersGetTheStreamsOfBothWorkersOneEach) {
  make(2);
  if (IsSkipped()) return;
  constexpr int kMany = 60;
  const auto client = rig->add_client("client");
  GrpcSocket* agents[] = {&rig->connect_agent(0), &rig->connect_agent(1)};
  std::vector<Peer*> visitors;
  std::vector<std::pair<GrpcSocket*, int32_t>> calls;
  for (int i = 0; i < kMany; ++i) {
    // Visitors from one end, streams from the other: many of both wait, and for each other's workers.
    visitors.push_back(&rig->visit(i < kMany / 2 ? 0 : 1, "client"));
    visitors.back()->say = "v" + std::to_string(i);
    GrpcSocket* agent = agents[i < kMany / 2 ? 1 : 0];
    calls.emplace_back(agent, agent->open("client"));
  }
  std::map<std::string, int> met;
  ASSERT_TRUE(rig->until([&] {
    return std::all_of(calls.begin(), calls.end(),
                       [](auto& call) { return call.first->heard(call.second).size() >= 2; });
  }));
  for (auto& [agent, id] : calls) ++met[agent->heard(id)];
  for (int i = 0; i < kMany; ++i) EXPECT_EQ(met["v" + std::to_string(i)], 1) << i;
  EXPECT_EQ(rig->count(Counter::kChannelsReady), 0u);
  for (Peer* visitor : visitors) visitor->closes = true;
  EXPECT_TRUE(rig->until([&] { return client->conns->live.load() == 0; }));
}

// A worker that is asked for a visitor it has no more sends who asks on to one that has.
TEST_P(GrpcVisitorsTest, AStreamFindsTheVisitorThatWaitsBesideOneThatHasLeft) {
  make(3);
  if (IsSkipped()) return;
  const auto client = rig->add_client("client");
  const auto waiting = [&](unsigned worker) { return client->places[worker].parked.load() == 1; };
  Peer& leaves = rig->visit(0, "client");
  ASSERT_TRUE(rig->until([&] { return waiting(0); }));
  Peer& stays = rig->visit(1, "client");
  ASSERT_TRUE(rig->until([&] { return waiting(1); }));
  GrpcSocket& agent = rig->connect_agent(2);
  loopback::reset(leaves.fd);
  const int32_t id = agent.open("client");
  stays.say += "question";
  agent.say(id, "answer");
  // It would wait for its deadline, beside a stream that is ready.
  EXPECT_TRUE(rig->until([&] { return stays.heard == "answer" && agent.heard(id) == "question"; }, 5000));
}

// --- Streams that meet nobody -------------------------------------------------------------------------------------

TEST_P(GrpcVisitorsTest, AReadyStreamThatEndsIsALostChannelAndOneThatTheEdgeEndsIsNot) {
  make();
  if (IsSkipped()) return;
  const auto client = rig->add_client("client");
  GrpcSocket& agent = rig->connect_agent(0);
  const int32_t cancelled = agent.open("client"), finished = agent.open("client");
  agent.open("client");
  ASSERT_TRUE(ready(3));
  agent.cancel(cancelled);
  agent.finish(finished);
  ASSERT_TRUE(ready(1));
  ASSERT_TRUE(closed(agent, finished));
  EXPECT_EQ(rig->count(Counter::kChannelsLost), 2u);
  agent.close();
  ASSERT_TRUE(ready(0));
  EXPECT_EQ(rig->count(Counter::kChannelsLost), 3u);
  rig->connect_agent(0).open("client");
  ASSERT_TRUE(ready(1));
  rig->remove_client(client);
  ASSERT_TRUE(ready(0));
  EXPECT_EQ(rig->count(Counter::kChannelsLost), 3u);
}

// --- Who is turned away -------------------------------------------------------------------------------------------

TEST_P(GrpcVisitorsTest, AClientsVisitorsAreNotMoreThanItMayHave) {
  make();
  if (IsSkipped()) return;
  const auto client = rig->add_client("client", 2);
  Peer& first = rig->visit(0, "client");
  rig->visit(0, "client");
  ASSERT_TRUE(rig->until([&] { return client->conns->live.load() == 2; }));
  Peer& third = rig->visit(0, "client");
  EXPECT_TRUE(rig->until([&] { return third.was_reset; }));
  EXPECT_EQ(rig->count(Counter::kVisitorsRefused), 1u);
  GrpcSocket& agent = rig->connect_agent(0);
  const int32_t id = agent.open("client");
  check_met(agent, id, first);
  first.closes = true;
  EXPECT_TRUE(closed(agent, id));
  EXPECT_TRUE(rig->until([&] { return client->conns->live.load() == 1; }));
  Peer& fourth = rig->visit(0, "client");
  EXPECT_TRUE(rig->until([&] { return client->conns->live.load() == 2; }));
  EXPECT_FALSE(fourth.over());
}

TEST_P(GrpcVisitorsTest, AnUnknownTokenIsToldSoAndCounted) {
  make();
  if (IsSkipped()) return;
  rig->add_client("client");
  GrpcSocket& agent = rig->connect_agent(0);
  const int32_t id = agent.open("stranger");
  ASSERT_TRUE(closed(agent, id));
  EXPECT_EQ(agent.call(id).grpc_status(), "16");
  EXPECT_EQ(rig->count(Counter::kHelloRefused), 1u);
  const int32_t known = agent.open("client");
  EXPECT_TRUE(rig->until([&] { return agent.accepted(known); }));
}

TEST_P(GrpcVisitorsTest, AClientThatIsRemovedLosesItsStreamsAndItsVisitorsAndAnotherDoesNot) {
  make();
  if (IsSkipped()) return;
  const auto removed = rig->add_client("removed");
  const auto kept = rig->add_client("kept");
  GrpcSocket& agent = rig->connect_agent(0);  // shows both tokens
  const int32_t flowing = agent.open("removed");
  ASSERT_TRUE(ready(1));
  Peer& visitor = rig->visit(0, "removed");
  check_met(agent, flowing, visitor);
  const int32_t kept_id = agent.open("kept");
  ASSERT_TRUE(ready(1));
  Peer& waits = rig->visit(0, "removed");
  ASSERT_TRUE(rig->until([&] { return removed->places[0].parked.load() == 1; }));
  rig->remove_client(removed);
  EXPECT_TRUE(rig->until([&] { return visitor.over() && waits.was_reset; }));
  ASSERT_TRUE(closed(agent, flowing));
  EXPECT_EQ(agent.call(flowing).grpc_status(), "16");
  EXPECT_EQ(removed->conns->live.load(), 0u);
  Peer& other = rig->visit(0, "kept");
  check_met(agent, kept_id, other);
  other.closes = true;
  EXPECT_TRUE(closed(agent, kept_id));
}

TEST_P(GrpcVisitorsTest, AClientWithoutAPortIsToldWhyAndWhatFlowsFlowsOn) {
  make();
  if (IsSkipped()) return;
  const auto client = rig->add_client("client");
  GrpcSocket& agent = rig->connect_agent(0);
  const int32_t flowing = agent.open("client");
  ASSERT_TRUE(ready(1));
  Peer& visitor = rig->visit(0, "client");
  check_met(agent, flowing, visitor);
  client->leased.store(false);
  const int32_t idle = agent.open("client");
  ASSERT_TRUE(rig->until([&] { return rig->port_wanted_by.load() == 1; }));
  rig->in_worker(0, [&] { rig->role(0).grpc()->refuse(client, "no port is left"); });
  ASSERT_TRUE(closed(agent, idle));
  EXPECT_EQ(agent.call(idle).grpc_status(), "14");
  EXPECT_EQ(agent.call(idle).fields["grpc-message"], "no port is left");
  const int32_t again = agent.open("client");
  ASSERT_TRUE(closed(agent, again));
  EXPECT_EQ(agent.call(again).fields["grpc-message"], "no port is left");
  visitor.say += "s";
  EXPECT_TRUE(rig->until([&] { return agent.heard(flowing) == "questions"; }));
  visitor.closes = true;
  EXPECT_TRUE(closed(agent, flowing));
}

// --- Connections that end -----------------------------------------------------------------------------------------

TEST_P(GrpcVisitorsTest, AnAnswerBehindWhichItsConnectionBrokeHasNoCleanEnd) {
  make();
  if (IsSkipped()) return;
  rig->add_client("client");
  for (const bool breaks : {false, true}) {
    GrpcSocket& agent = rig->connect_agent(0);
    const int32_t id = agent.open("client");
    ASSERT_TRUE(ready(1));
    Peer& visitor = rig->visit(0, "client");
    check_met(agent, id, visitor);
    breaks ? agent.reset() : agent.close();
    EXPECT_TRUE(rig->until([&] { return visitor.over(); }));
    EXPECT_EQ(visitor.was_reset, breaks);
    EXPECT_EQ(visitor.heard, "answer");
  }
}

TEST_P(GrpcVisitorsTest, WhatAClientHadSentArrivesThoughTheEdgesOwnSendFailsFirst) {
  EXPECT_FALSE(is_reset_behind_an_answer(&GrpcSocket::close));
}

TEST_P(GrpcVisitorsTest, AndHasNoCleanEndWhereTheClientsWasNone) {
  EXPECT_TRUE(is_reset_behind_an_answer(&GrpcSocket::reset));
}

// --- Drain --------------------------------------------------------------------------------------------------------

TEST_P(GrpcVisitorsTest, ADrainEndsWhatWaitsLetsWhatFlowsFinishAndThenSaysSo) {
  make();
  if (IsSkipped()) return;
  const auto client = rig->add_client("client");
  GrpcSocket& agent = rig->connect_agent(0);
  const int32_t flowing = agent.open("client"), idle = agent.open("client");
  ASSERT_TRUE(ready(2));
  Peer& visitor = rig->visit(0, "client");
  check_met(agent, flowing, visitor);
  std::atomic<bool> drained{false};
  rig->in_worker(0, [&] { rig->role(0).when_idle([&] { drained = true; }); });
  ASSERT_TRUE(closed(agent, idle));
  EXPECT_EQ(agent.call(idle).grpc_status(), "14");
  Peer& late = rig->visit(0, "client");
  EXPECT_TRUE(rig->until([&] { return late.was_reset; }));
  // One that was on its way when the edge said that it stops.
  const int32_t late_id = agent.open("client");
  if (late_id > 0) {
    EXPECT_TRUE(closed(agent, late_id));
    EXPECT_FALSE(agent.accepted(late_id));
  }
  // A client of the original's library takes our SETTINGS for a success, and would try again without a pause.
  GrpcSocket& newcomer = rig->connect_agent(0);
  EXPECT_TRUE(rig->until([&] { return newcomer.ended; }));
  EXPECT_EQ(newcomer.http2().bytes_received, 0u);
  EXPECT_FALSE(drained.load());
  const std::string content = some_bytes(300'000);
  agent.say(flowing, content);
  ASSERT_TRUE(rig->until([&] { return visitor.heard.size() == 6 + content.size(); }));
  visitor.closes = true;
  EXPECT_TRUE(rig->until([&] { return drained.load() && agent.ended; }));
  EXPECT_EQ(agent.call(flowing).grpc_status(), "0");
  EXPECT_FALSE(agent.http2().goaways.empty());
}

TEST_P(GrpcVisitorsTest, AWorkerThatIsStoppedUnderLoadLeavesNothing) {
  make(2);
  if (IsSkipped()) return;
  const auto client = rig->add_client("client", 0, 4096);
  for (unsigned worker = 0; worker < 2; ++worker) {
    GrpcSocket& agent = rig->connect_agent(worker);
    for (int i = 0; i < 4; ++i) agent.say(agent.open("client"), some_bytes(200'000));
  }
  ASSERT_TRUE(ready(8));
  for (int i = 0; i < 10; ++i) {  // two of them wait
    Peer& visitor = rig->visit(static_cast<unsigned>(i) % 2, "client", 4096);
    visitor.hear_at_once = i % 3 == 0 ? 0 : 1 << 20;
    visitor.say = some_bytes(200'000);
  }
  ASSERT_TRUE(rig->until([&] { return rig->count(Counter::kPairsLive) == 8; }));
  rig.reset();  // looks at the slots
  EXPECT_EQ(client->conns->live.load(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Loops, GrpcVisitorsTest, testing::Values(IoKind::kEpoll, IoKind::kUring), loop_of);

}  // namespace
}  // namespace natrp
