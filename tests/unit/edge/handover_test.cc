// When an edge makes way, and what it does about a successor that is no good: with shells in the successor's place.
#include "edge/handover.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>

#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/no_descriptors.h"
#include "control/temp_dir.h"
#include "loop/loop_of.h"
#include "loop/recorder.h"
#include "net/address.h"
#include "net/loopback.h"
#include "store/state_dir.h"

namespace natrp {
namespace {

class HandoverTest : public LoopSuite {
 protected:
  void SetUp() override {
    ::unsetenv("NOTIFY_SOCKET");  // the runner's
    LoopSuite::SetUp();
    if (IsSkipped()) return;
    options.bind = Address::parse("127.0.0.1:7000").value();
    options.state_dir = folder + "/state";
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
  void hand_over() {
    begin();
    ASSERT_TRUE(waits());
    handover->let_go();
    start();
  }
  void start() {
    auto lock = lock_state_dir(options.state_dir);
    ASSERT_TRUE(lock.ok()) << lock.error().message;
    unlock_state_dir(lock.value());
    handover->start({}, std::move(lock).value());
  }
  bool has(const std::string& file) { return std::filesystem::exists(folder + '/' + file); }
  void make_file(const std::string& name) { std::ofstream(folder + '/' + name) << "now"; }

  TempDir temp_dir;
  const std::string folder = temp_dir.path();
  EdgeOptions options;
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
  start();
  EXPECT_FALSE(handover->under_way());
  EXPECT_FALSE(handover->call_off()) << "too late";
  EXPECT_TRUE(handover->watches());
  EXPECT_TRUE(run_until(*loop, [&] { return has("started"); }));
}

TEST_P(HandoverTest, OneThatIsNoGoodChangesNothingAndTheNextMayBeBetter) {
  make("test -e $F/better", "exit 0");
  begin();
  begin();  // changes nothing: it is being tried
  run_for(*loop, 500);
  EXPECT_FALSE(handover->under_way());
  EXPECT_EQ(drains, 0);
  EXPECT_FALSE(handover->call_off());
  make_file("better");
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
  start();
  run_for(*loop, 200);
  EXPECT_FALSE(has("started"));
  EXPECT_FALSE(handover->watches());
  EXPECT_FALSE(handover->call_off()) << "once";
  EXPECT_FALSE(handover->leave()) << "there is no successor";
}

TEST_P(HandoverTest, ASuccessorThatEndsByAFaultIsStartedAgainAndOneThatWasToldToIsNot) {
  make("exit 0", "test -e $F/first && touch $F/second && exit 0; touch $F/first; exit 7");
  hand_over();
  ASSERT_TRUE(run_until(*loop, [&] { return has("second"); }));
  EXPECT_TRUE(handover->watches()) << "the edge is there until it has seen it start";
  std::filesystem::remove(folder + "/second");
  run_for(*loop, 2500);  // the next time would be after 2 s
  EXPECT_FALSE(has("second"));
}

// Another program holds its store, for example. It has not begun to serve, so nothing is lost yet.
TEST_P(HandoverTest, OneThatTakesLongToFailLeavesItsListenersToTheNext) {
  make("exit 0", "sleep 3; echo \"$NATRP_HANDED_LISTENERS\" >> $F/handed; exit 2");
  begin();
  ASSERT_TRUE(waits());
  handover->let_go();
  auto lock = lock_state_dir(options.state_dir);
  ASSERT_TRUE(lock.ok()) << lock.error().message;
  unlock_state_dir(lock.value());
  std::vector<Fd> listeners;
  listeners.push_back(loopback::listener().fd);
  const std::string line = std::to_string(listeners.front().get()) + '\n';
  handover->start(std::move(listeners), std::move(lock).value());
  const auto handed = [this] { return has("handed") ? std::filesystem::file_size(folder + "/handed") : 0; };
  const auto fails = [&](size_t times) {
    return run_until(*loop, [&] {
      handover->tick();
      return handed() >= times * line.size() || !handover->watches();
    }, 10000);
  };
  ASSERT_TRUE(fails(1));
  EXPECT_EQ(handed(), line.size()) << "an idle edge does not leave a successor that has not begun";
  ASSERT_TRUE(fails(2));
  EXPECT_EQ(handed(), 2 * line.size());
}

TEST_P(HandoverTest, AnEdgeThatIsToldToStopLooksAfterItsSuccessorNoLonger) {
  for (const bool has_ended : {false, true}) {
    make("exit 0", "echo >> $F/starts; while test -d $F -a ! -e $F/end; do sleep 0.02; done; exit 7");
    hand_over();
    ASSERT_TRUE(run_until(*loop, [&] { return has("starts"); }));
    const auto end = [&] {
      make_file("end");
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

// --- With a service manager -----------------------------------------------------------------------------------------

class ManagedHandoverTest : public HandoverTest {
 protected:
  void SetUp() override {
    HandoverTest::SetUp();
    if (IsSkipped()) return;
    const std::string path = folder + "/notify";
    const Address address = Address::unix_path(path).value();
    manager.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::bind(manager.get(), address.get(), address.length()), 0);
    ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
  }
  void TearDown() override {
    ::unsetenv("NOTIFY_SOCKET");
    if (main_process > 0) ::kill(main_process, SIGKILL);
  }
  // A successor that has the state folder from the time when there is a file, and until it is killed.
  void start_leader(const std::string& when) {
    const std::string leads = "exec 9<>$F/state/edge.lock; flock 9; exec sleep 60";
    make("exit 0", "while test -d $F -a ! -e $F/" + when + "; do sleep 0.02; done; " + leads);
    hand_over();
  }
  // What the manager has been told by now.
  bool reads_main_process() {
    char said[64] = {};
    if (::recv(manager.get(), said, sizeof said - 1, 0) <= 0) return false;
    const std::string_view text(said);
    if (!text.starts_with("MAINPID=")) return false;
    return std::from_chars(said + 8, said + text.size(), main_process).ec == std::errc();
  }
  bool reads_nothing() {
    char said[64];
    return ::recv(manager.get(), said, sizeof said, 0) < 0;
  }
  // With ticks, as an edge has them.
  bool is_told() {
    return run_until(*loop, [&] {
      handover->tick();
      return reads_main_process();
    });
  }

  Fd manager;
  pid_t main_process = -1;
};

TEST_P(ManagedHandoverTest, TheManagerHearsOfASuccessorWhenThatLeads) {
  start_leader("leads");
  for (int i = 0; i < 10; ++i) {
    run_for(*loop, 20);
    handover->tick();
  }
  EXPECT_TRUE(reads_nothing());
  make_file("leads");
  ASSERT_TRUE(is_told());
  run_for(*loop, 20);
  handover->tick();
  EXPECT_TRUE(reads_nothing()) << "once";
}

TEST_P(ManagedHandoverTest, OneThatLeadsElsewhereIsAnnouncedAtTheEnd) {
  make("exit 0", "exec sleep 60");
  hand_over();
  handover->tick();
  handover.reset();
  EXPECT_TRUE(reads_main_process());
}

TEST_P(ManagedHandoverTest, WhoStopsTheUnitSaysItTwiceToThoseThatAreLeft) {
  make_file("leads");
  start_leader("leads");
  ASSERT_TRUE(is_told());
  EXPECT_TRUE(handover->leave());
  ::kill(main_process, SIGKILL);
  run_for(*loop, 200);
  EXPECT_TRUE(handover->leave());
  EXPECT_FALSE(handover->leave());
}

TEST_P(ManagedHandoverTest, ThatAnotherEdgeLeadsIsKnownWithoutADescriptor) {
  make_file("leads");
  start_leader("leads");
  ASSERT_TRUE(is_told());
  const NoDescriptors here;
  EXPECT_TRUE(handover->leave()) << "what flows here may finish";
}

TEST_P(ManagedHandoverTest, AManagerThatWaitsForOurEndToStartTheNextHasIt) {
  make_file("leads");
  start_leader("leads");
  ASSERT_TRUE(is_told());
  ::kill(main_process, SIGKILL);
  run_for(*loop, 200);
  EXPECT_FALSE(handover->leave()) << "no edge has the state folder";
}

TEST_P(ManagedHandoverTest, ASuccessorThatDoesNotGetAsFarIsStartedAgain) {
  make("exit 0", "echo >> $F/starts; exit 2");
  hand_over();
  EXPECT_TRUE(run_until(*loop, [&] { return has("starts") && std::filesystem::file_size(folder + "/starts") == 2; }));
  handover->tick();
  EXPECT_TRUE(reads_nothing()) << "of no such one";
}

// The loop that control threads have.
INSTANTIATE_TEST_SUITE_P(Loops, ManagedHandoverTest, testing::Values(IoKind::kEpoll), loop_of);
INSTANTIATE_TEST_SUITE_P(Loops, HandoverTest, testing::Values(IoKind::kEpoll), loop_of);

}  // namespace
}  // namespace natrp
