// Whether an edge is well, as its admin server says it.
#include "edge/edge_admin.h"

#include <time.h>

#include <atomic>
#include <chrono>
#include <csignal>

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

}  // namespace
}  // namespace natrp
