// When an edge makes way, and what it does about a successor that is no good: with shells in the successor's place.
#include "edge/handover.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "loop/loop_of.h"
#include "loop/recorder.h"

namespace natrp {
namespace {

class HandoverTest : public LoopSuite {
 protected:
  void SetUp() override {
    LoopSuite::SetUp();
    if (IsSkipped()) return;
    options.bind = Address::parse("127.0.0.1:7000").value();
    char path[] = "/tmp/natrp_handover_test_XXXXXX";
    ASSERT_NE(::mkdtemp(path), nullptr);
    folder = path;
  }
  void TearDown() override {
    handover.reset();
    std::error_code ignored;
    if (!folder.empty()) std::filesystem::remove_all(folder, ignored);
  }

  // checked: what the shell does when it is tried; started: what it does in the edge's place. Its $F is our folder.
  void make(const std::string& checked, const std::string& started) {
    const std::string is_tried = "F=" + folder + "; if test \"$0\" = --check; then ";
    const std::string script = is_tried + checked + "; else " + started + "; fi";
    handover = std::make_unique<Handover>(*loop, options, Succession{.command = {"/bin/sh", "-c", script}});
  }
  void begin() {
    handover->begin(false, [this] { ++drains; });
  }
  bool waits() {
    return run_until(*loop, [&] { return handover->under_way(); });
  }
  bool has(const std::string& file) { return std::filesystem::exists(folder + '/' + file); }

  EdgeOptions options;
  std::string folder;
  std::unique_ptr<Handover> handover;
  int drains = 0;
};

TEST_P(HandoverTest, TheSuccessorStartsWhenTheEdgeHasLetGo) {
  make("exit 0", "touch $F/started");
  begin();
  EXPECT_FALSE(handover->under_way()) << "it is tried first";
  ASSERT_TRUE(waits());
  EXPECT_EQ(drains, 1);
  EXPECT_FALSE(handover->is_due(false)) << "a visitor waits for its data channel";
  EXPECT_TRUE(handover->is_due(true));
  handover->let_go();
  EXPECT_FALSE(handover->is_due(true)) << "once";
  EXPECT_TRUE(handover->under_way()) << "its public ports are still to be handed on";
  EXPECT_FALSE(has("started"));
  handover->start({});
  EXPECT_FALSE(handover->under_way());
  EXPECT_FALSE(handover->call_off()) << "too late";
  EXPECT_TRUE(handover->watches());
  EXPECT_TRUE(run_until(*loop, [&] { return has("started"); }));
}

TEST_P(HandoverTest, OneThatIsNoGoodChangesNothingAndTheNextMayBeBetter) {
  make("test -e $F/better", "exit 0");
  begin();
  begin();  // changes nothing: it is being tried
  run_for(*loop, 200);
  EXPECT_FALSE(handover->under_way());
  EXPECT_EQ(drains, 0);
  EXPECT_FALSE(handover->call_off());
  const Fd better(::open((folder + "/better").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  begin();
  EXPECT_TRUE(waits());
  EXPECT_EQ(drains, 1);
}

TEST_P(HandoverTest, AnEdgeThatStopsWhileItIsTriedDrainsForNoHandover) {
  make("touch $F/tried; exit 0", "exit 0");
  begin();
  EXPECT_FALSE(handover->call_off()) << "nothing was drained for it";
  ASSERT_TRUE(run_until(*loop, [&] { return has("tried"); }));
  run_for(*loop, 100);
  EXPECT_FALSE(handover->under_way());
  EXPECT_EQ(drains, 0);
}

TEST_P(HandoverTest, AnEdgeThatIsToldToStopWhileItLetsGoStartsNoSuccessor) {
  make("exit 0", "touch $F/started");
  begin();
  ASSERT_TRUE(waits());
  handover->let_go();
  EXPECT_TRUE(handover->call_off()) << "what it drained is not needed";
  EXPECT_FALSE(handover->under_way());
  handover->start({});
  run_for(*loop, 200);
  EXPECT_FALSE(has("started"));
  EXPECT_FALSE(handover->watches());
  EXPECT_FALSE(handover->call_off()) << "once";
  EXPECT_FALSE(handover->leave()) << "there is no successor";
}

TEST_P(HandoverTest, ASuccessorThatEndsByAFaultIsStartedAgainAndOneThatWasToldToIsNot) {
  make("exit 0", "test -e $F/first && touch $F/second && exit 0; touch $F/first; exit 7");
  begin();
  ASSERT_TRUE(waits());
  handover->let_go();
  handover->start({});
  ASSERT_TRUE(run_until(*loop, [&] { return has("second"); }));
  EXPECT_TRUE(handover->watches()) << "the edge is there until it has seen it start";
  std::filesystem::remove(folder + "/second");
  run_for(*loop, 1500);
  EXPECT_FALSE(has("second"));
}

TEST_P(HandoverTest, AnEdgeThatIsToldToStopLooksAfterItsSuccessorNoLonger) {
  for (const bool has_ended : {false, true}) {
    make("exit 0", "echo >> $F/starts; until test -e $F/end; do sleep 0.02; done; exit 7");
    begin();
    ASSERT_TRUE(waits());
    handover->let_go();
    handover->start({});
    ASSERT_TRUE(run_until(*loop, [&] { return has("starts"); }));
    const auto end = [&] {
      std::ofstream(folder + "/end") << "now";
      run_for(*loop, 200);
    };
    if (has_ended) end();
    EXPECT_TRUE(handover->leave());
    EXPECT_FALSE(handover->leave()) << "once";
    EXPECT_FALSE(handover->watches());
    if (!has_ended) end();
    run_for(*loop, 1200);
    EXPECT_EQ(std::filesystem::file_size(folder + "/starts"), 1u) << "it was not started again";
    std::filesystem::remove(folder + "/starts");
    std::filesystem::remove(folder + "/end");
  }
}

TEST_P(HandoverTest, AnEdgeThatNobodyFindsAgainHasNoSuccessor) {
  options.bind = Address::parse("127.0.0.1:0").value();
  make("touch $F/tried", "exit 0");
  begin();
  run_for(*loop, 200);
  EXPECT_FALSE(has("tried"));
  handover = std::make_unique<Handover>(*loop, options, Succession{});
  begin();
  EXPECT_FALSE(handover->under_way());
}

TEST_P(HandoverTest, AnEdgeThatDrainsHasNoSuccessor) {
  make("touch $F/tried", "exit 0");
  handover->begin(true, [this] { ++drains; });
  run_for(*loop, 200);
  EXPECT_FALSE(has("tried"));
}

// The loop that control threads have.
INSTANTIATE_TEST_SUITE_P(Loops, HandoverTest, testing::Values(IoKind::kEpoll), loop_of);

}  // namespace
}  // namespace natrp
