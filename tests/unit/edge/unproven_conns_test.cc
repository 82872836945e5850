// Conns that have not said yet what they are: how many, and who goes when there are more.
#include "edge/unproven_conns.h"

#include <array>

#include "control/ticket.h"
#include "edge/edge_rig.h"
#include "net/receive_buffer.h"

namespace natrp {
namespace {

class UnprovenConnsTest : public EdgeWorkerTest {
 protected:
  static constexpr uint32_t kSlots = 400;
  static constexpr uint32_t kMost = kSlots / kUnprovenSlotsShare;

  void SetUp() override { make(1, kSlots); }
  bool waiting(uint32_t count) {
    return rig->until([&] { return rig->slots_claimed(0) == count; });
  }
  // The most slots that were ever claimed at a time.
  uint32_t slots_touched() { return rig->worker(0).conns().touched(); }
  void connect(uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) strangers.push_back(rig->connect_stranger(0));
  }
  // Whatever it has heard before.
  bool is_closed(size_t stranger) {
    char bytes[4096];
    ssize_t heard = 1;
    while (heard > 0) heard = ::recv(strangers[stranger].get(), bytes, sizeof bytes, MSG_DONTWAIT);
    return heard == 0 || errno != EAGAIN;
  }
  // Connects one that begins HTTP/2 and says no more, which an original client without a token is.
  void connect_http2() {
    connect(1);
    constexpr std::string_view kBeginning("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33);
    loopback::must(::write(strangers.back().get(), kBeginning.data(), kBeginning.size()) == 33, "preface");
  }
  void say_hello(const Fd& fd, const EdgeSession& session) {
    std::array<uint8_t, kHelloBytes> hello;
    TicketSealer(TicketKey{}).seal(session.id, ++counter, hello.data());
    loopback::must(::write(fd.get(), hello.data(), hello.size()) == kHelloBytes, "hello");
  }
  bool opened(uint64_t channels) {
    return rig->until([&] { return rig->count(Counter::kChannelsOpened) == channels; }, 3000);
  }
  std::deque<Fd> strangers;
  uint64_t counter = 0;
};

TEST_P(UnprovenConnsTest, SilentStrangersHoldAQuarterOfTheSlotsAndShutNobodyOut) {
  const auto session = rig->open_session();
  for (uint32_t i = 1; i <= kSlots + 50; ++i) {
    connect(1);
    const uint32_t displaced = i > kMost ? i - kMost : 0;
    ASSERT_TRUE(rig->until([&] { return rig->count(Counter::kStrangersDisplaced) == displaced; }, 3000))
        << rig->slots_claimed(0) << " slots for " << i << " strangers";
    ASSERT_TRUE(waiting(std::min(i, kMost))) << rig->slots_claimed(0) << " slots for " << i << " strangers";
  }
  EXPECT_LE(slots_touched(), kMost + 1) << "one is on its way out at a time";
  EXPECT_TRUE(is_closed(0));
  EXPECT_TRUE(is_closed(kSlots + 50 - kMost - 1)) << "the youngest of the displaced";
  EXPECT_FALSE(is_closed(kSlots + 50 - kMost)) << "the oldest that is left";
  const Fd honest = rig->connect_stranger(0);
  say_hello(honest, *session);
  EXPECT_TRUE(opened(1));
  // Nor is one shut out that speaks a little later than it came.
  say_hello(strangers.back(), *session);
  EXPECT_TRUE(opened(2));
}

TEST_P(UnprovenConnsTest, OneThatIsADataChannelHasABoundOnWhatWaitsInIt) {
  const auto session = rig->open_session();
  connect(1);
  ASSERT_TRUE(waiting(1));
  const auto bounded = [&] {
    return rig->in_worker(0, [&] { return is_bounded(rig->worker(0).conns().slot(0).fd); });
  };
  EXPECT_FALSE(bounded());
  say_hello(strangers[0], *session);
  ASSERT_TRUE(opened(1));
  EXPECT_EQ(bounded(), may_be_bounded());
}

TEST_P(UnprovenConnsTest, ABurstWithinOneTurnIsBoundedToo) {
  make(1, 40);
  const auto session = rig->open_session();
  // More than 64 a turn come in the ring only; the rest is refused at once.
  rig->in_worker(0, [&] { connect(200); });
  EXPECT_TRUE(waiting(10)) << rig->slots_claimed(0);
  EXPECT_LE(slots_touched(), 20u);
  const Fd honest = rig->connect_stranger(0);
  say_hello(honest, *session);
  EXPECT_TRUE(opened(1));
}

TEST_P(UnprovenConnsTest, OneForWhichThereIsNoSlotIsCounted) {
  std::vector<Conn*> claimed;
  ConnShard& conns = rig->worker(0).conns();
  rig->in_worker(0, [&] {
    while (Conn* conn = conns.claim(-1, {}, ConnRole::kService, 0)) claimed.push_back(conn);
  });
  connect(3);
  EXPECT_TRUE(rig->until([&] { return is_closed(0) && is_closed(1) && is_closed(2); }));
  EXPECT_TRUE(rig->until([&] { return rig->count(Counter::kConnsRefused) == 3; }, 3000));
  rig->in_worker(0, [&] {
    for (Conn* conn : claimed) conns.release(*conn);
  });
}

TEST_P(UnprovenConnsTest, ADisplacedOneThatBeginsToSpeakIsNotWaitedFor) {
  connect(kMost);
  ASSERT_TRUE(waiting(kMost));
  // The worker learns both in one turn: first that somebody came, then that the oldest spoke.
  rig->in_worker(0, [&] {
    connect(1);
    loopback::must(::write(strangers[0].get(), "N", 1) == 1, "a byte");
  });
  EXPECT_TRUE(rig->until([&] { return is_closed(0); }, kHelloTimeoutMs / 2));
  EXPECT_TRUE(waiting(kMost));
  EXPECT_FALSE(is_closed(1));
}

TEST_P(UnprovenConnsTest, TheOneThatLeavesMakesRoomByItself) {
  connect(kMost);
  ASSERT_TRUE(waiting(kMost));
  strangers.pop_back();
  ASSERT_TRUE(waiting(kMost - 1));
  connect(1);
  ASSERT_TRUE(waiting(kMost));
  EXPECT_EQ(rig->count(Counter::kStrangersDisplaced), 0u);
  EXPECT_FALSE(is_closed(0));
}

TEST_P(UnprovenConnsTest, ThoseOfAnOriginalClientsKindHoldAQuarterOfTheSlotsUntilTheyShowAToken) {
  rig->add_client("client", 0);
  GrpcSocket& agent = rig->connect_agent(0);
  agent.open("client");
  ASSERT_TRUE(rig->until([&] { return rig->count(Counter::kChannelsReady) == 1; }));
  const auto session = rig->open_session();
  for (uint32_t i = 1; i <= kSlots + 50; ++i) {
    connect_http2();
    const uint32_t displaced = i > kMost ? i - kMost : 0;
    ASSERT_TRUE(rig->until([&] { return rig->count(Counter::kStrangersDisplaced) == displaced; }, 3000));
    ASSERT_TRUE(waiting(1 + std::min(i, kMost))) << rig->slots_claimed(0) << " slots for " << i << " strangers";
  }
  EXPECT_TRUE(rig->until([&] { return is_closed(0) && is_closed(kSlots + 50 - kMost - 1); }));
  EXPECT_FALSE(is_closed(kSlots + 50 - kMost)) << "the oldest that is left";
  EXPECT_FALSE(agent.ended) << "the one that has shown its token was the oldest of all";
  const Fd honest = rig->connect_stranger(0);
  say_hello(honest, *session);
  EXPECT_TRUE(opened(2)) << "beside the stream";
  rig->connect_agent(0).open("client");
  EXPECT_TRUE(rig->until([&] { return rig->count(Counter::kChannelsReady) == 2; }));
}

INSTANTIATE_TEST_SUITE_P(Loops, UnprovenConnsTest, testing::Values(IoKind::kEpoll, IoKind::kUring), loop_of);

}  // namespace
}  // namespace natrp
