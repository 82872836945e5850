// How many channels a worker keeps for visitors to come.
#include "edge/rendezvous.h"

#include "edge/edge_rig.h"

namespace natrp {
namespace {

class RendezvousTest : public EdgeWorkerTest {
 protected:
  // The agent's end of a channel that has shown its ticket to worker 0.
  void bring_channel(const EdgeSession& session) {
    loopback::Two two = loopback::connected();
    agent_ends.push_back(std::move(two.far));
    rig->in_worker(0, [&] { rig->role(0).take_channel(two.near.release(), session.id); });
  }
  std::deque<Fd> agent_ends;
};

TEST_P(RendezvousTest, ReadyChannelsLeaveASlotForTheVisitorOfEach) {
  constexpr uint32_t kSlots = 20;
  make(1, kSlots);
  if (IsSkipped()) return;
  const auto session = rig->open_session();
  for (uint32_t i = 0; i < 2 * kSlots; ++i) bring_channel(*session);
  EXPECT_EQ(rig->count(Counter::kChannelsReady), kSlots / 2);
  EXPECT_EQ(rig->count(Counter::kChannelsSurplus), 2 * kSlots - kSlots / 2);
  for (uint32_t i = 0; i < kSlots / 2; ++i) rig->visit(0, "native");
  EXPECT_TRUE(rig->until([&] { return session->places[0].flowing.load() == kSlots / 2; }, 5000))
      << session->places[0].flowing.load() << " visitors have a channel, " << rig->count(Counter::kVisitorsRefused)
      << " were refused";
}

TEST_P(RendezvousTest, AVisitorForWhoseChannelThereIsNoSlotIsRefusedAtOnce) {
  constexpr uint32_t kSlots = 20;
  make(1, kSlots);
  if (IsSkipped()) return;
  const auto session = rig->open_session();
  for (uint32_t i = 0; i < kSlots; ++i) rig->visit(0, "native");
  EXPECT_TRUE(rig->until([&] { return rig->count(Counter::kVisitorsRefused) == kSlots / 2; }, 5000))
      << rig->count(Counter::kVisitorsRefused) << " were refused";
  for (uint32_t i = 0; i < kSlots / 2; ++i) bring_channel(*session);
  EXPECT_TRUE(rig->until([&] { return session->places[0].flowing.load() == kSlots / 2; }, 5000))
      << session->places[0].flowing.load() << " visitors have a channel";
}

// It was moved here from another worker, for a visitor of ours, and somebody else has taken the slot meanwhile.
TEST_P(RendezvousTest, AChannelThatFindsNoSlotIsCountedAndAnotherIsAskedForOnce) {
  constexpr uint32_t kSlots = 20;
  make(1, kSlots);
  if (IsSkipped()) return;
  const auto session = rig->open_session();
  rig->visit(0, "native");
  ASSERT_TRUE(rig->until([&] { return rig->channels_wanted == 1; }, 5000));
  std::vector<Conn*> claimed;
  ConnShard& conns = rig->worker(0).conns();
  rig->in_worker(0, [&] {
    while (Conn* conn = conns.claim(-1, {}, ConnRole::kService, 0)) claimed.push_back(conn);
  });
  // Without the pause behind the first, an agent nearby would dial thousands of them in vain.
  const uint64_t begin = now_ms();
  bring_channel(*session);
  bring_channel(*session);
  EXPECT_EQ(rig->count(Counter::kConnsRefused), 2u);
  EXPECT_TRUE(rig->until([&] { return rig->channels_wanted == 2; }, 5000)) << rig->channels_wanted;
  EXPECT_GE(now_ms() - begin, 100u);
  EXPECT_FALSE(rig->until([&] { return rig->channels_wanted > 2; }, 300)) << "one visitor waits";
  rig->in_worker(0, [&] {
    for (Conn* conn : claimed) conns.release(*conn);
  });
  bring_channel(*session);
  EXPECT_TRUE(rig->until([&] { return session->places[0].flowing.load() == 1; }, 5000));
}

INSTANTIATE_TEST_SUITE_P(Loops, RendezvousTest, testing::Values(IoKind::kEpoll, IoKind::kUring), loop_of);

}  // namespace
}  // namespace natrp
