// Every backend with every pump: the same cases, real sockets on both sides.
#include "relay/pair.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "base/limits.h"
#include "relay/allocations.h"
#include "relay/rig.h"

namespace natrp {
namespace {

// --- Bytes --------------------------------------------------------------------------------------------------------

TEST_P(PairTest, BytesOfBothDirectionsAtOnceArriveWholeAndThenTheEnds) {
  uint64_t up = 0;
  uint64_t down = 0;
  for (const size_t bytes : {1u, 2u, 1000u, 16384u, 65535u, 65536u, 65537u, 300001u, 1048576u}) {
    for (const int buffer_bytes : {0, 8192}) {
      if (bytes > 400000 && buffer_bytes != 0) continue;
      Peer visitor;
      Peer service;
      rig->start(visitor, service, buffer_bytes);
      visitor.say = random_bytes(random, bytes);
      service.say = random_bytes(random, 1 + random() % bytes);
      visitor.closes = service.closes = true;
      visitor.say_at_once = 1 + random() % (2 * bytes);
      service.hear_at_once = 1 + bytes / 7;
      ASSERT_TRUE(rig->until({&visitor, &service}, [&] { return visitor.over() && service.over(); })) << bytes;
      EXPECT_TRUE(visitor.ended && service.ended) << bytes;
      EXPECT_TRUE(visitor.heard == service.say) << bytes;
      EXPECT_TRUE(service.heard == visitor.say) << bytes;
      up += visitor.say.size();
      down += service.say.size();
      ASSERT_TRUE(rig->until({}, [&] { return rig->pairs.live() == 0; }));
      EXPECT_EQ(rig->ended.back().reason, EndReason::kCompleted);
    }
  }
  EXPECT_EQ(count(Counter::kBytesUp), up);
  EXPECT_EQ(count(Counter::kBytesDown), down);
}

TEST_P(PairTest, AfterAHalfCloseTheOtherDirectionGoesOn) {
  for (const bool visitor_first : {true, false}) {
    Peer visitor;
    Peer service;
    rig->start(visitor, service);
    Peer& first = visitor_first ? visitor : service;
    Peer& second = visitor_first ? service : visitor;
    first.say = "question";
    first.closes = true;
    ASSERT_TRUE(rig->until({&visitor, &service}, [&] { return second.over(); }));
    EXPECT_TRUE(second.ended);
    EXPECT_EQ(second.heard, "question");
    EXPECT_EQ(rig->pairs.live(), 1u);
    second.say = random_bytes(random, 200'000);
    second.closes = true;
    ASSERT_TRUE(rig->until({&visitor, &service}, [&] { return first.over(); }));
    EXPECT_TRUE(first.ended);
    EXPECT_TRUE(first.heard == second.say);
    ASSERT_TRUE(rig->until({}, [&] { return rig->pairs.live() == 0; }));
    EXPECT_EQ(rig->ended.back().reason, EndReason::kCompleted);
  }
}

// --- Resets -------------------------------------------------------------------------------------------------------

TEST_P(PairTest, AResetIsCarriedAsOneAfterAllBytesBeforeItAlsoToASlowReader) {
  for (const bool from_visitor : {true, false}) {
    for (const int buffer_bytes : {0, 16384}) {
      Peer visitor;
      Peer service;
      rig->start(visitor, service, buffer_bytes);
      Peer& loud = from_visitor ? visitor : service;
      Peer& slow = from_visitor ? service : visitor;
      slow.hear_at_once = 0;
      loud.say = random_bytes(random, buffer_bytes == 0 ? 150'000 : 20'000);
      ASSERT_TRUE(rig->until({&loud}, [&] { return nothing_unacknowledged(*rig, loud); }));
      loopback::reset(loud.fd);
      rig->until({}, [] { return false; }, 40);
      slow.hear_at_once = 997;
      ASSERT_TRUE(rig->until({&slow}, [&] { return slow.over(); }));
      EXPECT_TRUE(slow.was_reset);
      EXPECT_EQ(slow.heard.size(), loud.say.size());
      EXPECT_TRUE(slow.heard == loud.say);
      ASSERT_TRUE(rig->until({}, [&] { return rig->pairs.live() == 0; }));
      EXPECT_EQ(rig->ended.back().reason, from_visitor ? EndReason::kFrontReset : EndReason::kBackReset);
    }
  }
  EXPECT_EQ(count(Counter::kResetsCarried), 4u);
}

TEST_P(PairTest, AResetOfAHalfClosedIdleSideIsNoticedAndCarried) {
  for (const bool from_visitor : {true, false}) {
    Peer visitor;
    Peer service;
    rig->start(visitor, service);
    Peer& first = from_visitor ? visitor : service;
    Peer& second = from_visitor ? service : visitor;
    first.closes = true;
    ASSERT_TRUE(rig->until({&visitor, &service}, [&] { return second.ended; }));
    rig->until({}, [] { return false; }, 20);
    EXPECT_EQ(rig->pairs.live(), 1u) << "a half-closed pair lives";
    loopback::reset(first.fd);
    ASSERT_TRUE(rig->until({}, [&] { return rig->pairs.live() == 0; }));
    char byte = 0;
    EXPECT_EQ(rig->ended.back().reason, from_visitor ? EndReason::kFrontReset : EndReason::kBackReset);
    EXPECT_EQ(::send(second.fd.get(), &byte, 1, MSG_NOSIGNAL), -1) << "the reset was carried";
  }
}

TEST_P(PairTest, OneThatWasHalfClosedAMomentBeforeTheSweepIsWatchedLater) {
  Peer elder;
  Peer elder_service;
  Peer younger;
  Peer younger_service;
  rig->start(elder, elder_service);
  rig->start(younger, younger_service);
  elder.closes = true;
  ASSERT_TRUE(rig->until({&elder, &elder_service}, [&] { return elder_service.ended; }));
  rig->until({}, [] { return false; }, kHalfClosedMs - 4);
  younger.closes = true;
  ASSERT_TRUE(rig->until({&younger, &younger_service}, [&] { return younger_service.ended; }));
  rig->until({}, [] { return false; }, 4 * kHalfClosedMs);
  EXPECT_EQ(rig->pairs.live(), 2u);
  loopback::reset(younger.fd);
  ASSERT_TRUE(rig->until({}, [&] { return rig->pairs.live() == 1; }));
  EXPECT_EQ(rig->ended.back().reason, EndReason::kFrontReset);
  loopback::reset(elder.fd);
  ASSERT_TRUE(rig->until({}, [&] { return rig->pairs.live() == 0; }));
}

TEST_P(PairTest, WhenTheSinkBreaksTheSourceIsResetThoughItStillHasBytes) {
  for (const bool service_breaks : {true, false}) {
    Peer visitor;
    Peer service;
    rig->start(visitor, service, 16384);
    Peer& loud = service_breaks ? visitor : service;
    Peer& broken = service_breaks ? service : visitor;
    loud.say = random_bytes(random, 2 << 20);
    broken.hear_at_once = 100;
    ASSERT_TRUE(rig->until({&loud, &broken}, [&] { return broken.heard.size() > 3000; }));
    loopback::reset(broken.fd);
    ASSERT_TRUE(rig->until({&loud}, [&] { return loud.over(); }));
    EXPECT_TRUE(loud.was_reset);
    ASSERT_TRUE(rig->until({}, [&] { return rig->pairs.live() == 0; }));
    EXPECT_EQ(rig->ended.back().reason, service_breaks ? EndReason::kBackReset : EndReason::kFrontReset);
  }
}

// --- COPY and SPLICE ----------------------------------------------------------------------------------------------

TEST_P(PairTest, PromotionAndDemotionAtOddOffsetsLoseNothing) {
  Peer visitor;
  Peer service;
  rig->start(visitor, service);
  for (int round = 0; round < 6; ++round) {
    visitor.say += random_bytes(random, 700'001 + random() % 1000);
    ASSERT_TRUE(rig->until({&visitor, &service}, [&] { return service.heard.size() == visitor.say.size(); }));
    for (int i = 0; i < 8; ++i) {
      visitor.say += random_bytes(random, 1 + random() % 37);
      ASSERT_TRUE(rig->until({&visitor, &service}, [&] { return service.heard.size() == visitor.say.size(); }));
    }
  }
  EXPECT_TRUE(service.heard == visitor.say);
  if (kind() == PumpKind::kAuto) {
    EXPECT_GE(count(Counter::kPromotions), 6u);
    EXPECT_GE(count(Counter::kDemotions), 6u);
  } else {
    EXPECT_EQ(count(Counter::kPromotions), 0u);
  }
}

TEST_P(PairTest, AnIdlePairHoldsNoBufferAndNoPipeAndLeavesBulkAfterASecond) {
  Peer visitor;
  Peer service;
  rig->start(visitor, service);
  visitor.say = random_bytes(random, 1 << 20);
  ASSERT_TRUE(rig->until({&visitor, &service}, [&] { return service.heard.size() == visitor.say.size(); }));
  rig->until({}, [] { return false; }, 10);
  EXPECT_EQ(rig->loop->buffers().held(), 0u);
  EXPECT_EQ(rig->pipes.borrowed(), 0u);
  if (kind() != PumpKind::kAuto) return;
  EXPECT_EQ(count(Counter::kPromotions), 1u);
  ASSERT_TRUE(rig->until({}, [&] { return count(Counter::kDemotions) == 1; }, 2500));
  EXPECT_EQ(count(Counter::kPumpStalls), 0u);
  visitor.say += "and on";
  ASSERT_TRUE(rig->until({&visitor, &service}, [&] { return service.heard.size() == visitor.say.size(); }));
  EXPECT_TRUE(service.heard == visitor.say);
  EXPECT_LE(rig->pipes.open(), 2u);
}

TEST_P(PairTest, AStreamThatWaitsForItsTurnBehindMessagesIsNoStall) {
  if (kind() != PumpKind::kAuto) return;  // nobody looks for stalls there
  std::vector<Peer> visitors(6);
  std::vector<Peer> services(visitors.size());
  std::vector<Peer*> all;
  for (size_t i = 0; i < visitors.size(); ++i) {
    rig->start(visitors[i], services[i]);
    all.insert(all.end(), {&visitors[i], &services[i]});
  }
  const auto say = [&](size_t bytes) {
    for (Peer& visitor : visitors) visitor.say += random_bytes(random, bytes);
  };
  const auto all_heard = [&] {
    for (size_t i = 0; i < visitors.size(); ++i) {
      if (services[i].heard.size() != visitors[i].say.size()) return false;
    }
    return true;
  };
  say(1 << 20);
  ASSERT_TRUE(rig->until(all, all_heard));
  rig->loop->set_messages_first(true);
  rig->loop->run_once(0);
  // A worker that was long away: the bytes of all are there, and one stream a turn is let go.
  ::usleep(1'100'000);
  say(100'000);
  for (Peer& visitor : visitors) visitor.turn();
  for (int turn = 0; turn < 3; ++turn) {
    rig->loop->run_once(0);
    ::usleep(300'000);  // longer than the sweep's interval
  }
  EXPECT_EQ(count(Counter::kPumpStalls), 0u);
  ASSERT_TRUE(rig->until(all, all_heard));
  for (size_t i = 0; i < visitors.size(); ++i) EXPECT_TRUE(services[i].heard == visitors[i].say) << i;
}

TEST_P(PairTest, WithOnePipeForAllEightBulkPairsComplete) {
  make(1);
  if (rig == nullptr) return;
  std::vector<Peer> peers(16);
  std::vector<Peer*> all;
  for (size_t i = 0; i < peers.size(); i += 2) {
    rig->start(peers[i], peers[i + 1], 32768);
    peers[i].say = random_bytes(random, 500'000 + i);
    peers[i + 1].say = random_bytes(random, 300'000 + i);
    peers[i].closes = peers[i + 1].closes = true;
    all.push_back(&peers[i]);
    all.push_back(&peers[i + 1]);
  }
  ASSERT_TRUE(rig->until(all, [&] {
    for (const Peer& peer : peers) {
      if (!peer.over()) return false;
    }
    return true;
  }, 20000));
  for (size_t i = 0; i < peers.size(); i += 2) {
    EXPECT_TRUE(peers[i].heard == peers[i + 1].say) << i;
    EXPECT_TRUE(peers[i + 1].heard == peers[i].say) << i;
  }
  EXPECT_LE(rig->pipes.open(), 1u);
}

TEST_P(PairTest, WithoutAnyPipeItCopies) {
  make(1);
  if (rig == nullptr) return;
  const uint16_t mine = rig->pipes.take();
  Peer visitor;
  Peer service;
  rig->start(visitor, service);
  visitor.say = random_bytes(random, 2 << 20);
  ASSERT_TRUE(rig->until({&visitor, &service}, [&] { return service.heard.size() == visitor.say.size(); }));
  EXPECT_TRUE(service.heard == visitor.say);
  if (kind() == PumpKind::kAuto || kind() == PumpKind::kSplice) {
    EXPECT_GT(count(Counter::kPipesExhausted), 0u);
  }
  rig->pipes.give_back(mine, false);
}

// --- Ready data channels ------------------------------------------------------------------------------------------

TEST_P(PairTest, AReadyChannelThatEndsOrSpeaksIsLost) {
  for (const char* text : {"", "too early"}) {
    loopback::Two channel = loopback::connected();
    rig->pairs.start_waiting(rig->conn(channel.near, ConnRole::kDataChannel), 7);
    rig->loop->run_once(0);
    EXPECT_EQ(rig->pairs.live(), 1u);
    if (*text != 0) {
      ASSERT_GT(::send(channel.far.get(), text, strlen(text), 0), 0);
    } else {
      channel.far.reset();
    }
    ASSERT_TRUE(rig->until({}, [&] { return rig->pairs.live() == 0; }));
    EXPECT_EQ(rig->ended.back().reason, *text != 0 ? EndReason::kChannelSpoke : EndReason::kChannelLost);
    EXPECT_EQ(rig->ended.back().owner, 7u);
  }
}

TEST_P(PairTest, TheFirstBytesOfAReadyChannelComeBeforeTheVisitors) {
  for (int round = 0; round < 5; ++round) {
    loopback::Two channel = loopback::connected();
    loopback::Two front = loopback::connected();
    Peer agent;
    Peer visitor;
    agent.fd = std::move(channel.far);
    visitor.fd = std::move(front.far);
    visitor.say = random_bytes(random, round == 0 ? 10 : 400'000);
    visitor.closes = true;
    agent.say = random_bytes(random, 100'000);
    agent.closes = true;
    Pair* pair = rig->pairs.start_waiting(rig->conn(channel.near, ConnRole::kDataChannel), 0);
    ASSERT_NE(pair, nullptr);
    if (round % 2 == 0) rig->loop->run_once(0);
    visitor.turn();  // its bytes are there before the pair is
    const std::string start(kStartBytes, static_cast<char>('0' + round));
    ASSERT_EQ(rig->loop->try_send(pair->back_conn().fd, start.data(), start.size()), static_cast<ssize_t>(kStartBytes));
    rig->pairs.attach_front(*pair, rig->conn(front.near, ConnRole::kVisitor));
    ASSERT_TRUE(rig->until({&agent, &visitor}, [&] { return agent.over() && visitor.over(); }));
    EXPECT_TRUE(agent.heard == start + visitor.say);
    EXPECT_TRUE(visitor.heard == agent.say);
    EXPECT_TRUE(agent.ended && visitor.ended);
  }
}

TEST_P(PairTest, AReadyChannelThatMovesKeepsItsDescriptorOpen) {
  loopback::Two channel = loopback::connected();
  Pair* pair = rig->pairs.start_waiting(rig->conn(channel.near, ConnRole::kDataChannel), 3);
  rig->loop->run_once(0);
  rig->pairs.move_out(*pair);
  ASSERT_TRUE(rig->until({}, [&] { return rig->pairs.live() == 0; }));
  EXPECT_EQ(rig->ended.back().reason, EndReason::kMoved);
  Fd moved(rig->ended.back().back_fd);
  ASSERT_EQ(::send(moved.get(), "alive", 5, MSG_NOSIGNAL), 5);
  Peer agent;
  agent.fd = std::move(channel.far);
  ASSERT_TRUE(rig->until({&agent}, [&] { return agent.heard == "alive"; }));
}

TEST_P(PairTest, EndingAllTakesTheWaitingOnesAndResetsBothEndsOfTheFlowingOnes) {
  Peer visitor;
  Peer service;
  rig->start(visitor, service);
  loopback::Two channel = loopback::connected();
  rig->pairs.start_waiting(rig->conn(channel.near, ConnRole::kDataChannel), 0);
  rig->loop->run_once(0);
  ASSERT_EQ(rig->pairs.with_visitor(), 1u);
  rig->pairs.end_all(EndReason::kDrainDeadline);
  ASSERT_TRUE(rig->until({&visitor, &service}, [&] {
    return visitor.over() && service.over() && rig->pairs.live() == 0;
  }));
  EXPECT_EQ(rig->ended.size(), 2u);
  EXPECT_TRUE(visitor.was_reset && service.was_reset);
  EXPECT_EQ(rig->ended.back().reason, EndReason::kDrainDeadline);
}

// --- What is left -------------------------------------------------------------------------------------------------

TEST_P(PairTest, AThousandPairsLeaveNothingBehind) {
  size_t descriptors = 0;
  for (int round = 0; round < 1000; ++round) {
    Peer visitor;
    Peer service;
    rig->start(visitor, service);
    visitor.say = random_bytes(random, 1 + random() % 3000);
    switch (round % 4) {
      case 0:
        visitor.closes = service.closes = true;
        break;
      case 1:
        service.closes = true;
        service.say = "x";
        visitor.closes = true;
        break;
      default: break;
    }
    rig->until({&visitor, &service}, [&] {
      return round % 4 < 2 ? visitor.over() && service.over() : round % 8 == 2 || service.heard == visitor.say;
    });
    if (round % 4 == 2) loopback::reset(visitor.fd);
    if (round % 4 == 3) loopback::reset(service.fd);
    ASSERT_TRUE(rig->until({}, [&] { return rig->pairs.live() == 0; })) << round;
    EXPECT_EQ(rig->shard.live(), 0u);
    EXPECT_EQ(rig->pipes.borrowed(), 0u);
    EXPECT_EQ(rig->loop->buffers().held(), 0u);
    visitor.fd.reset();
    service.fd.reset();
    if (round == 20) descriptors = loopback::open_descriptors();
  }
  EXPECT_LE(loopback::open_descriptors(), descriptors + rig->pipes.open() * 2);
}

TEST_P(PairTest, RelayingAllocatesNothingAfterWarmUp) {
  Peer visitor;
  Peer service;
  visitor.heard.reserve(8 << 20);
  service.heard.reserve(8 << 20);
  rig->start(visitor, service);
  auto exchange = [&](size_t bytes) {
    visitor.say.resize(visitor.say.size() + bytes);
    service.say.resize(service.say.size() + bytes);
    const uint64_t before = allocations();
    const uint64_t deadline = now_ms() + 5000;
    while ((service.heard.size() < visitor.say.size() || visitor.heard.size() < service.say.size()) &&
           now_ms() < deadline) {
      visitor.turn();
      service.turn();
      rig->loop->run_once(1);
    }
    return allocations() - before;
  };
  exchange(1 << 20);
  exchange(64);
  exchange(1 << 20);
  uint64_t allocated = 0;
  for (int i = 0; i < 100; ++i) allocated += exchange(64);
  for (int i = 0; i < 3; ++i) allocated += exchange(1 << 20);
  EXPECT_EQ(allocated, 0u);
  EXPECT_EQ(service.heard.size(), visitor.say.size());
}

std::string kinds_name(const testing::TestParamInfo<Kinds>& info) {
  static const char* const kPumps[] = {"auto", "splice", "uring", "copy"};
  return std::string(std::get<0>(info.param) == IoKind::kUring ? "uring_" : "epoll_") +
         kPumps[static_cast<size_t>(std::get<1>(info.param))];
}

INSTANTIATE_TEST_SUITE_P(Kinds, PairTest,
                         testing::Combine(testing::Values(IoKind::kUring, IoKind::kEpoll),
                                          testing::Values(PumpKind::kAuto, PumpKind::kSplice, PumpKind::kUring,
                                                          PumpKind::kCopy)),
                         kinds_name);

}  // namespace
}  // namespace natrp
