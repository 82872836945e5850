// Whether an edge is well, as its admin server says it.
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

}  // namespace
}  // namespace natrp
