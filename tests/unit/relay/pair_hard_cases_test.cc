// Every backend with every pump: what peers do seldom, and services and kernels do on bad days.
#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/limits.h"
#include "relay/rig.h"

namespace natrp {
namespace {

// --- Services behind unix sockets ---------------------------------------------------------------------------------

TEST_P(PairTest, AUnixServiceThatAnswersAndClosesLosesNothingOfItsAnswer) {
  Peer visitor;
  loopback::Two front = loopback::connected();
  visitor.fd = std::move(front.far);
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
  Peer service;
  service.fd.reset(ends[0]);
  Fd back(ends[1]);
  rig->pairs.start(rig->conn(front.near, ConnRole::kDataChannel), rig->conn(back, ConnRole::kService), 0);
  visitor.hear_at_once = 0;
  service.say = random_bytes(random, 400'000);
  ASSERT_TRUE(rig->until({&service}, [&] { return nothing_unacknowledged(*rig, service); }));
  service.fd.reset();
  rig->until({}, [] { return false; }, 30);
  // The visitor goes on asking while it reads: on a socket that was closed under the answer, the kernel would reset.
  visitor.say = "more";
  visitor.hear_at_once = 20'000;
  ASSERT_TRUE(rig->until({&visitor}, [&] { return visitor.over(); }));
  EXPECT_EQ(visitor.heard.size(), service.say.size());
  EXPECT_TRUE(visitor.heard == service.say);
  visitor.fd.reset();
  EXPECT_TRUE(rig->until({}, [&] { return rig->pairs.live() == 0; }));
}

TEST_P(PairTest, AUnixServiceThatClosedIsNoEndForAVisitorThatHasNotEnded) {
  Peer visitor;
  loopback::Two front = loopback::connected();
  visitor.fd = std::move(front.far);
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
  Fd far(ends[0]);
  Fd back(ends[1]);
  rig->pairs.start(rig->conn(front.near, ConnRole::kDataChannel), rig->conn(back, ConnRole::kService), 0);
  far.reset();
  ASSERT_TRUE(rig->until({&visitor}, [&] { return visitor.ended; }));
  rig->until({}, [] { return false; }, 20);
  EXPECT_EQ(rig->pairs.live(), 1u) << "half closed, as with a service behind TCP";
  visitor.closes = true;
  ASSERT_TRUE(rig->until({&visitor}, [&] { return rig->pairs.live() == 0; }));
  EXPECT_EQ(rig->ended.back().reason, EndReason::kCompleted);
}

// --- A reset of which a send is told first ------------------------------------------------------------------------

// The readiness for the visitor's last bytes completes, then a send to the visitor takes the error, then both are
// handled.
TEST_P(PairTest, AResetThatASendWasToldOfIsNoCleanEndForTheOtherDirection) {
  for (int round = 0; round < 20; ++round) {
    Peer visitor;
    Peer service;
    rig->start(visitor, service);
    visitor.say = random_bytes(random, 1'000'000);
    ASSERT_TRUE(rig->until({&visitor, &service}, [&] { return service.heard.size() == visitor.say.size(); }));
    // Others, so that the turn is worth a batch.
    std::vector<Peer> others(16);
    for (size_t i = 0; i < others.size(); i += 2) rig->start(others[i], others[i + 1]);
    rig->until({}, [] { return false; }, 5);
    for (Peer& other : others) other.say = "x";
    // The visitor's bytes are passed on and waited for again, and the service's are on their way to it.
    for (Peer& other : others) other.turn();
    visitor.say += random_bytes(random, 100);
    visitor.turn();
    service.say += "answer";
    service.turn();
    rig->loop->set_messages_first(false);
    rig->loop->run_once(0);
    visitor.say += random_bytes(random, 100);
    visitor.turn();
    visitor.hear_at_once = 0;
    loopback::reset(visitor.fd);
    ASSERT_TRUE(rig->until({&service}, [&] { return service.over(); }));
    EXPECT_TRUE(service.was_reset) << "round " << round;
    for (Peer& other : others) other.closes = true;
    service.fd.reset();
    std::vector<Peer*> all;
    for (Peer& other : others) all.push_back(&other);
    ASSERT_TRUE(rig->until(all, [&] { return rig->pairs.live() == 0; }));
  }
}

// --- Urgent data: a read stops at its mark ------------------------------------------------------------------------

TEST_P(PairTest, BytesBehindAnUrgentMarkArriveWithoutAnotherEvent) {
  for (const size_t bytes : {3u, 300'000u}) {
    Peer visitor;
    Peer service;
    rig->start(visitor, service);
    visitor.say = random_bytes(random, bytes);
    ASSERT_TRUE(rig->until({&visitor, &service}, [&] { return service.heard.size() == bytes; }));
    const std::string before = random_bytes(random, bytes);
    const std::string after = random_bytes(random, 5);
    // All of it is there before the loop looks.
    visitor.say += before;
    visitor.turn();
    ASSERT_EQ(::send(visitor.fd.get(), "!", 1, MSG_OOB | MSG_DONTWAIT), 1);
    visitor.say += after;
    uint64_t turns = 0;
    const bool arrived = rig->until({&visitor, &service}, [&] {
      ++turns;
      return service.heard.size() == visitor.say.size();
    });
    ASSERT_TRUE(arrived) << bytes << ": heard " << service.heard.size() << " of " << visitor.say.size();
    EXPECT_TRUE(service.heard == visitor.say);
    EXPECT_LT(turns, 500u) << "no spinning at the mark";
    visitor.closes = service.closes = true;
    ASSERT_TRUE(rig->until({&visitor, &service}, [&] { return rig->pairs.live() == 0; }));
  }
}

TEST_P(PairTest, BytesBehindAnUrgentMarkArriveBeforeTheEndThatCameWithThem) {
  for (const bool by_reset : {false, true}) {
    Peer visitor;
    Peer service;
    rig->start(visitor, service, 200'000);
    visitor.say = random_bytes(random, 300'000);
    ASSERT_TRUE(rig->until({&visitor, &service}, [&] { return service.heard.size() == visitor.say.size(); }));
    visitor.say += random_bytes(random, 100'000);
    visitor.turn();
    ASSERT_EQ(::send(visitor.fd.get(), "!", 1, MSG_OOB | MSG_DONTWAIT), 1);
    visitor.say += "after";
    visitor.closes = !by_reset;
    visitor.turn();
    ASSERT_EQ(visitor.said, visitor.say.size());
    // What its own socket still holds is lost with a reset, and by no fault of the pump.
    int unsent = -1;
    ASSERT_EQ(::ioctl(visitor.fd.get(), SIOCOUTQNSD, &unsent), 0);
    ASSERT_EQ(unsent, 0);
    if (by_reset) loopback::reset(visitor.fd);
    ASSERT_TRUE(rig->until({&visitor, &service}, [&] { return service.over(); }));
    EXPECT_TRUE(service.heard == visitor.say) << service.heard.size() << " of " << visitor.say.size();
    EXPECT_EQ(service.was_reset, by_reset);
    service.closes = true;
    ASSERT_TRUE(rig->until({&visitor, &service}, [&] { return rig->pairs.live() == 0; }));
  }
}

// --- No buffer left -----------------------------------------------------------------------------------------------

TEST_P(PairTest, AReadyChannelThatEndsWhileNoBufferIsLeftEndsWithoutSpinning) {
  // Every buffer but those that a ring has offered already is held by somebody; the ring's are used up by hand.
  for (const char* text : {"", "not yet"}) {
    loopback::Two channel = loopback::connected();
    Pair* pair = rig->pairs.start_waiting(rig->conn(channel.near, ConnRole::kDataChannel), 7);
    ASSERT_NE(pair, nullptr);
    rig->loop->run_once(0);
    std::vector<uint16_t> held;
    for (uint16_t id = 0; rig->loop->buffers().take(id);) held.push_back(id);
    // What the kernel still has on offer goes to conns that speak at once.
    std::vector<loopback::Two> eaters;
    std::vector<std::unique_ptr<Recorder>> receives;
    for (unsigned i = 0; rig->loop->batches_messages() && i < kBuffersOffered + 8; ++i) {
      eaters.push_back(loopback::connected());
      ASSERT_EQ(::send(eaters.back().far.get(), "x", 1, 0), 1);
      receives.push_back(std::make_unique<Recorder>(OpKind::kRecvBuffer, eaters.back().near.get(), nullptr, 10));
      rig->loop->submit(receives.back()->op);
    }
    ASSERT_TRUE(run_until(*rig->loop, [&] {
      for (const auto& receive : receives) {
        if (receive->op.in_flight) return false;
      }
      return true;
    }));
    EXPECT_TRUE(rig->loop->buffers().exhausted());
    if (*text != 0) {
      ASSERT_EQ(::send(channel.far.get(), text, 7, 0), 7);
    }
    if (*text == 0) channel.far.reset();
    int turns = 0;
    ASSERT_TRUE(rig->until({}, [&] { return ++turns, rig->pairs.live() == 0; }));
    EXPECT_LT(turns, 50);
    EXPECT_EQ(rig->ended.back().reason, *text != 0 ? EndReason::kChannelSpoke : EndReason::kChannelLost);
    for (const auto& receive : receives) {
      if (receive->results.back() > 0) rig->loop->buffers().release(receive->op.buffer);
    }
    for (const uint16_t id : held) rig->loop->buffers().release(id);
    for (auto& eater : eaters) rig->loop->close(eater.near.release(), CloseWith::kFin);
  }
}

// --- The end of the process ---------------------------------------------------------------------------------------

TEST_P(PairTest, EndingAllByForceDoesNotWaitForAPeerThatDoesNotRead) {
  Peer visitor;
  Peer service;
  rig->start(visitor, service, 16384);
  visitor.hear_at_once = 0;
  service.say = random_bytes(random, 60'000);
  ASSERT_TRUE(rig->until({&service}, [&] { return service.said > 40'000; }));
  rig->until({}, [] { return false; }, 20);
  loopback::reset(service.fd);
  rig->until({}, [] { return false; }, 40);
  EXPECT_EQ(rig->pairs.live(), 1u) << "the bytes before the reset are given ten seconds";
  rig->pairs.end_all(EndReason::kDrainDeadline);
  EXPECT_TRUE(rig->until({}, [&] { return rig->pairs.live() == 0; }, 500));
}

}  // namespace
}  // namespace natrp
