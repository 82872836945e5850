// An agent that stops: its tunnels are free at once, and its session is there for those who wait.
#include "edge/live_edge.h"

namespace natrp {
namespace {

class AgentDrainTest : public LiveEdgeTest {
 protected:
  void drain(HandAgent& agent) {
    wire::Frame frame;
    frame.mutable_drain()->set_seconds(30);
    agent.send(frame);
  }
  // A session whose agent drains while one visitor waits for a data channel.
  HandAgent& draining_with_a_visitor(uint16_t& port) {
    add_client("client");
    HandAgent& agent = open_session("client");
    port = lease(agent, "web");
    visit(port);
    EXPECT_TRUE(until([&] { return count(Counter::kVisitors) == 1; }));
    drain(agent);
    EXPECT_TRUE(until([&] { return tunnels_of(1) == 0; }));
    return agent;
  }
  // Of a session, by its number. (Asking the port would make visitors.)
  size_t tunnels_of(uint32_t session) {
    const std::vector<SessionInfo> sessions = edge_->list_sessions().value();
    for (const SessionInfo& info : sessions) {
      if (info.session == session) return info.tunnels.size();
    }
    ADD_FAILURE() << "session " << session << " is over";
    return 0;
  }
};

TEST_F(AgentDrainTest, TheSessionEndsAtOnceWhenNobodyWaits) {
  add_client("client");
  HandAgent& agent = open_session("client");
  const uint16_t port = lease(agent, "web");
  drain(agent);
  ASSERT_TRUE(until([&] { return agent.closed(); }, 3000));
  ASSERT_NE(agent.last(wire::Frame::kBye), nullptr);
  EXPECT_FALSE(listening(port));
  EXPECT_EQ(lease(open_session("client", "another process."), "web"), port) << "the lease was not kept for its client";
}

TEST_F(AgentDrainTest, TheSessionGoesOnUntilTheLastVisitorHasItsDataChannel) {
  uint16_t port = 0;
  HandAgent& agent = draining_with_a_visitor(port);
  ASSERT_NE(port, 0);
  EXPECT_EQ(lease(open_session("client", "another process."), "web"), port) << "the tunnel was not free";
  EXPECT_FALSE(agent.closed()) << agent.why_closed;
  EXPECT_FALSE(until([&] { return agent.closed(); }, 500)) << "its visitor waits";
  Fd& channel = agent.open_channel();
  uint8_t start[kStartBytes];
  ASSERT_TRUE(until([&] { return ::recv(channel.get(), start, sizeof start, MSG_DONTWAIT) == kStartBytes; }));
  ASSERT_TRUE(until([&] { return agent.closed(); }, 3000));
  EXPECT_NE(agent.last(wire::Frame::kBye), nullptr);
  EXPECT_EQ(count(Counter::kVisitorsRefused), 0u);
}

TEST_F(AgentDrainTest, AnAgentThatDrainsGetsNoTunnel) {
  uint16_t port = 0;
  HandAgent& agent = draining_with_a_visitor(port);
  EXPECT_EQ(lease(agent, "more", 0, 1), 0);
  ASSERT_NE(agent.refused(), nullptr);
  EXPECT_EQ(agent.refused()->code(), wire::Refused::DRAINING);
}

TEST_F(AgentDrainTest, AContestOfAnAgentThatDrainsEnds) {
  add_client("client");
  HandAgent& holder = open_session("client", "one process here", *second_loop_);  // whose loop stands still
  ASSERT_NE(lease(holder, "web"), 0);
  second_loop_turns_ = false;
  HandAgent& agent = open_session("client", "another process.");
  agent.wish(0, "web");
  drain(agent);
  ASSERT_TRUE(until([&] { return agent.closed(); }, 1500));
  ASSERT_NE(agent.refused(), nullptr);
  EXPECT_EQ(agent.refused()->code(), wire::Refused::DRAINING);
}

TEST_F(AgentDrainTest, AStrangerCannotDrain) {
  HandAgent& stranger = connect_agent();
  drain(stranger);
  ASSERT_TRUE(until([&] { return stranger.closed(); }));
  ASSERT_NE(stranger.refused(), nullptr);
  EXPECT_EQ(stranger.refused()->code(), wire::Refused::PROTOCOL);
}

TEST_F(AgentDrainTest, AByeIsTheEndOfASessionWhoeverClosesIt) {
  add_client("client");
  HandAgent& agent = open_session("client");
  const uint16_t port = lease(agent, "web");
  wire::Frame frame;
  frame.mutable_bye()->set_reason("enough");
  agent.send(frame);
  ASSERT_TRUE(until([&] { return agent.closed(); }, 3000));
  EXPECT_TRUE(until([&] { return !listening(port); }));
}

}  // namespace
}  // namespace natrp
