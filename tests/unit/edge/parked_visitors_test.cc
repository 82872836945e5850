// Visitors that wait: until when, what if they leave, and what that costs.
#include "edge/parked_visitors.h"

#include "base/limits.h"
#include "edge/edge_rig.h"
#include "relay/allocations.h"

namespace natrp {
namespace {

class ParkedVisitorsTest : public EdgeWorkerTest {
 protected:
  void SetUp() override { make(); }
  bool wait(EdgeSession& session, uint32_t count) {
    return rig->until([&] { return session.places[0].parked.load() == count; });
  }
  // A visitor that left is counted first and taken out of everything else after that, in one turn of its worker, which
  // is over on return.
  bool left(uint64_t count, uint32_t patience_ms = 20000) {
    const bool counted = rig->until([&] { return rig->count(Counter::kVisitorsLeft) == count; }, patience_ms);
    rig->in_worker(0, [] {});
    return counted;
  }
  void close_session(const EdgeSession& session) {
    rig->in_worker(0, [&] { rig->role(0).close_session(session.id); });
  }
};

TEST_P(ParkedVisitorsTest, AVisitorThatResetsWhileItWaitsIsForgottenLongBeforeItsTenSeconds) {
  const auto session = rig->open_session();
  Peer& visitor = rig->visit(0, "native");
  visitor.say = "anybody there?";
  ASSERT_TRUE(wait(*session, 1));
  EXPECT_EQ(rig->channels_wanted.load(), 1u);
  loopback::reset(visitor.fd);
  EXPECT_TRUE(rig->until([&] { return session->conns->live.load() == 0; }, kRendezvousTimeoutMs / 2));
  EXPECT_EQ(rig->slots_claimed(0), 0u);
  EXPECT_EQ(session->places[0].parked.load(), 0u);
  EXPECT_EQ(rig->count(Counter::kVisitorsLeft), 1u);
  EXPECT_EQ(rig->count(Counter::kVisitorsRefused), 0u);
  EXPECT_EQ(rig->count(Counter::kRendezvousTimeouts), 0u);
}

TEST_P(ParkedVisitorsTest, AVisitorThatHalfClosesWaitsOnAndItsBytesAndItsFinArrive) {
  const auto session = rig->open_session();
  Peer& visitor = rig->visit(0, "native");
  visitor.say = "all I have to say";
  visitor.closes = true;
  ASSERT_TRUE(wait(*session, 1));
  Peer& later = rig->visit(0, "native");
  ASSERT_TRUE(wait(*session, 2));
  loopback::reset(later.fd);
  // When the later one was looked at, so was the first.
  ASSERT_TRUE(left(1));
  ASSERT_EQ(session->places[0].parked.load(), 1u);
  loopback::Two channel = loopback::connected();
  rig->in_worker(0, [&] { rig->role(0).take_channel(channel.near.release(), session->id); });
  Peer agent;
  agent.fd = std::move(channel.far);
  EXPECT_TRUE(rig->until([&] {
    agent.turn();
    return agent.ended;
  }));
  EXPECT_EQ(agent.heard.size(), kStartBytes + visitor.say.size());
  EXPECT_EQ(agent.heard.substr(kStartBytes), visitor.say);
  agent.say = "answer";
  agent.closes = true;
  EXPECT_TRUE(rig->until([&] {
    agent.turn();
    return visitor.ended;
  }));
  EXPECT_EQ(visitor.heard, "answer");
  close_session(*session);
}

TEST_P(ParkedVisitorsTest, ASessionThatEndsResetsItsWaitingVisitorsAndForgetsThem) {
  const auto session = rig->open_session();
  Peer& visitor = rig->visit(0, "native");
  ASSERT_TRUE(wait(*session, 1));
  close_session(*session);
  EXPECT_TRUE(rig->until([&] { return visitor.was_reset; }));
  EXPECT_EQ(session->conns->live.load(), 0u);
  EXPECT_EQ(rig->count(Counter::kVisitorsRefused), 1u);
}

TEST_P(ParkedVisitorsTest, AVisitorOfAnOriginalClientThatEndsWithoutAWordIsForgottenAndOneThatSpokeIsNot) {
  const auto client = rig->add_client("client");
  Peer& spoke = rig->visit(0, "client");
  spoke.say = "last words";
  spoke.closes = true;
  Peer& silent = rig->visit(0, "client");
  ASSERT_TRUE(rig->until([&] { return client->places[0].parked.load() == 2; }));
  silent.closes = true;
  ASSERT_TRUE(left(1, kRendezvousTimeoutMs / 2));
  EXPECT_EQ(client->places[0].parked.load(), 1u);
  EXPECT_EQ(client->conns->live.load(), 1u);
  GrpcSocket& agent = rig->connect_agent(0);
  const int32_t id = agent.open("client");
  ASSERT_TRUE(rig->until([&] { return agent.call(id).closed; }));
  EXPECT_EQ(agent.heard(id), "last words");
  EXPECT_EQ(agent.call(id).grpc_status(), "0");
  EXPECT_TRUE(rig->until([&] { return client->conns->live.load() == 0; }));
}

// --- The queue by itself, in its worker ---------------------------------------------------------------------------

TEST_P(ParkedVisitorsTest, AVisitorWhoseDeadlineHasComeIsResetAndCountedAsThat) {
  ParkedVisitors all(rig->role(0), ParkedVisitors::Leaves::kByReset);
  ClientConns conns;
  conns.live = 1;
  std::atomic<uint32_t> parked{0};
  ParkedQueue queue(conns, parked);
  loopback::Two two = loopback::connected();
  Peer visitor;
  visitor.fd = std::move(two.far);
  rig->in_worker(0, [&] {
    Worker& worker = rig->worker(0);
    Conn* conn = worker.conns().claim(two.near.release(), {}, ConnRole::kVisitor, worker.loop().turn_ms());
    all.park(queue, *conn, worker.loop().turn_ms() + 20);
  });
  EXPECT_TRUE(rig->until([&] {
    visitor.turn();
    return visitor.was_reset;
  }));
  EXPECT_TRUE(rig->in_worker(0, [&] { return queue.empty(); }));
  EXPECT_EQ(conns.live.load(), 0u);
  EXPECT_EQ(rig->count(Counter::kRendezvousTimeouts), 1u);
  EXPECT_EQ(rig->count(Counter::kVisitorsLeft), 0u);
}

TEST_P(ParkedVisitorsTest, AFullQueueResetsTheNextVisitorAndKeepsTheOrderOfTheOthers) {
  ParkedVisitors all(rig->role(0), ParkedVisitors::Leaves::kByReset);
  ClientConns conns;
  conns.live = kParkedVisitorsMax + 1;
  std::atomic<uint32_t> parked{0};
  ParkedQueue queue(conns, parked);
  loopback::Two two = loopback::connected();
  Peer visitor;
  visitor.fd = std::move(two.far);
  rig->in_worker(0, [&] {
    Worker& worker = rig->worker(0);
    const uint64_t now = worker.loop().turn_ms();
    for (unsigned i = 0; i < kParkedVisitorsMax; ++i) {
      Conn* conn = worker.conns().claim(-1, {}, ConnRole::kVisitor, now);
      ASSERT_NE(all.park(queue, *conn, all.deadline_ms(), i), nullptr);
    }
    Conn* conn = worker.conns().claim(two.near.release(), {}, ConnRole::kVisitor, now);
    EXPECT_EQ(all.park(queue, *conn, all.deadline_ms()), nullptr);
    EXPECT_EQ(parked.load(), kParkedVisitorsMax);
    EXPECT_EQ(conns.live.load(), kParkedVisitorsMax);
    for (unsigned i = 0; ParkedVisitor* oldest = all.front(queue); ++i) {
      ASSERT_EQ(oldest->tunnel_index, i);
      worker.conns().release(all.unpark(*oldest));
    }
    EXPECT_EQ(parked.load(), 0u);
  });
  EXPECT_TRUE(rig->until([&] {
    visitor.turn();
    return visitor.was_reset;
  }));
  EXPECT_EQ(rig->count(Counter::kVisitorsRefused), 1u);
}

TEST_P(ParkedVisitorsTest, WaitingAllocatesNothingUnlessMoreWaitThanThePoolKeeps) {
  ParkedVisitors all(rig->role(0), ParkedVisitors::Leaves::kByReset);
  ClientConns conns;
  conns.live = 0;
  std::atomic<uint32_t> parked{0};
  ParkedQueue queue(conns, parked);
  const uint64_t allocated = rig->in_worker(0, [&] {
    Worker& worker = rig->worker(0);
    const auto come_and_go = [&](unsigned visitors) {
      for (unsigned i = 0; i < visitors; ++i) {
        all.park(queue, *worker.conns().claim(-1, {}, ConnRole::kVisitor, 0), all.deadline_ms());
      }
      while (ParkedVisitor* oldest = all.front(queue)) worker.conns().release(all.unpark(*oldest));
    };
    come_and_go(kRecordsKept);
    const uint64_t before = allocations();
    for (int round = 0; round < 50; ++round) come_and_go(kRecordsKept);
    return allocations() - before;
  });
  EXPECT_EQ(allocated, 0u);
}

INSTANTIATE_TEST_SUITE_P(Loops, ParkedVisitorsTest, testing::Values(IoKind::kEpoll, IoKind::kUring), loop_of);

}  // namespace
}  // namespace natrp
