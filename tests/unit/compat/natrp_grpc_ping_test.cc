// When a PING of an original client is answered.
#include <gtest/gtest.h>

#include "compat/natrp_grpc.h"
#include "grpc_peer.h"

namespace natrp {
namespace {

class NatrpGrpcPingTest : public ::testing::Test {
 protected:
  NatrpGrpcPingTest() : connection(events, 1000) { events.connection = &connection; }
  void exchange() { peer.exchange(connection); }
  void tick_after(uint64_t passed_ms) {
    now_ms += passed_ms;
    connection.on_tick(now_ms);
    exchange();
  }

  RecordingEvents events;
  uint64_t now_ms = 1000;
  NatrpGrpcConnection connection;
  GrpcPeer peer;
};

TEST_F(NatrpGrpcPingTest, AnAnswerToAPingWaitsForTheBytesOfTheServicesButNotForever) {
  const uint8_t opaque[8] = {1};
  const auto ping = [&] {
    nghttp2_submit_ping(peer.session, 0, opaque);
    exchange();
  };
  const auto id = peer.open_msg();
  exchange();
  ping();
  tick_after(kGrpcPingQuietMs - 1);
  EXPECT_EQ(0, peer.ping_acks);
  peer.send(id, message_of("answer"));
  exchange();
  tick_after(kGrpcPingQuietMs - 1);
  EXPECT_EQ(0, peer.ping_acks);
  tick_after(1);
  EXPECT_EQ(1, peer.ping_acks);

  ping();
  for (uint64_t passed = 0; passed < kGrpcPingHeldMs; passed += kGrpcPingQuietMs / 2) {
    EXPECT_EQ(1, peer.ping_acks) << passed;
    peer.send(id, message_of("more"));
    exchange();
    tick_after(kGrpcPingQuietMs / 2);
  }
  EXPECT_EQ(2, peer.ping_acks);

  ping();
  EXPECT_EQ(2, peer.ping_acks);
  ping();
  EXPECT_EQ(3, peer.ping_acks) << "one waits at a time";
  connection.end_stream(id, GrpcStatus::kOk);
  exchange();
  EXPECT_EQ(4, peer.ping_acks) << "no stream is left to wait for";
}

}  // namespace
}  // namespace natrp
