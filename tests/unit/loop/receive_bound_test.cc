// What waits in a data channel for its reader (Loop::bound_receive_buffer), on real sockets.
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "base/limits.h"
#include "loop/loop_of.h"
#include "loop/recorder.h"
#include "net/loopback.h"

namespace natrp {
namespace {

using loopback::Two;
using ReceiveBoundTest = LoopSuite;

int receive_buffer(int fd) {
  int bytes = 0;
  socklen_t length = sizeof bytes;
  EXPECT_EQ(::getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, &length), 0);
  return bytes;
}

TEST_P(ReceiveBoundTest, AReceiveBufferThatIsBoundedDoesNotGrowAndItsWindowIsNotASmallOne) {
  uint64_t allowed = 0;
  std::ifstream("/proc/sys/net/core/rmem_max") >> allowed;
  Two two = loopback::connected();
  const int before = receive_buffer(two.near.get());
  loop->bound_receive_buffer(two.near.get());
  const int given = receive_buffer(two.near.get());
  if (allowed < kReceiveBytesMin) {
    EXPECT_EQ(given, before) << "less than the line needs is never asked for";
    return close(two.near);
  }
  ASSERT_GE(given, static_cast<int>(2 * kReceiveBytesMin));
  // A reader that takes much at once and never sleeps: the kernel would let it have more and more.
  const std::string bytes = std::string(1 << 20, 'b');
  std::string got(1 << 20, 0);
  size_t sent = 0;
  size_t received = 0;
  const auto send_all = [&] {
    for (ssize_t n; (n = ::send(two.far.get(), bytes.data(), bytes.size(), MSG_DONTWAIT)) > 0;) {
      sent += static_cast<size_t>(n);
    }
  };
  const auto waits = [&] { return static_cast<size_t>(loop->bytes_readable(two.near.get())); };
  ASSERT_TRUE(run_until(*loop, [&] {
    send_all();
    while (sent < 64u << 20 && received < sent) {
      const ssize_t n = loop->try_recv(two.near.get(), got.data(), got.size());
      if (n <= 0) break;
      received += static_cast<size_t>(n);
    }
    return sent >= 64u << 20;
  }));
  EXPECT_EQ(receive_buffer(two.near.get()), given);
  EXPECT_TRUE(run_until(*loop, [&] {
    send_all();
    return waits() >= kReceiveBytesMin / 2;
  })) << waits();
  EXPECT_LE(waits(), static_cast<size_t>(given));
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  const int unix_before = receive_buffer(pair[0]);
  loop->bound_receive_buffer(pair[0]);
  EXPECT_EQ(receive_buffer(pair[0]), unix_before);
  ::close(pair[0]);
  ::close(pair[1]);
  close(two.near);
}

INSTANTIATE_TEST_SUITE_P(Loops, ReceiveBoundTest, testing::Values(IoKind::kEpoll, IoKind::kUring), loop_of);

}  // namespace
}  // namespace natrp
