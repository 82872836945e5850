// Whose a listener is that the edge before this one has handed on.
#include "edge/handed_listeners.h"

#include <gtest/gtest.h>

#include "base/limits.h"
#include "net/loopback.h"

namespace natrp {
namespace {

constexpr uint64_t kNowMs = 1000;

class HandedListenersTest : public testing::Test {
 protected:
  HandedListenersTest() : leases(PortSet::parse("1024-65535").value(), 60'000) {}
  // A visitor waits on it, and the store knows whose it is.
  void hand_on(loopback::Listener& listener, const std::string& client, const std::string& tunnel) {
    leases.restore(client, tunnel, listener.address.port(), kNowMs);
    visitor.reset(::socket(AF_INET, SOCK_STREAM, 0));
    ASSERT_EQ(::connect(visitor.get(), listener.address.get(), listener.address.length()), 0);
    take(listener);
  }
  void take(loopback::Listener& listener) {
    std::vector<Fd> listeners;
    listeners.push_back(std::move(listener.fd));
    handed.take(std::move(listeners), leases, kNowMs);
  }
  // A reset, and it has come.
  bool visitor_is_turned_away() {
    char byte;
    return ::recv(visitor.get(), &byte, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET;
  }

  PortLeases leases;
  HandedListeners handed;
  loopback::Listener listener = loopback::listener();
  const uint16_t port = listener.address.port();
  const int fd = listener.fd.get();
  Fd visitor;
};

TEST_F(HandedListenersTest, ItsTunnelHasItOnce) {
  hand_on(listener, "client", "tunnel");
  EXPECT_TRUE(handed.has(port));
  EXPECT_EQ(handed.claim(listener.address, "client", "tunnel").get(), fd);
  EXPECT_FALSE(handed.has(port));
  EXPECT_FALSE(handed.claim(listener.address, "client", "tunnel").valid());
}

TEST_F(HandedListenersTest, WhoeverElseHasThePortDoesNotHaveItsVisitors) {
  for (const auto& [client, tunnel] : {std::pair{"client", "other"}, std::pair{"other", "tunnel"}}) {
    loopback::Listener one = loopback::listener();
    hand_on(one, "client", "tunnel");
    EXPECT_FALSE(handed.claim(one.address, client, tunnel).valid());
    EXPECT_FALSE(handed.has(one.address.port()));
    EXPECT_TRUE(visitor_is_turned_away());
  }
}

TEST_F(HandedListenersTest, AnotherAddressThanTheEdgesIsNoUse) {
  hand_on(listener, "client", "tunnel");
  const Address elsewhere = Address::parse("127.0.0.2:0").value().with_port(port);
  EXPECT_FALSE(handed.claim(elsewhere, "client", "tunnel").valid());
  EXPECT_TRUE(visitor_is_turned_away());
}

TEST_F(HandedListenersTest, APortInNobodysLeaseCloses) {
  take(listener);
  EXPECT_FALSE(handed.has(port));
}

TEST_F(HandedListenersTest, ATunnelThatDoesNotComeIsNotWaitedForForever) {
  hand_on(listener, "client", "tunnel");
  EXPECT_TRUE(handed.expire(kNowMs + kRendezvousTimeoutMs - 1).empty());
  EXPECT_FALSE(visitor_is_turned_away());
  const auto expired = handed.expire(kNowMs + kRendezvousTimeoutMs);
  ASSERT_EQ(expired.size(), 1u);
  EXPECT_EQ(expired[0].port, port);
  EXPECT_TRUE(visitor_is_turned_away());
  EXPECT_TRUE(handed.expire(kNowMs + 2 * kRendezvousTimeoutMs).empty());
}

}  // namespace
}  // namespace natrp
