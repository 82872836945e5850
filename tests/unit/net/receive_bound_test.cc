// What waits in a data channel for its reader: bound_receive_buffer() of net/socket.h.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/ioctl.h>

#include <string>

#include "base/limits.h"
#include "net/loopback.h"
#include "net/receive_buffer.h"

namespace natrp {
namespace {

// A connection whose far end says as much as it can.
struct Stream {
  loopback::Two two = loopback::connected();
  std::string bytes = std::string(1 << 20, 'b');
  size_t said = 0;
  size_t heard = 0;

  void say() {
    for (ssize_t n; (n = ::send(two.far.get(), bytes.data(), bytes.size(), MSG_DONTWAIT)) > 0;) {
      said += static_cast<size_t>(n);
    }
  }
  // A reader that takes much at once and never sleeps: the kernel would let it have more and more.
  void flow(size_t total) {
    std::string got(1 << 20, 0);
    for (int turn = 0; turn < 100'000 && heard < total; ++turn) {
      say();
      for (ssize_t n; (n = ::recv(two.near.get(), got.data(), got.size(), MSG_DONTWAIT)) > 0;) {
        heard += static_cast<size_t>(n);
      }
    }
    EXPECT_GE(heard, total);
  }
  // Nobody reads.
  size_t fill() {
    int waits = 0;
    for (int quiet = 0; quiet < 50; ++quiet) {
      const size_t before = said;
      say();
      if (said != before) quiet = 0;
      ::poll(nullptr, 0, 1);
    }
    EXPECT_EQ(::ioctl(two.near.get(), FIONREAD, &waits), 0);
    return static_cast<size_t>(waits);
  }
};

TEST(ReceiveBound, ABufferThatIsBoundedDoesNotGrowAndItsWindowIsNotASmallOne) {
  Stream stream;
  const int before = receive_buffer(stream.two.near.get());
  bound_receive_buffer(stream.two.near.get());
  const int given = receive_buffer(stream.two.near.get());
  if (!may_be_bounded()) {
    EXPECT_EQ(given, before) << "less than the line needs is never asked for";
    return;
  }
  ASSERT_TRUE(is_bounded(stream.two.near.get()));
  stream.flow(64 << 20);
  EXPECT_EQ(receive_buffer(stream.two.near.get()), given);
  const size_t waits = stream.fill();
  EXPECT_GE(waits, kReceiveBytesMin / 2);
  EXPECT_LE(waits, static_cast<size_t>(given));
}

TEST(ReceiveBound, WithoutABoundItGrows) {
  Stream stream;
  const int before = receive_buffer(stream.two.near.get());
  EXPECT_FALSE(is_bounded(stream.two.near.get()));
  stream.flow(64 << 20);
  EXPECT_GT(receive_buffer(stream.two.near.get()), before);
}

TEST(ReceiveBound, AUnixSocketIsLeftAsItIs) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  const Fd one(pair[0]);
  const Fd other(pair[1]);
  const int before = receive_buffer(one.get());
  bound_receive_buffer(one.get());
  EXPECT_EQ(receive_buffer(one.get()), before);
}

}  // namespace
}  // namespace natrp
