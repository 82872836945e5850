// Bytes of original clients' streams, in one worker: flow control both ways, ends with bytes queued, cancels.
// What is slow here takes nothing at all until the test says so.
#include <algorithm>

#include "edge/edge_rig.h"

namespace natrp {
namespace {

// Of a slow visitor's connection, both ends, so that the kernel cannot take what a window holds.
constexpr int kSmallBuffer = 4096;
constexpr size_t kMuch = 2 << 20;  // more than a window

class GrpcStreamsTest : public EdgeWorkerTest {
 protected:
  void SetUp() override {
    make();
    if (IsSkipped()) return;
    client = rig->add_client("client", 0, kSmallBuffer);
  }
  // A stream that waits for a visitor.
  int32_t open(GrpcSocket& agent) {
    const uint64_t before = rig->count(Counter::kChannelsReady);
    const int32_t id = agent.open("client");
    EXPECT_TRUE(rig->until([&] { return rig->count(Counter::kChannelsReady) == before + 1; }));
    return id;
  }
  // Visitors meet the oldest ready stream.
  Peer& visit(int receive_buffer = 0) {
    const uint64_t before = rig->count(Counter::kPairsLive);
    Peer& visitor = rig->visit(0, "client", receive_buffer);
    EXPECT_TRUE(rig->until([&] { return rig->count(Counter::kPairsLive) == before + 1; }));
    return visitor;
  }
  void check_echo(GrpcSocket& agent, int32_t id, Peer& visitor, size_t bytes = 100'000) {
    const std::string question = some_bytes(bytes, 7), answer = some_bytes(bytes, 8);
    const std::string heard_before = agent.heard(id);
    const size_t visitor_heard_before = visitor.heard.size();
    visitor.say += question;
    agent.say(id, answer);
    EXPECT_TRUE(rig->until([&] {
      agent.take(id);
      return visitor.heard.size() >= visitor_heard_before + bytes && agent.call(id).data.size() >= bytes &&
             agent.heard(id).size() >= heard_before.size() + bytes;
    }));
    EXPECT_TRUE(visitor.heard.substr(visitor_heard_before) == answer);
    EXPECT_TRUE(agent.heard(id) == heard_before + question);
  }
  // More than a window was counted, and nothing more for so long.
  bool stops(const std::function<uint64_t()>& count, uint64_t for_ms) {
    uint64_t counted = 0, since = now_ms();
    return rig->until([&] {
      if (count() != counted) since = now_ms();
      counted = count();
      return counted > NGHTTP2_INITIAL_WINDOW_SIZE && now_ms() - since > for_ms;
    });
  }
  bool all_gone() {
    return rig->until([&] { return rig->count(Counter::kPairsLive) == 0 && client->conns->live.load() == 0; });
  }
  std::shared_ptr<GrpcClient> client;
};

// --- Flow control -------------------------------------------------------------------------------------------------

TEST_P(GrpcStreamsTest, AVisitorThatTakesNothingStopsItsOwnStreamOnly) {
  GrpcSocket& agent = rig->connect_agent(0);
  const int32_t slow_id = open(agent), quick_id = open(agent);
  Peer& slow = visit(kSmallBuffer);
  Peer& quick = visit();
  slow.hear_at_once = 0;
  const std::string content = some_bytes(kMuch);
  agent.say(slow_id, content);
  ASSERT_TRUE(rig->until([&] { return agent.window(slow_id) <= 0; }));
  for (int i = 0; i < 5; ++i) check_echo(agent, quick_id, quick);
  EXPECT_LE(agent.window(slow_id), 0) << "the edge asked for more than its visitor takes";
  EXPECT_TRUE(slow.heard.empty());
  slow.hear_at_once = 1 << 20;
  ASSERT_TRUE(rig->until([&] { return slow.heard.size() == content.size(); }));
  EXPECT_TRUE(slow.heard == content);
  slow.closes = quick.closes = true;
  EXPECT_TRUE(all_gone());
}

TEST_P(GrpcStreamsTest, AStreamThatTakesNothingStopsItsOwnVisitorOnlyAndLittleIsReadAhead) {
  GrpcSocket& agent = rig->connect_agent(0, false);
  const int32_t slow_id = open(agent), quick_id = open(agent);
  Peer& slow = visit();
  const std::string content = some_bytes(16 * kMuch);
  slow.say = content;
  const size_t window = NGHTTP2_INITIAL_WINDOW_SIZE;
  ASSERT_TRUE(rig->until([&] { return rig->bytes_from_visitors() >= window; }));
  Peer& quick = visit();
  for (int i = 0; i < 5; ++i) check_echo(agent, quick_id, quick);
  EXPECT_LE(rig->bytes_from_visitors() - 5 * 100'000, window + kGrpcOutBytesMax);
  EXPECT_LE(agent.call(slow_id).data.size(), window);
  EXPECT_LT(slow.said, content.size());
  ASSERT_TRUE(rig->until([&] {
    agent.take(slow_id);
    return agent.call(slow_id).data.size() >= content.size() && agent.heard(slow_id).size() == content.size();
  }));
  EXPECT_TRUE(agent.heard(slow_id) == content);
  slow.closes = quick.closes = true;
  EXPECT_TRUE(all_gone());
}

TEST_P(GrpcStreamsTest, AnAgentThatReadsNothingStopsItsVisitorsWithinBounds) {
  GrpcSocket& agent = rig->connect_agent(0);
  const int32_t id = open(agent);
  Peer& visitor = visit();
  agent.widen(id, 60 << 20);  // what stops the visitor is the agent's socket, and no window
  visitor.say = "?";
  ASSERT_TRUE(rig->until([&] { return agent.heard(id) == "?"; }));
  agent.reads = false;
  visitor.say += some_bytes(40 * kMuch);
  ASSERT_TRUE(stops([&] { return rig->bytes_from_visitors(); }, 500));
  EXPECT_LT(rig->bytes_from_visitors(), 20 * kMuch) << "more than two sockets' buffers";
  agent.reads = true;
  ASSERT_TRUE(rig->until([&] { return agent.call(id).data.size() >= visitor.say.size(); }));
  visitor.closes = true;
  EXPECT_TRUE(all_gone());
}

TEST_P(GrpcStreamsTest, AVisitorWidensTheWindowOfItsStreamBeforeAnybodyHasSaidAWord) {
  GrpcSocket& agent = rig->connect_agent(0);
  const int32_t id = open(agent), waits = open(agent);
  ASSERT_TRUE(rig->until([&] { return agent.accepted(id) && agent.accepted(waits); }));
  EXPECT_EQ(agent.window(id), static_cast<int32_t>(kGrpcWindowBytes));
  Peer& visitor = visit();
  EXPECT_TRUE(rig->until([&] { return agent.window(id) >= static_cast<int32_t>(kGrpcWindowBytesMax); }));
  EXPECT_EQ(agent.window(waits), static_cast<int32_t>(kGrpcWindowBytes));
  check_echo(agent, id, visitor);
  visitor.closes = true;
  EXPECT_TRUE(all_gone());
}

TEST_P(GrpcStreamsTest, ASlowVisitorsWindowComesBackWhileMuchStillWaitsForIt) {
  GrpcSocket& agent = rig->connect_agent(0);
  const int32_t id = open(agent);
  Peer& visitor = visit(kSmallBuffer);
  visitor.hear_at_once = 0;
  const std::string content = some_bytes(kMuch);
  agent.say(id, content);
  ASSERT_TRUE(rig->until([&] { return agent.window(id) <= 0; }));
  const uint64_t before = rig->bytes_from_agents();
  visitor.hear_at_once = 512;  // a turn, of a millisecond
  // HTTP/2 gives a window back by halves.
  ASSERT_TRUE(rig->until([&] { return visitor.heard.size() >= kGrpcWindowBytesMax * 3 / 4; }));
  visitor.hear_at_once = 0;
  EXPECT_TRUE(rig->until([&] { return rig->bytes_from_agents() > before; }));
  visitor.hear_at_once = 1 << 20;
  ASSERT_TRUE(rig->until([&] { return visitor.heard.size() == content.size(); }));
  EXPECT_TRUE(visitor.heard == content);
  visitor.closes = true;
  EXPECT_TRUE(all_gone());
}

// --- Ends ---------------------------------------------------------------------------------------------------------

TEST_P(GrpcStreamsTest, AStreamThatEndsWithBytesQueuedIsOverAndItsVisitorGetsThemAll) {
  GrpcSocket& agent = rig->connect_agent(0);
  const int32_t id = open(agent);
  Peer& visitor = visit(kSmallBuffer);
  visitor.hear_at_once = 0;
  const std::string content = some_bytes(48 << 10);  // less than a window, more than the kernel holds
  agent.say(id, content);
  agent.finish(id);
  ASSERT_TRUE(rig->until([&] { return agent.call(id).closed; }));
  EXPECT_EQ(agent.call(id).grpc_status(), "0");
  EXPECT_EQ(rig->count(Counter::kPairsLive), 1u) << "its visitor has not heard the end";
  visitor.hear_at_once = 512;
  ASSERT_TRUE(rig->until([&] { return visitor.over(); }));
  EXPECT_TRUE(visitor.heard == content) << visitor.heard.size();
  EXPECT_TRUE(visitor.ended && !visitor.was_reset);
  visitor.fd.reset();
  EXPECT_TRUE(all_gone());
}

TEST_P(GrpcStreamsTest, AVisitorThatEndsWithBytesQueuedIsGoneAndItsStreamGetsThemAllThenOk) {
  GrpcSocket& agent = rig->connect_agent(0, false);
  const int32_t id = open(agent);
  Peer& visitor = visit();
  visitor.say = some_bytes(100'000);  // a window, and what waits for the next
  visitor.closes = true;
  EXPECT_TRUE(all_gone());
  EXPECT_FALSE(agent.call(id).trailed);
  ASSERT_TRUE(rig->until([&] {
    agent.take(id);
    return agent.call(id).closed;
  }));
  EXPECT_TRUE(agent.heard(id) == visitor.say);
  EXPECT_EQ(agent.call(id).grpc_status(), "0");
  EXPECT_TRUE(visitor.ended && !visitor.was_reset);
}

TEST_P(GrpcStreamsTest, AStreamThatIsCancelledMidSendEndsItsVisitorBehindWhatHadCome) {
  GrpcSocket& agent = rig->connect_agent(0);
  const int32_t id = open(agent), other_id = open(agent);
  Peer& visitor = visit(kSmallBuffer);
  Peer& other = visit();
  visitor.hear_at_once = 0;
  const std::string content = some_bytes(kMuch);
  agent.say(id, content);
  ASSERT_TRUE(rig->until([&] { return agent.window(id) <= 0; }));
  agent.cancel(id);
  check_echo(agent, other_id, other);  // the edge has read the cancel, too
  visitor.hear_at_once = 1 << 20;
  ASSERT_TRUE(rig->until([&] { return visitor.over(); }));
  EXPECT_GE(visitor.heard.size(), kGrpcWindowBytesMax - 1024u) << "less than the window that was used up";
  EXPECT_TRUE(visitor.heard == content.substr(0, visitor.heard.size()));
  check_echo(agent, other_id, other);
  visitor.fd.reset();
  other.closes = true;
  EXPECT_TRUE(all_gone());
}

TEST_P(GrpcStreamsTest, AVisitorThatResetsWhileItsStreamTakesNothingIsGoneAtOnceAndTheCallIsCancelled) {
  GrpcSocket& agent = rig->connect_agent(0, false);
  const int32_t id = open(agent);
  Peer& visitor = visit();
  visitor.say = some_bytes(16 * kMuch);
  ASSERT_TRUE(rig->until([&] { return rig->bytes_from_visitors() >= NGHTTP2_INITIAL_WINDOW_SIZE; }));
  loopback::reset(visitor.fd);
  EXPECT_TRUE(all_gone());
  ASSERT_TRUE(rig->until([&] {
    agent.take(id);
    return agent.call(id).closed;
  }));
  EXPECT_EQ(agent.call(id).grpc_status(), "1");
}

TEST_P(GrpcStreamsTest, AVisitorThatResetsBetweenTwoMessagesCancelsItsCallOnly) {
  GrpcSocket& agent = rig->connect_agent(0);
  const int32_t id = open(agent), other_id = open(agent);
  Peer& visitor = visit();
  Peer& other = visit();
  check_echo(agent, id, visitor, 100);
  loopback::reset(visitor.fd);
  ASSERT_TRUE(rig->until([&] { return agent.call(id).closed; }));
  EXPECT_EQ(agent.call(id).grpc_status(), "1");
  check_echo(agent, other_id, other);
  other.closes = true;
  EXPECT_TRUE(all_gone());
}

TEST_P(GrpcStreamsTest, AConnectionThatIsResetEndsItsVisitorsAndNoOthers) {
  GrpcSocket& agent = rig->connect_agent(0);
  GrpcSocket& other_agent = rig->connect_agent(0);
  open(agent);
  const int32_t other_id = open(other_agent);
  Peer& visitor = visit();
  Peer& other = visit();
  agent.reset();
  ASSERT_TRUE(rig->until([&] { return visitor.over(); }));
  check_echo(other_agent, other_id, other);
  visitor.fd.reset();
  other.closes = true;
  EXPECT_TRUE(all_gone());
  EXPECT_TRUE(rig->until([&] { return client->agents() == 1; }));
}

// The edge's send waits for room. It is told of the reset, and the kernel tells of it once.
TEST_P(GrpcStreamsTest, AnAnswerThatItsConnectionCutWhileASendWaitedHasNoCleanEnd) {
  for (int round = 0; round < 3; ++round) {
    GrpcSocket& agent = rig->connect_agent(0);
    const int32_t id = open(agent);
    Peer& visitor = visit();
    agent.widen(id, 60 << 20);
    visitor.say = "?";
    ASSERT_TRUE(rig->until([&] { return agent.heard(id) == "?"; }));
    agent.reads = false;
    visitor.say += some_bytes(40 * kMuch);
    ASSERT_TRUE(stops([&] { return visitor.said; }, 100));
    visitor.say.resize(visitor.said);  // it only listens from now on
    const std::string rest = some_bytes(30'000);
    rig->in_worker(0, [&] {
      agent.say(id, rest);
      agent.turn();
      agent.reset();
    });
    ASSERT_TRUE(rig->until([&] { return visitor.over(); }));
    EXPECT_TRUE(visitor.was_reset) << "round " << round;
    EXPECT_TRUE(visitor.heard == rest) << visitor.heard.size() << " bytes of " << rest.size();
  }
}

TEST_P(GrpcStreamsTest, WhatAServiceSaysBeforeItsVisitorComesIsKeptAWindowOfIt) {
  GrpcSocket& agent = rig->connect_agent(0);
  const int32_t id = open(agent);
  const std::string content = some_bytes(kMuch);
  agent.say(id, content);
  ASSERT_TRUE(rig->until([&] { return agent.window(id) <= 0; }));
  Peer& visitor = visit();
  ASSERT_TRUE(rig->until([&] { return visitor.heard.size() == content.size(); }));
  EXPECT_TRUE(visitor.heard == content);
  visitor.closes = true;
  EXPECT_TRUE(all_gone());
}

INSTANTIATE_TEST_SUITE_P(Loops, GrpcStreamsTest, testing::Values(IoKind::kEpoll, IoKind::kUring), loop_of);

}  // namespace
}  // namespace natrp
