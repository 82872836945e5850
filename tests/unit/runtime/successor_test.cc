// A process started from a command, and how it is seen to end.
#include "runtime/successor.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "loop/loop_of.h"
#include "net/loopback.h"
#include "runtime/process.h"

namespace natrp {
namespace {

class SuccessorTest : public LoopSuite {
 protected:
  void SetUp() override {
    ::unsetenv("NOTIFY_SOCKET");  // the runner's
    LoopSuite::SetUp();
  }
  // A program that does what the shell is told. $0 is "--check" in a check, else the shell itself.
  std::vector<std::string> shell(const std::string& script) { return {"/bin/sh", "-c", script}; }
  void await(const std::optional<int>& ended) {
    for (int turn = 0; turn < 1000 && !ended; ++turn) loop->run_once(10);
  }
  // Its status, once it has ended.
  std::optional<int> check(Successor& successor) {
    std::optional<int> ended;
    const Status begun = successor.check({}, [&](int status) { ended = status; });
    EXPECT_TRUE(begun.ok()) << begun.error().message;
    await(ended);
    EXPECT_FALSE(successor.busy());
    return ended;
  }
  std::optional<int> check(const std::string& script) {
    Successor successor(*loop, shell(script));
    return check(successor);
  }
  std::vector<Fd> none;
};

// Over the one loop that control threads have: for what lasts 5 s, or goes on in a child, which a ring cannot.
class SuccessorControlTest : public SuccessorTest {};

TEST_P(SuccessorTest, TellsHowItEnded) {
  EXPECT_EQ(check("exit 0"), 0);
  const auto code = check("exit 3");
  ASSERT_TRUE(code);
  EXPECT_EQ(how_it_ended(*code), "ended with code 3");
  const auto killed = check("kill -KILL $$");
  ASSERT_TRUE(killed);
  EXPECT_EQ(how_it_ended(*killed), "was ended by signal 9");
}

TEST_P(SuccessorTest, IsAskedWithCheckAndStartedWithout) {
  EXPECT_EQ(check("test \"$0\" = --check"), 0);
  Successor successor(*loop, shell("test \"$0\" != --check"));
  std::optional<int> ended;
  ASSERT_TRUE(successor.start(none, [&](int status) { ended = status; }).ok());
  EXPECT_TRUE(successor.busy());
  EXPECT_GT(successor.pid(), 0);
  await(ended);
  EXPECT_EQ(ended, 0);
  EXPECT_EQ(check(successor), 1 << 8) << "it can be run again";
}

TEST_P(SuccessorTest, ACheckHasTheVariableAndAStartDoesNot) {
  Successor successor(*loop, shell("test \"$ASKED\" = 'a b,c'"));
  std::optional<int> ended;
  ASSERT_TRUE(successor.check("ASKED=a b,c", [&](int status) { ended = status; }).ok());
  await(ended);
  EXPECT_EQ(ended, 0);
  ended.reset();
  ASSERT_TRUE(successor.start(none, [&](int status) { ended = status; }).ok());
  await(ended);
  EXPECT_EQ(ended, 1 << 8);
}

TEST_P(SuccessorTest, HasNoDescriptorOfOurs) {
  const Fd open(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3));
  ASSERT_TRUE(open.valid());
  EXPECT_EQ(check("test ! -e /proc/self/fd/" + std::to_string(open.get())), 0);
}

TEST_P(SuccessorTest, ASignalThatComesBeforeItIsReadyDoesNotEndIt) {
  sigset_t before;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  block_signals();
  EXPECT_EQ(check("kill -USR2 $$; kill -TERM $$; exit 0"), 0);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST_P(SuccessorTest, WhatACheckSaysOnStandardErrorIsOneLine) {
  Successor successor(*loop, shell("echo one >&2; echo no; echo >&2; echo two >&2; exit 2"));
  EXPECT_EQ(check(successor), 2 << 8);
  EXPECT_EQ(successor.said(), "one; two");
  Successor silent(*loop, shell("exit 0"));
  EXPECT_EQ(check(silent), 0);
  EXPECT_EQ(silent.said(), "");
}

TEST_P(SuccessorTest, ACheckThatSaysTooMuchEndsAndIsCutShort) {
  Successor successor(*loop, shell("yes no | head -c 1000000 >&2; exit 2"));
  EXPECT_EQ(check(successor), 2 << 8);
  EXPECT_EQ(successor.said().substr(0, 8), "no; no; ");
  EXPECT_LT(successor.said().size(), 8192u);
}

TEST_P(SuccessorTest, AProcessThatACheckLeavesBehindIsNotAwaited) {
  Successor successor(*loop, shell("sleep 60 & echo $! >&2; exit 2"));
  EXPECT_EQ(check(successor), 2 << 8);
  const int left = std::stoi(successor.said());
  ASSERT_GT(left, 0) << successor.said();
  EXPECT_EQ(::kill(left, SIGKILL), 0) << "it still ran";
}

// A start may take as long as it likes.
TEST_P(SuccessorControlTest, ACheckThatHangsIsEnded) {
  const auto killed = check("exec sleep 60");
  ASSERT_TRUE(killed);
  EXPECT_EQ(how_it_ended(*killed), "was ended by signal 9");
}

TEST_P(SuccessorTest, ACheckEndsWithWhoeverAsked) {
  pid_t pid = -1;
  {
    Successor successor(*loop, shell("exec sleep 60"));
    ASSERT_TRUE(successor.check({}, [](int) { FAIL() << "it was not awaited"; }).ok());
    pid = successor.pid();
  }
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_EQ(how_it_ended(status), "was ended by signal 9");
}

TEST_P(SuccessorTest, OneWhoseEndSomebodyElseHasHeardHasEnded) {
  Successor successor(*loop, shell("exit 3"));
  std::optional<int> ended;
  ASSERT_TRUE(successor.start(none, [&](int status) { ended = status; }).ok());
  ASSERT_EQ(::waitpid(successor.pid(), nullptr, 0), successor.pid());
  await(ended);
  ASSERT_TRUE(ended);
  EXPECT_EQ(how_it_ended(*ended), "ended");
}

TEST_P(SuccessorTest, AFileThatIsNotThereIsSaid) {
  Successor successor(*loop, {"/nowhere/natrp-engine"});
  const Status begun = successor.start(none, [](int) { FAIL() << "nothing ran"; });
  ASSERT_FALSE(begun.ok());
  EXPECT_EQ(begun.error().message, "cannot start /nowhere/natrp-engine: No such file or directory");
  EXPECT_FALSE(successor.busy());
}

TEST_P(SuccessorTest, RunsOnWhenNobodyAwaitsItAnyMore) {
  pid_t pid = -1;
  {
    Successor successor(*loop, shell("exec sleep 60"));
    ASSERT_TRUE(successor.start(none, [](int) { FAIL() << "it was not awaited"; }).ok());
    pid = successor.pid();
  }
  EXPECT_EQ(::kill(pid, 0), 0);
  ::kill(pid, SIGKILL);
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
}

// In a child, whose environment is its own, and where nobody else's children are waited for.
void be_managed(Loop& loop, const std::vector<std::string>& command) {
  ::setenv("NOTIFY_SOCKET", "/nowhere", 1);
  Successor successor(loop, command);
  std::optional<int> ended;
  std::vector<Fd> none;
  const bool started = successor.start(none, [&](int status) { ended = status; }).ok();
  const bool is_ours = ::waitpid(-1, nullptr, WNOHANG) >= 0 || errno != ECHILD;
  for (int turn = 0; turn < 1000 && started && !ended; ++turn) loop.run_once(10);
  ::_exit(started && !is_ours && ended == Successor::kUnknownEnd ? 0 : 1);
}

TEST_P(SuccessorControlTest, IsTheServiceManagersChildWhereOneListens) {
  EXPECT_EXIT(be_managed(*loop, shell("sleep 0.2; exit 3")), testing::ExitedWithCode(0), "");
  Successor successor(*loop, {"/nowhere/natrp-engine"});
  ::setenv("NOTIFY_SOCKET", "/nowhere", 1);
  const Status started = successor.start(none, [](int) {});
  ::unsetenv("NOTIFY_SOCKET");
  ASSERT_FALSE(started.ok());
  EXPECT_NE(started.error().message.find("No such file"), std::string::npos) << started.error().message;
}

TEST_P(SuccessorTest, HasTheListenersThatAreHandedOnAndNoOther) {
  std::vector<Fd> listeners;
  for (int i = 0; i < 3; ++i) listeners.push_back(std::move(loopback::listener().fd));
  const std::string expected = "test $NATRP_HANDED_LISTENERS = " + std::to_string(listeners[0].get()) + ',' +
                               std::to_string(listeners[2].get());
  const Fd kept = std::move(listeners[1]);
  listeners.erase(listeners.begin() + 1);
  // Its standard streams may be sockets of whoever runs the tests.
  const std::string sockets = "$(ls -l /proc/self/fd | grep -v ' [012] -> ' | grep -c socket:)";
  Successor successor(*loop, shell(expected + " -a " + sockets + " -eq 2"));
  std::optional<int> ended;
  ASSERT_TRUE(successor.start(listeners, [&](int status) { ended = status; }).ok());
  await(ended);
  EXPECT_EQ(ended, 0);
}

// As of an edge of many tunnels. One variable has no room for them all (execve(2)).
TEST_P(SuccessorTest, HasAsManyListenersAsThereArePorts) {
  constexpr size_t kMany = 30'000;
  const auto listener = loopback::listener();
  const Fd high(::fcntl(listener.fd.get(), F_DUPFD_CLOEXEC, 10'000));
  if (!high.valid()) GTEST_SKIP() << "this process may have no such descriptor";
  std::vector<Fd> listeners;  // the same one again and again
  for (size_t i = 0; i < kMany; ++i) listeners.emplace_back(high.get());
  const std::string count = "$(env | grep ^NATRP_HANDED_LISTENERS | tr = , | tr -cd , | wc -c)";
  Successor successor(*loop, shell("test " + count + " -eq " + std::to_string(kMany)));
  std::optional<int> ended;
  const Status started = successor.start(listeners, [&](int status) { ended = status; });
  for (Fd& each : listeners) (void)each.release();
  ASSERT_TRUE(started.ok()) << started.error().message;
  await(ended);
  EXPECT_EQ(ended, 0);
}

// Each of them in a child, which may do what it likes with its environment.
void take(const std::string& variable, size_t expected) {
  ::setenv("NATRP_HANDED_LISTENERS", variable.c_str(), 1);
  const std::vector<Fd> taken = take_handed_listeners();
  bool sound = taken.size() == expected && ::getenv("NATRP_HANDED_LISTENERS") == nullptr;
  for (const Fd& fd : taken) sound = sound && ::fcntl(fd.get(), F_GETFD) == FD_CLOEXEC;
  ::_exit(sound ? 0 : 1);
}

TEST(HandedListeners, AreTakenOnceAndOnlyWhereTheyAreListeners) {
  const auto first = loopback::listener();
  const auto second = loopback::listener();
  const Fd other(::socket(AF_INET, SOCK_STREAM, 0));
  ::fcntl(first.fd.get(), F_SETFD, 0);
  const std::string a = std::to_string(first.fd.get());
  const std::string b = std::to_string(second.fd.get());
  EXPECT_EXIT(take(a + ',' + b, 2), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(take(a, 1), testing::ExitedWithCode(0), "");
  for (const std::string& wrong : {std::string(), std::string("x"), std::string("-1"), std::string("0,1,2"),
                                   std::string("99999999999999999999"), std::to_string(other.get())}) {
    EXPECT_EXIT(take(wrong, 0), testing::ExitedWithCode(0), "") << wrong;
  }
  EXPECT_EXIT(take(a + ',' + std::to_string(other.get()) + ',' + b, 2), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(take(a + ",," + b, 1), testing::ExitedWithCode(0), "");
}

void take_of_two_variables(const std::string& first, const std::string& second) {
  ::setenv("NATRP_HANDED_LISTENERS_2", second.c_str(), 1);
  take(first, 2);
}

TEST(HandedListeners, AreTakenOfAllVariables) {
  const auto first = loopback::listener();
  const auto second = loopback::listener();
  EXPECT_EXIT(take_of_two_variables(std::to_string(first.fd.get()), std::to_string(second.fd.get())),
              testing::ExitedWithCode(0), "");
}

TEST(OwnCommand, HasThePathOfTheFileAndTheArguments) {
  char name[] = "by-any-name";
  char flag[] = "--bind";
  char* argv[] = {name, flag, nullptr};
  const auto command = own_command(2, argv);
  ASSERT_EQ(command.size(), 2u);
  EXPECT_TRUE(command[0].ends_with("/unit_tests")) << command[0];
  EXPECT_EQ(command[1], "--bind");
}

// A link to the version in use, as some install it.
TEST(OwnCommand, NamesTheFileAsItWasNamed) {
  const std::filesystem::path folder = testing::TempDir() + "own_command_" + std::to_string(::getpid());
  std::filesystem::create_directory(folder);
  const std::string link = folder / "by-this-name";
  std::filesystem::create_symlink(std::filesystem::read_symlink("/proc/self/exe"), link);
  std::string named = link;
  char* argv[] = {named.data(), nullptr};
  EXPECT_EQ(own_command(1, argv).front(), link);

  const std::string before = ::getenv("PATH");
  ::setenv("PATH", ("/nowhere::" + folder.string()).c_str(), 1);
  char bare[] = "by-this-name";
  char* bare_argv[] = {bare, nullptr};
  EXPECT_EQ(own_command(1, bare_argv).front(), link);
  ::setenv("PATH", before.c_str(), 1);
  std::filesystem::remove_all(folder);
}

INSTANTIATE_TEST_SUITE_P(Loop, SuccessorControlTest, testing::Values(IoKind::kEpoll), loop_of);
INSTANTIATE_TEST_SUITE_P(Loops, SuccessorTest, testing::Values(IoKind::kEpoll, IoKind::kUring), loop_of);

}  // namespace
}  // namespace natrp
