// What a tunnel counts of its visitors, however they come and go.
#include "edge/tunnel_stats.h"

#include "admin/live_bytes.h"
#include "edge/edge_rig.h"
#include "relay/chunk_text.h"

namespace natrp {
namespace {

class TunnelStatsTest : public EdgeWorkerTest {
 protected:
  // The agent's end of a channel that has shown its ticket to worker 0.
  Peer& bring(const EdgeSession& session) {
    loopback::Two two = loopback::connected();
    Peer& agent = agents.emplace_back();
    agent.fd = std::move(two.far);
    rig->in_worker(0, [&] { rig->role(0).take_channel(two.near.release(), session.id); });
    return agent;
  }
  bool until(const std::function<bool()>& done) {
    const auto turn = [&] {
      for (Peer& agent : agents) agent.turn();
      return done();
    };
    return rig->until(turn, 10'000);
  }
  // Those that are over, and those that are still there.
  static TunnelCounts counted(const std::shared_ptr<TunnelStats>& stats) { return stats->sum(); }
  TunnelCounts counted() const { return counted(rig->native_stats); }
  TunnelCounts shown() {
    std::vector<SessionInfo> sessions(1);
    sessions[0].tunnels.push_back({"native", 9, 20000, counted()});
    live.add_to(sessions, rig->conns());
    return sessions[0].tunnels[0].counts;
  }
  bool wait_over() {
    return until([&] { return counted().visitors_live == 0; });
  }
  static void expect(const TunnelCounts& counts, uint64_t total, uint64_t refused, uint64_t up, uint64_t down) {
    EXPECT_EQ(counts.visitors_total, total);
    EXPECT_EQ(counts.visitors_refused, refused);
    EXPECT_EQ(counts.bytes_up, up);
    EXPECT_EQ(counts.bytes_down, down);
  }
  size_t tunnels_here(unsigned worker = 0) {
    return rig->in_worker(worker, [&] { return rig->role(worker).tunnels().size(); });
  }

  std::deque<Peer> agents;
  LiveBytes live;
};

TEST_P(TunnelStatsTest, AShortVisitorIsCountedWhenItIsOverThoughItsChannelIsNotFreeYet) {
  make();
  if (IsSkipped()) return;
  const auto session = rig->open_session(true);
  Peer& agent = bring(*session);
  for (const uint64_t visitors : {1, 2, 3}) {
    Peer& visitor = rig->visit(0, "native");
    visitor.say = "question";
    visitor.closes = true;
    const size_t heard = agent.heard.size();
    ASSERT_TRUE(until([&] { return agent.heard.size() >= heard + kStartBytes + 12; }));
    EXPECT_EQ(counted().visitors_live, 1u);
    EXPECT_EQ(shown().bytes_up, 8 * visitors);
    agent.say += chunk_of("answer") + kEndText;
    ASSERT_TRUE(wait_over());
    expect(counted(), visitors, 0, 8 * visitors, 6 * visitors);
    expect(shown(), visitors, 0, 8 * visitors, 6 * visitors);
    agent.say += kFreeText;
    ASSERT_TRUE(until([&] { return session->places[0].ready.load() == 1; }));
    expect(shown(), visitors, 0, 8 * visitors, 6 * visitors);
  }
  EXPECT_EQ(rig->count(Counter::kChannelsReturned), 3u);
}

TEST_P(TunnelStatsTest, AVisitorThatResetsIsCountedWithWhatItSaid) {
  make();
  if (IsSkipped()) return;
  const auto session = rig->open_session();
  Peer& agent = bring(*session);
  Peer& visitor = rig->visit(0, "native");
  visitor.say = "question";
  agent.say = {};
  ASSERT_TRUE(until([&] { return agent.heard.size() == kStartBytes + 8; }));
  agent.say = "answer";
  ASSERT_TRUE(until([&] { return visitor.heard == "answer"; }));
  EXPECT_EQ(counted().visitors_live, 1u);
  expect(counted(), 1, 0, 0, 0);
  expect(shown(), 1, 0, 8, 6);
  loopback::reset(visitor.fd);
  ASSERT_TRUE(until([&] { return agent.was_reset; }));
  ASSERT_TRUE(wait_over());
  expect(counted(), 1, 0, 8, 6);
  expect(shown(), 1, 0, 8, 6);
}

TEST_P(TunnelStatsTest, SplicedBytesAreCounted) {
  make();
  if (IsSkipped()) return;
  const auto session = rig->open_session();
  Peer& agent = bring(*session);
  Peer& visitor = rig->visit(0, "native");
  visitor.say = some_bytes(6'000'000);
  agent.hear_at_once = 1 << 18;
  ASSERT_TRUE(until([&] { return agent.heard.size() == kStartBytes + visitor.say.size(); }));
  agent.say = some_bytes(4'000'000);
  ASSERT_TRUE(until([&] { return visitor.heard.size() == agent.say.size(); }));
  expect(shown(), 1, 0, 6'000'000, 4'000'000);
  visitor.closes = agent.closes = true;
  ASSERT_TRUE(wait_over());
  expect(counted(), 1, 0, 6'000'000, 4'000'000);
  EXPECT_GT(rig->count(Counter::kBytesSpliced), 0u);
}

TEST_P(TunnelStatsTest, ThoseThatAreRefusedAndThoseThatLeaveAreOver) {
  make();
  if (IsSkipped()) return;
  const auto session = rig->open_session(false, 1);
  Peer& waits = rig->visit(0, "native");
  ASSERT_TRUE(until([&] { return session->places[0].parked.load() == 1; }));
  Peer& one_too_many = rig->visit(0, "native");
  ASSERT_TRUE(until([&] { return one_too_many.over(); }));
  expect(counted(), 2, 1, 0, 0);
  EXPECT_EQ(counted().visitors_live, 1u);
  loopback::reset(waits.fd);
  ASSERT_TRUE(wait_over());
  expect(counted(), 2, 1, 0, 0);
  rig->visit(0, "native");
  ASSERT_TRUE(until([&] { return session->places[0].parked.load() == 1; }));
  rig->in_worker(0, [&] { rig->role(0).close_session(session->id); });
  ASSERT_TRUE(wait_over());
  expect(counted(), 3, 2, 0, 0);
}

TEST_P(TunnelStatsTest, AWorkerForgetsATunnelWithItsPortAndItsLastVisitor) {
  make();
  if (IsSkipped()) return;
  const auto session = rig->open_session();
  Peer& agent = bring(*session);
  Peer& visitor = rig->visit(0, "native");
  visitor.say = "question";
  ASSERT_TRUE(until([&] { return agent.heard.size() == kStartBytes + 8; }));
  EXPECT_EQ(tunnels_here(), 1u);
  rig->close_public_ports("native");
  EXPECT_FALSE(rig->until([&] { return tunnels_here() == 0; }, 100)) << "a visitor is there";
  visitor.closes = agent.closes = true;
  EXPECT_TRUE(until([&] { return tunnels_here() == 0; }));
  expect(counted(), 1, 0, 8, 0);
}

TEST_P(TunnelStatsTest, AnOriginalClientsVisitorIsCountedOnceThoughItMoves) {
  make(2);
  if (IsSkipped()) return;
  const auto client = rig->add_client("client");
  GrpcSocket& agent = rig->connect_agent(1);
  const int32_t id = agent.open("client");
  ASSERT_TRUE(rig->until([&] { return rig->count(Counter::kChannelsReady) == 1; }));
  Peer& visitor = rig->visit(0, "client");
  visitor.say = "question";
  agent.say(id, "answer");
  ASSERT_TRUE(rig->until([&] { return visitor.heard == "answer" && agent.heard(id) == "question"; }));
  EXPECT_EQ(counted(client->stats).visitors_live, 1u);
  rig->close_public_ports("client");
  EXPECT_TRUE(rig->until([&] { return tunnels_here(0) == 0; }));
  visitor.closes = true;
  ASSERT_TRUE(rig->until([&] { return counted(client->stats).visitors_live == 0; }));
  expect(counted(client->stats), 1, 0, 8, 6);
  EXPECT_EQ(tunnels_here(1), 0u);
}

INSTANTIATE_TEST_SUITE_P(Loops, TunnelStatsTest, testing::Values(IoKind::kEpoll, IoKind::kUring), loop_of);

}  // namespace
}  // namespace natrp
