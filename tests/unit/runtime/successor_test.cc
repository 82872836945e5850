// A process started from a command, and how it is seen to end.
#include "runtime/successor.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <optional>
#include <string>
#include <vector>

#include "loop/loop_of.h"
#include "runtime/process.h"

namespace natrp {
namespace {

class SuccessorTest : public LoopSuite {
 protected:
  // A program that does what the shell is told. $0 is "--check" in a check, else the shell itself.
  std::vector<std::string> shell(const std::string& script) { return {"/bin/sh", "-c", script}; }
  // Its status, once it has ended.
  std::optional<int> check(Successor& successor) {
    std::optional<int> ended;
    const Status begun = successor.check([&](int status) { ended = status; });
    EXPECT_TRUE(begun.ok()) << begun.error().message;
    for (int turn = 0; turn < 1000 && !ended; ++turn) loop->run_once(10);
    EXPECT_FALSE(successor.busy());
    return ended;
  }
  std::optional<int> check(const std::string& script) {
    Successor successor(*loop, shell(script));
    return check(successor);
  }
};

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
  ASSERT_TRUE(successor.start([&](int status) { ended = status; }).ok());
  EXPECT_TRUE(successor.busy());
  EXPECT_GT(successor.pid(), 0);
  for (int turn = 0; turn < 1000 && !ended; ++turn) loop->run_once(10);
  EXPECT_EQ(ended, 0);
  EXPECT_EQ(check(successor), 1 << 8) << "it can be run again";
}

TEST_P(SuccessorTest, HasNoDescriptorOfOursAndNoBlockedSignal) {
  // Left open on purpose by whoever opened it.
  const Fd open(::dup(STDERR_FILENO));
  ASSERT_TRUE(open.valid());
  sigset_t before;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  block_signals();
  // ls has one of its own.
  EXPECT_EQ(check("test $(ls /proc/self/fd | wc -l) -le 4"), 0);
  EXPECT_EQ(check("grep -q '^SigBlk:.0*$' /proc/self/status"), 0);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST_P(SuccessorTest, AFileThatIsNotThereIsSaid) {
  Successor successor(*loop, {"/nowhere/natrp-engine"});
  const Status begun = successor.start([](int) { FAIL() << "nothing ran"; });
  ASSERT_FALSE(begun.ok());
  EXPECT_EQ(begun.error().message, "cannot start /nowhere/natrp-engine: No such file or directory");
  EXPECT_FALSE(successor.busy());
}

TEST_P(SuccessorTest, RunsOnWhenNobodyAwaitsItAnyMore) {
  pid_t pid = -1;
  {
    Successor successor(*loop, shell("exec sleep 60"));
    ASSERT_TRUE(successor.start([](int) { FAIL() << "it was not awaited"; }).ok());
    pid = successor.pid();
  }
  EXPECT_EQ(::kill(pid, 0), 0);
  ::kill(pid, SIGKILL);
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
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

INSTANTIATE_TEST_SUITE_P(Loops, SuccessorTest, testing::Values(IoKind::kEpoll, IoKind::kUring), loop_of);

}  // namespace
}  // namespace natrp
