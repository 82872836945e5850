// An edge whose control thread stands still for a while: what its admin server says, and what comes of it.
#include "edge/edge_admin.h"

#include <time.h>

#include <atomic>
#include <chrono>
#include <csignal>

#include "admin/admin_server.h"
#include "edge/live_edge.h"

namespace natrp {
namespace {

class EdgeHealth : public LiveEdgeTest {
 protected:
  // The control thread stands still, as in a call that does not return.
  void hold() {
    held_ = true;
    std::signal(SIGRTMIN, [](int) {
      const timespec moment{.tv_sec = 0, .tv_nsec = 1'000'000};
      while (held_) ::nanosleep(&moment, nullptr);
    });
    ASSERT_EQ(::pthread_kill(thread_.id(), SIGRTMIN), 0);
  }
  static void let_go() { held_ = false; }
  void TearDown() override {
    let_go();
    LiveEdgeTest::TearDown();
  }

 private:
  inline static std::atomic<bool> held_{false};
};

TEST_F(EdgeHealth, AnEdgeWhoseControlThreadDoesNotRunIsNotWell) {
  EdgeAdmin shown(*edge_);
  EXPECT_EQ(shown.why_not_healthy(), "");
  hold();
  EXPECT_TRUE(until([&] { return shown.why_not_healthy() == "the control thread is busy"; }));
  let_go();
  EXPECT_TRUE(until([&] { return shown.why_not_healthy().empty(); }));
}

// As an edge does that hands over: visitors wait for it.
TEST_F(EdgeHealth, AServerThatStopsDoesNotWaitForAnswersOfTheThreadThatStopsIt) {
  using Clock = std::chrono::steady_clock;
  const Address address = loopback::listener().address;  // its port is free again
  EdgeAdmin shown(*edge_);
  AdminServer server(shown, address);
  ASSERT_TRUE(server.listen().ok());
  server.serve();
  hold();
  const Fd asks = loopback::connect_to(address);
  const std::string request = "GET /api/v1/sessions HTTP/1.0\r\n\r\n";
  ASSERT_EQ(::send(asks.get(), request.data(), request.size(), MSG_NOSIGNAL), static_cast<ssize_t>(request.size()));
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const auto began = Clock::now();
  server.stop();
  EXPECT_LT(Clock::now() - began, std::chrono::milliseconds(800));
}

// Before its answer there are more events than the edge takes in one turn.
TEST_F(EdgeHealth, AnAgentThatAnswersInTimeKeepsItsTunnelThoughItsEdgeHearsItLate) {
  add_client("client");
  HandAgent& holder = open_session("client", "one process here", *second_loop_);
  ASSERT_NE(lease(holder, "web"), 0);
  std::vector<HandAgent*> others;
  for (int i = 0; i < 300; ++i) others.push_back(&open_session("client", "many processes.."));
  HandAgent& newcomer = open_session("client", "another process.");
  second_loop_turns_ = false;
  newcomer.wish(0, "web");
  until([] { return false; }, 50);
  ASSERT_TRUE(edge_->list_sessions().has_value()) << "the holder is asked";
  hold();
  wire::Frame heartbeat;
  heartbeat.mutable_heartbeat()->set_sequence(1);
  for (HandAgent* other : others) other->send(heartbeat);
  until([] { return false; }, 200);
  second_loop_turns_ = true;
  until([] { return false; }, kSessionSilentMs);
  let_go();
  EXPECT_TRUE(until([&] { return newcomer.port() != 0 || newcomer.refused() != nullptr; }));
  EXPECT_EQ(newcomer.port(), 0);
  EXPECT_EQ(holder.refused(), nullptr);
  EXPECT_FALSE(holder.closed());
}

}  // namespace
}  // namespace natrp
