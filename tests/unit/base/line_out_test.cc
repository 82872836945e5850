// Lines for a reader that stands still, is late, or goes on reading: whole or not at all, whatever lies between.
#include "base/line_out.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <termios.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <string>
#include <thread>

#include "base/no_descriptors.h"

namespace natrp {
namespace {

struct Ends {
  Fd reads;
  Fd writes;
};

Ends make_pipe() {
  int ends[2] = {-1, -1};
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  return {Fd(ends[0]), Fd(ends[1])};
}

Ends make_sockets(int type) {
  int ends[2] = {-1, -1};
  EXPECT_EQ(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends), 0);
  return {Fd(ends[0]), Fd(ends[1])};
}

Ends make_terminal() {
  Fd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  char name[64];
  EXPECT_TRUE(::grantpt(master.get()) == 0 && ::unlockpt(master.get()) == 0);
  EXPECT_EQ(::ptsname_r(master.get(), name, sizeof name), 0);
  Fd slave(::open(name, O_RDWR | O_NOCTTY | O_CLOEXEC));
  termios mode{};
  ::tcgetattr(slave.get(), &mode);
  ::cfmakeraw(&mode);
  ::tcsetattr(slave.get(), TCSANOW, &mode);
  return {std::move(master), std::move(slave)};
}

// Until there is no more; a terminal's bytes come a moment later.
std::string take(const Fd& fd) {
  ::fcntl(fd.get(), F_SETFL, O_NONBLOCK);
  std::string text;
  char bytes[65536];
  for (int nothing = 0; nothing < 20;) {
    const ssize_t got = ::read(fd.get(), bytes, sizeof bytes);
    if (got > 0) {
      text.append(bytes, static_cast<size_t>(got));
      nothing = 0;
    } else {
      ++nothing;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  return text;
}

std::string numbered(int number) { return std::to_string(number) + std::string(150, '.') + "\n"; }

struct Way {
  const char* name;
  Ends (*make)();
  bool opened_again = true;
};

class LineOutOver : public testing::TestWithParam<Way> {
 protected:
  void SetUp() override { ends_ = GetParam().make(); }
  // The first line, which decides how the others go.
  bool first(LineOut& out, const std::string& line) {
    if (GetParam().opened_again) return out.write(line);
    const NoDescriptors here;  // as where the pipe is another user's: to open it once more is refused
    return out.write(line);
  }
  Ends ends_;
};

TEST_P(LineOutOver, LinesAreWholeOrRefusedAtOnceAndAreTakenAgain) {
  LineOut out(ends_.writes.get());
  ASSERT_TRUE(first(out, numbered(0)));
  std::string expected = numbered(0);
  const auto began = std::chrono::steady_clock::now();
  int refused = 0;
  for (int i = 1; refused < 1000; ++i) {
    ASSERT_LT(i, 100'000);
    if (out.write(numbered(i))) {
      expected += numbered(i);
    } else {
      ++refused;
      EXPECT_EQ(out.error(), EAGAIN);
    }
  }
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(2));
  EXPECT_EQ(::fcntl(ends_.writes.get(), F_GETFL) & O_NONBLOCK, 0);
  std::string taken = take(ends_.reads);
  EXPECT_TRUE(out.finish());
  ASSERT_TRUE(out.write("the next one\n"));
  taken += take(ends_.reads);
  EXPECT_EQ(taken, expected + "the next one\n");
}

INSTANTIATE_TEST_SUITE_P(Ways, LineOutOver,
                         testing::Values(Way{"a_pipe", make_pipe}, Way{"another_users_pipe", make_pipe, false},
                                         Way{"a_stream_socket", [] { return make_sockets(SOCK_STREAM); }},
                                         Way{"a_datagram_socket", [] { return make_sockets(SOCK_DGRAM); }},
                                         Way{"a_terminal", make_terminal}),
                         [](const auto& given) { return given.param.name; });

class LineOutOverPipes : public LineOutOver {};

TEST_P(LineOutOverPipes, TheRestOfALongLineGoesBeforeTheNext) {
  LineOut out(ends_.writes.get());
  const std::string longer_than_the_pipe = std::string(100'000, 'x') + "\n";
  ASSERT_TRUE(first(out, longer_than_the_pipe));
  EXPECT_FALSE(out.write("refused\n"));
  EXPECT_FALSE(out.finish());
  std::string taken = take(ends_.reads);
  ASSERT_TRUE(out.write("the next one\n"));
  taken += take(ends_.reads);
  EXPECT_TRUE(taken == longer_than_the_pipe + "the next one\n") << taken.size();
}

INSTANTIATE_TEST_SUITE_P(Ways, LineOutOverPipes,
                         testing::Values(Way{"a_pipe", make_pipe}, Way{"another_users_pipe", make_pipe, false}),
                         [](const auto& given) { return given.param.name; });

// A pipe's worth and more at once, while the reader has not the processor. This host may be busier than that: once in a
// number of tries it is not.
TEST(LineOut, AReaderThatIsAFewMillisecondsLateLosesNothing) {
  bool all_taken = false;
  for (int tries = 0; tries < 50 && !all_taken; ++tries) {
    Ends ends = make_pipe();
    std::thread reader([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(3));
      char bytes[65536];
      while (::read(ends.reads.get(), bytes, sizeof bytes) > 0) {
      }
    });
    {
      LineOut out(ends.writes.get());
      all_taken = true;
      for (int i = 0; i < 1000; ++i) all_taken = out.write(numbered(i)) && all_taken;
    }
    ends.writes.reset();
    reader.join();
  }
  EXPECT_TRUE(all_taken);
}

TEST(LineOut, AReaderThatIsGoneIsToldFromOneThatStandsStill) {
  const auto before = std::signal(SIGPIPE, SIG_IGN);
  Ends ends = make_pipe();
  LineOut out(ends.writes.get());
  EXPECT_TRUE(out.write("read by somebody\n"));
  ends.reads.reset();
  EXPECT_FALSE(out.write("read by nobody\n"));
  EXPECT_EQ(out.error(), EPIPE);
  std::signal(SIGPIPE, before);
}

TEST(LineOut, AFullDiskIsNoReasonToEnd) {
  const Fd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  LineOut out(full.get());
  EXPECT_FALSE(out.write("one\n"));
  EXPECT_EQ(out.error(), ENOSPC);
}

TEST(LineOut, WhatItsDescriptorLeadsToMayChange) {
  Ends first = make_pipe();
  Ends second = make_pipe();
  LineOut out(first.writes.get());
  EXPECT_TRUE(out.write("one\n"));
  ASSERT_EQ(::dup2(second.writes.get(), first.writes.get()), first.writes.get());
  EXPECT_TRUE(out.write("two\n"));
  EXPECT_EQ(take(first.reads), "one\n");
  EXPECT_EQ(take(second.reads), "two\n");
}

}  // namespace
}  // namespace natrp
