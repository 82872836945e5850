// The bytes of visitors that are still there, in the numbers of their tunnels.
#include "admin/live_bytes.h"

#include <gtest/gtest.h>

namespace natrp {
namespace {

class LiveBytesTest : public testing::Test {
 protected:
  Conn& conn(ConnRole role, uint32_t tunnel, uint64_t bytes) {
    Conn& made = *shard.claim(-1, {}, role, 0);
    made.tunnel.store(tunnel);
    made.bytes_received.store(bytes);
    return made;
  }
  // Of tunnel 1, whose visitors that are over had so many.
  TunnelCounts told(uint64_t up, uint64_t down) {
    std::vector<SessionInfo> sessions(1);
    sessions[0].tunnels.push_back({"web", 1, 20000, {.bytes_up = up, .bytes_down = down}});
    live.add_to(sessions, conns);
    return sessions[0].tunnels[0].counts;
  }
  ConnTable conns;
  ConnShard& shard = conns.add_shard(16);
  LiveBytes live;
};

TEST_F(LiveBytesTest, VisitorsAreBytesUpAndDataChannelsBytesDown) {
  conn(ConnRole::kVisitor, 1, 10);
  conn(ConnRole::kVisitor, 1, 20);
  conn(ConnRole::kDataChannel, 1, 400);
  conn(ConnRole::kVisitor, 2, 1000);
  conn(ConnRole::kUnproven, 0, 1000);
  const TunnelCounts counts = told(5, 7);
  EXPECT_EQ(counts.bytes_up, 35u);
  EXPECT_EQ(counts.bytes_down, 407u);
}

TEST_F(LiveBytesTest, AVisitorThatEndsBetweenTheTwoLooksTakesNothingAway) {
  Conn& visitor = conn(ConnRole::kVisitor, 1, 10);
  EXPECT_EQ(told(5, 0).bytes_up, 15u);
  shard.release(visitor);
  EXPECT_EQ(told(5, 0).bytes_up, 15u) << "the tunnel had counted before it ended";
  EXPECT_EQ(told(15, 0).bytes_up, 15u);
  EXPECT_EQ(told(16, 0).bytes_up, 16u);
}

TEST_F(LiveBytesTest, ATunnelThatIsNotListedIsForgotten) {
  EXPECT_EQ(told(5, 0).bytes_up, 5u);
  std::vector<SessionInfo> none;
  live.add_to(none, conns);
  EXPECT_EQ(told(1, 0).bytes_up, 1u);
}

}  // namespace
}  // namespace natrp
