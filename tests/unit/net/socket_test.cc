// What net/socket promises of every socket: its options, on a dialled one and on one that a listener accepted.
#include "net/socket.h"

#include <gtest/gtest.h>
#include <netinet/tcp.h>

#include <string>

#include "base/limits.h"
#include "net/loopback.h"

namespace natrp {
namespace {

int option(const Fd& fd, int level, int name) {
  int value = -1;
  socklen_t length = sizeof value;
  EXPECT_EQ(::getsockopt(fd.get(), level, name, &value, &length), 0);
  return value;
}

struct Accepted {
  Fd fd;
  Fd visitor;
};

// As the workers accept: what the listener has been told is handed on by the kernel.
Accepted accepted_with(const SocketOptions& options) {
  auto listener = listen_on(Address::parse("127.0.0.1:0").value(), options, 1);
  loopback::must(listener.ok(), "listen");
  Accepted out;
  out.visitor = loopback::connect_to(local_address(listener.value().get()));
  out.fd.reset(::accept4(listener.value().get(), nullptr, nullptr, SOCK_CLOEXEC));
  loopback::must(out.fd.valid(), "accept");
  return out;
}

// Both kinds of socket that a relay has.
template <typename Check>
void both(const SocketOptions& options, Check check) {
  SCOPED_TRACE(options.keepalive == Keepalive::kSlow ? "slow" : "tunnel");
  const auto dialled = make_stream_socket(AF_INET, options);
  ASSERT_TRUE(dialled.ok());
  check(dialled.value());
  check(accepted_with(options).fd);
}

TEST(Socket, NoneWaitsForMoreBytesAndEachIsResetWhenItsProcessDies) {
  for (const Keepalive keepalive : {Keepalive::kTunnel, Keepalive::kSlow}) {
    both({.keepalive = keepalive}, [](const Fd& fd) {
      EXPECT_EQ(option(fd, IPPROTO_TCP, TCP_NODELAY), 1);
      linger how{};
      socklen_t length = sizeof how;
      ASSERT_EQ(::getsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &how, &length), 0);
      EXPECT_EQ(how.l_onoff, 1);
      EXPECT_EQ(how.l_linger, 0);
    });
  }
}

TEST(Socket, ADeadPeerIsNoticedSoonInATunnelAndLateBesideIt) {
  for (const Keepalive keepalive : {Keepalive::kTunnel, Keepalive::kSlow}) {
    const bool slow = keepalive == Keepalive::kSlow;
    both({.keepalive = keepalive}, [slow](const Fd& fd) {
      EXPECT_EQ(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
      EXPECT_EQ(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), slow ? kSlowKeepaliveIdleS : kKeepaliveIdleS);
      EXPECT_EQ(option(fd, IPPROTO_TCP, TCP_KEEPINTVL), slow ? kSlowKeepaliveIntervalS : kKeepaliveIntervalS);
      EXPECT_EQ(option(fd, IPPROTO_TCP, TCP_KEEPCNT), slow ? kSlowKeepaliveProbes : kKeepaliveProbes);
    });
  }
}

TEST(Socket, AnUrgentByteStaysInTheStreamOfAVisitorAndOfAService) {
  both({.keepalive = Keepalive::kSlow}, [](const Fd& fd) { EXPECT_EQ(option(fd, SOL_SOCKET, SO_OOBINLINE), 1); });
}

TEST(Socket, OnlyWhereItIsAskedForAPeerThatTakesNothingIsGivenUp) {
  for (const bool asked : {false, true}) {
    both({.user_timeout = asked}, [asked](const Fd& fd) {
      EXPECT_EQ(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), asked ? kTcpUserTimeoutMs : 0);
    });
  }
}

TEST(Socket, OnlyWhereItIsAskedForAcknowledgementsWaitForTheNextBytes) {
  for (const bool asked : {false, true}) {
    both({.piggyback_acks = asked}, [asked](const Fd& fd) {
      EXPECT_EQ(option(fd, IPPROTO_TCP, TCP_QUICKACK), asked ? 0 : 1);
    });
  }
}

TEST(Socket, AListenerThatIsRefusedSaysWhyAndWhatToDo) {
  auto first = listen_on(Address::parse("127.0.0.1:0").value(), {}, 1);
  ASSERT_TRUE(first.ok());
  const auto second = listen_on(local_address(first.value().get()), {}, 1);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().errno_value, EADDRINUSE);
  EXPECT_NE(second.error().message.find("choose another port"), std::string::npos) << second.error().message;
  // TEST-NET-1 (RFC 5737): no host has an address of it.
  const auto elsewhere = listen_on(Address::parse("192.0.2.1:0").value(), {}, 1);
  ASSERT_FALSE(elsewhere.ok());
  EXPECT_EQ(elsewhere.error().errno_value, EADDRNOTAVAIL);
  EXPECT_NE(elsewhere.error().message.find("no such address"), std::string::npos) << elsewhere.error().message;
}

TEST(Socket, AListenerThatStopsFreesItsPortThoughAVisitorOfItsIsStillThere) {
  auto first = listen_on(Address::parse("127.0.0.1:0").value(), {}, 1);
  ASSERT_TRUE(first.ok());
  const Address address = local_address(first.value().get());
  const Fd visitor = loopback::connect_to(address);
  const Fd accepted(::accept4(first.value().get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(accepted.valid());
  stop_listening(first.value().get());
  EXPECT_TRUE(listen_on(address, {}, 1).ok()) << "the first descriptor is still open";
}

TEST(Socket, AListenerOnAllAddressesTakesIPv4Too) {
  auto listener = listen_on(Address::parse("[::]:0").value(), {}, 1);
  if (!listener.ok()) GTEST_SKIP() << listener.error().message;
  const std::string port = std::to_string(local_address(listener.value().get()).port());
  const Address v4 = Address::parse("127.0.0.1:" + port).value();
  const Fd visitor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::connect(visitor.get(), v4.get(), v4.length()), 0);
}

}  // namespace
}  // namespace natrp
