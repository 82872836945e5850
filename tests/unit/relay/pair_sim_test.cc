// The relay on a simulated kernel: thousands of seeds, one oracle. NATRP_SIM_SEED=N replays one run,
// NATRP_SIM_SEEDS=N sets how many are run.
#include <gtest/gtest.h>

#include <cerrno>
#include <memory>

#include "base/limits.h"
#include "relay/pair.h"
#include "sim/far_end.h"
#include "sim/sim_loop.h"

namespace natrp {
namespace {

// One run; empty, or what was wrong.
std::string run_seed(uint64_t seed, bool lose_a_byte) {
  auto owned = std::make_unique<SimLoop>(seed);
  SimLoop& loop = *owned;
  Counters counters;
  ConnShard conns(0, 64);
  PipePool pipes(counters, static_cast<unsigned>(1 + loop.random(3)), 1);
  RelayContext context{loop, conns, pipes, counters, static_cast<PumpKind>(loop.random(4))};
  std::vector<EndReason> reasons;
  auto pairs = std::make_unique<PairTable>(
      context, 16,
      PairTable::Events{
          .on_end = [](void* out, Pair& pair) { static_cast<std::vector<EndReason>*>(out)->push_back(pair.reason); },
          .on_unready = [](void*, Pair&) {}},
      &reasons);
  const size_t kSizes[] = {1, 100, 5000, 40'000, 200'000};
  std::vector<FarEnd> ends(2 * (1 + loop.random(3)));
  for (size_t i = 0; i < ends.size(); ++i) {
    FarEnd& end = ends[i];
    end.loop = &loop;
    end.fd = loop.make_socket(200 + loop.random(kSizes[loop.random(5)]));
    loop.socket(end.fd).sent_ms_ago = 0;  // everybody here reads, however slowly
    end.speaks = seed * 16 + i;
    end.hears = seed * 16 + (i ^ 1);
    end.total = loop.random(kSizes[loop.random(5)]);
    end.inbox_max = 200 + kSizes[1 + loop.random(4)];
    end.pace = 600 + loop.random(kSizes[loop.random(5)]);
    // Of a pair at most one side resets, so that what the other must see is known.
    if (loop.random(4) == 0 && (i % 2 == 0 || !ends[i - 1].resets())) end.resets_after = loop.random(end.total + 1);
  }
  if (lose_a_byte) loop.lose_byte_after(0);
  for (size_t i = 0; i < ends.size(); i += 2) {
    Conn* front = conns.claim(ends[i].fd, {}, ConnRole::kVisitor, 0);
    Conn* back = conns.claim(ends[i + 1].fd, {}, ConnRole::kService, 0);
    pairs->start(*front, *back, static_cast<uint32_t>(i));
  }
  auto all_over = [&] {
    if (pairs->live() != 0) return false;
    for (const FarEnd& end : ends) {
      if (!end.over()) return false;
    }
    return true;
  };
  std::string wrong;
  int turns = 0;
  while (wrong.empty() && !all_over()) {
    if (++turns > kTurnsMax) {
      wrong = "it hangs: " + std::to_string(pairs->live()) + " pairs, " + std::to_string(loop.in_flight()) + " ops;";
      for (const FarEnd& end : ends) wrong += " " + end.text();
      break;
    }
    for (FarEnd& end : ends) {
      end.turn();
      if (!end.wrong.empty()) wrong = end.wrong;
    }
    loop.run_once(0);
    if (!loop.complaint().empty()) wrong = loop.complaint();
  }
  for (size_t i = 0; wrong.empty() && i < ends.size(); ++i) {
    const FarEnd& end = ends[i];
    const FarEnd& other = ends[i ^ 1];
    if (end.gone()) continue;
    const std::string who = "far end " + std::to_string(i);
    if (end.heard != other.said) {
      wrong = who + " heard " + std::to_string(end.heard) + " of " + std::to_string(other.said) + " bytes";
    } else if (other.resets() && !end.was_reset) {
      wrong = who + " was not told of the reset";
    } else if (!other.resets() && !end.ended) {
      wrong = who + " saw a reset instead of the end";
    }
  }
  // Land what is left of a run that went wrong, so that the tables may go.
  pairs->end_all(EndReason::kDrainDeadline);
  for (int i = 0; i < 10'000 && pairs->live() > 0; ++i) {
    loop.run_once(0);
    for (FarEnd& end : ends) loop.socket(end.fd).outbox.clear();
  }
  if (wrong.empty() && loop.in_flight() != 0) wrong = "an op is left in flight";
  if (wrong.empty() && conns.live() != 0) wrong = "a slot is left";
  if (wrong.empty() && pipes.borrowed() != 0) wrong = "a pipe is left";
  if (wrong.empty() && loop.buffers().held() != 0) wrong = "a buffer is left";
  if (pairs->live() != 0) {
    wrong += " (and its pairs do not land)";
    (void)pairs.release();  // NOLINT: the table refuses to go; the run is lost anyway
    (void)owned.release();
  }
  return wrong;
}

TEST(PairSim, EveryByteArrivesInOrderAndEveryEndAsWhatItWasForThousandsOfSeeds) {
  expect_right_for_all_seeds([](uint64_t seed) { return run_seed(seed, false); });
}

TEST(PairSim, TheCanaryThatLosesOneByteIsCaught) {
  int caught = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) caught += !run_seed(seed, true).empty();
  // In some runs nobody says two bytes, so there is nothing to lose.
  EXPECT_GE(caught, 30);
}

constexpr PumpKind kEveryPump[] = {PumpKind::kAuto, PumpKind::kSplice, PumpKind::kUring, PumpKind::kCopy};

// What only time shows: the simulated clock makes minutes of it.
struct SimRig {
  SimLoop loop;
  Counters counters;
  ConnShard conns{0, 64};
  PipePool pipes{counters, 4, 1};
  RelayContext context;
  PairTable pairs;
  std::vector<EndReason> reasons;
  const int front_fd = loop.make_socket(1000);
  const int back_fd = loop.make_socket(1000);

  explicit SimRig(PumpKind kind, SimLoop::Offers offers = SimLoop::Offers::kNone)
      : loop(5, offers),
        context{loop, conns, pipes, counters, kind},
        pairs(context, 16,
              {.on_end = [](void* self, Pair& pair) { static_cast<SimRig*>(self)->reasons.push_back(pair.reason); },
               .on_unready = [](void*, Pair&) {}},
              this) {}
  ~SimRig() {
    pairs.end_all(EndReason::kDrainDeadline);
    for (int i = 0; i < 1000 && pairs.live() > 0; ++i) loop.run_once(0);
  }
  void start(int front, int back, ConnRole front_role = ConnRole::kVisitor, ConnRole back_role = ConnRole::kService) {
    pairs.start(*conns.claim(front, {}, front_role, 0), *conns.claim(back, {}, back_role, 0), 0);
  }
  void start() { start(front_fd, back_fd); }
  // As at the agent, whose channel is in front, or as at the edge.
  void start_with_channel(int front, int back, bool in_front) {
    start(front, back, in_front ? ConnRole::kDataChannel : ConnRole::kVisitor,
          in_front ? ConnRole::kService : ConnRole::kDataChannel);
  }
  void start_with_channel(bool in_front) { start_with_channel(front_fd, back_fd, in_front); }
  SimSocket& front() { return loop.socket(front_fd); }
  SimSocket& back() { return loop.socket(back_fd); }
  template <typename Done>
  bool until(uint64_t seconds, Done done) {
    const uint64_t end = loop.turn_ms() + seconds * 1000;
    while (!done() && loop.turn_ms() < end) loop.run_once(0);
    return done();
  }
};

TEST(PairSim, ASourceThatIsResetWhileItsSinkTakesNothingIsNoticed) {
  for (const PumpKind kind : kEveryPump) {
    SimRig rig(kind);
    rig.front().inbox = std::string(200'000, 'x');
    rig.start();
    ASSERT_TRUE(rig.until(5, [&] { return rig.back().outbox.size() == 1000; }));
    rig.until(60, [] { return false; });
    EXPECT_EQ(rig.pairs.live(), 1u) << "a sink that does not read is no reason to end";
    rig.front().far_reset = true;
    EXPECT_TRUE(rig.until(40, [&] { return rig.pairs.live() == 0; }));
    ASSERT_EQ(rig.reasons.size(), 1u);
    EXPECT_EQ(rig.reasons[0], EndReason::kFrontReset);
    EXPECT_TRUE(rig.back().closed_by_reset);
  }
}

TEST(PairSim, AHalfClosedSourceThatCouldNotBeWatchedIsWatchedLater) {
  SimRig rig(PumpKind::kAuto);
  rig.start();
  rig.front().far_fin = true;
  rig.front().unwatchable = true;
  EXPECT_TRUE(rig.until(5, [&] { return rig.back().near_fin; }));
  rig.until(10, [] { return false; });
  EXPECT_EQ(rig.pairs.live(), 1u);
  rig.front().unwatchable = false;
  rig.front().far_reset = true;
  EXPECT_TRUE(rig.until(10, [&] { return rig.pairs.live() == 0; }));
  EXPECT_TRUE(rig.back().closed_by_reset);
}

TEST(PairSim, AReadThatFailsForWantOfMemoryIsACleanEndForNobody) {
  for (const PumpKind kind : kEveryPump) {
    for (const bool in_front : {true, false}) {
      SimRig rig(kind);
      rig.start();
      (in_front ? rig.front() : rig.back()).read_error = ENOMEM;
      EXPECT_TRUE(rig.until(5, [&] { return rig.pairs.live() == 0; }));
      EXPECT_EQ(rig.counters.get(Counter::kPairsFailed), 1u);
      EXPECT_TRUE(rig.front().closed_by_reset);
      EXPECT_TRUE(rig.back().closed_by_reset);
    }
  }
}

// Keepalive gives up, a route is gone: the kernel has many words for it, and only some of them are a RST.
TEST(PairSim, AConnectionThatBrokeIsAResetForTheOtherEndByWhateverName) {
  for (const int error : {EPIPE, ECONNRESET, ECONNABORTED, ENOTCONN, ETIMEDOUT, EHOSTUNREACH, EHOSTDOWN, ENETUNREACH,
                          ENETDOWN}) {
    for (const PumpKind kind : kEveryPump) {
      SimRig rig(kind);
      rig.start();
      rig.front().read_error = error;
      EXPECT_TRUE(rig.until(5, [&] { return rig.pairs.live() == 0; }));
      EXPECT_EQ(rig.reasons, std::vector{EndReason::kFrontReset}) << error;
      EXPECT_EQ(rig.counters.get(Counter::kPairsFailed), 0u) << error;
      EXPECT_FALSE(rig.front().closed_by_reset) << error;
      EXPECT_TRUE(rig.back().closed_by_reset) << error;
    }
  }
}

// A unix socket knows no reset: that its far end is gone shows in a hang-up, which tells nothing, and in the next send.
TEST(PairSim, AUnixServiceThatClosedBeforeItsVisitorHasSaidAllIsAResetForTheVisitor) {
  for (const PumpKind kind : kEveryPump) {
    SimRig rig(kind);
    rig.start();
    rig.back().far_closed = true;
    EXPECT_TRUE(rig.until(5, [&] { return rig.front().near_fin; }));
    rig.until(10, [] { return false; });
    EXPECT_EQ(rig.pairs.live(), 1u) << "it may read what it was sent";
    rig.front().inbox = "one more";
    EXPECT_TRUE(rig.until(5, [&] { return rig.pairs.live() == 0; }));
    EXPECT_EQ(rig.reasons, std::vector{EndReason::kBackReset});
    EXPECT_TRUE(rig.front().closed_by_reset);
    EXPECT_FALSE(rig.back().closed_by_reset);
  }
}

// What was said before a reset arrives before it, for as long as the reader reads.
TEST(PairSim, ASlowReaderHasAllThatWasSaidBeforeTheReset) {
  for (const PumpKind kind : kEveryPump) {
    for (const bool held_by_the_pump : {true, false}) {
      SimRig rig(kind);
      const size_t said = held_by_the_pump ? 5000 : 900;
      rig.front().inbox = std::string(said, 'x');
      rig.back().sent_ms_ago = 3000;
      rig.start();
      ASSERT_TRUE(rig.until(5, [&] { return rig.back().outbox.size() == std::min<size_t>(said, 1000); }));
      rig.front().far_reset = true;
      rig.until(120, [] { return false; });
      ASSERT_EQ(rig.pairs.live(), 1u);
      size_t heard = 0;
      const auto hears = [&](size_t bytes) {
        std::string& outbox = rig.back().outbox;
        bytes = std::min(bytes, outbox.size());
        heard += bytes;
        outbox.erase(0, bytes);
      };
      EXPECT_TRUE(rig.until(300, [&] { hears(1); return heard == said; })) << heard;
      EXPECT_TRUE(rig.until(5, [&] { return rig.pairs.live() == 0; }));
      EXPECT_EQ(heard, said);
      EXPECT_TRUE(rig.back().closed_by_reset);
    }
  }
}

TEST(PairSim, AReaderThatStopsGetsTheResetWithoutTheRest) {
  for (const PumpKind kind : kEveryPump) {
    SimRig rig(kind);
    rig.front().inbox = std::string(900, 'x');
    rig.back().sent_ms_ago = 3000;
    rig.start();
    ASSERT_TRUE(rig.until(5, [&] { return rig.back().outbox.size() == 900; }));
    rig.front().far_reset = true;
    rig.until(60, [] { return false; });
    ASSERT_EQ(rig.pairs.live(), 1u);
    rig.back().sent_ms_ago = kResetDrainTimeoutMs;
    EXPECT_TRUE(rig.until(1, [&] { return rig.pairs.live() == 0; }));
    EXPECT_TRUE(rig.back().closed_by_reset);
  }
}

TEST(PairSim, AResetIsNoticedWhileBothSinksTakeNothing) {
  for (const PumpKind kind : kEveryPump) {
    for (const bool front_resets : {true, false}) {
      SimRig rig(kind);
      rig.front().inbox = rig.back().inbox = std::string(200'000, 'x');
      rig.start();
      ASSERT_TRUE(rig.until(5, [&] {
        return rig.back().outbox.size() == 1000 && rig.front().outbox.size() == 1000;
      }));
      rig.until(60, [] { return false; });
      EXPECT_EQ(rig.pairs.live(), 1u);
      (front_resets ? rig.front() : rig.back()).far_reset = true;
      EXPECT_TRUE(rig.until(40, [&] { return rig.pairs.live() == 0; }));
      ASSERT_EQ(rig.reasons.size(), 1u);
      EXPECT_EQ(rig.reasons[0], front_resets ? EndReason::kFrontReset : EndReason::kBackReset);
      EXPECT_TRUE((front_resets ? rig.back() : rig.front()).closed_by_reset);
    }
  }
}

// --- Peers that answer nothing any more -----------------------------------------------------------------------------

// Bytes went one way only, and not for long: the other direction has never moved any.
TEST(PairSim, AChannelWhosePeerIsSilentIsGivenUpAndBothEndsAreReset) {
  for (const PumpKind kind : kEveryPump) {
    for (const bool in_front : {true, false}) {
      SimRig rig(kind);
      rig.start_with_channel(in_front);
      rig.until(kPatrolRecentMs / 1000 + 10, [] { return false; });
      rig.front().inbox = "hello";
      ASSERT_TRUE(rig.until(5, [&] { return rig.back().outbox == "hello"; }));
      rig.back().outbox.clear();
      SimSocket& channel = in_front ? rig.front() : rig.back();
      channel.peer_silent_ms = kPeerSilentMs;
      channel.outbox = "unanswered";
      EXPECT_TRUE(rig.until(20, [&] { return rig.counters.get(Counter::kPeersSilent) == 1; }));
      EXPECT_TRUE(rig.until(1, [&] { return rig.pairs.live() == 0; })) << "it waits for no answer of the silent one";
      ASSERT_EQ(rig.reasons.size(), 1u);
      EXPECT_EQ(rig.reasons[0], EndReason::kPeerSilent);
      EXPECT_TRUE(channel.closed_by_reset) << "it may hear of it, and what it has is not all";
      EXPECT_TRUE((in_front ? rig.back() : rig.front()).closed_by_reset);
    }
  }
}

TEST(PairSim, AChannelWhosePeerIsSilentIsGivenUpHoweverLongItHasHeldBytes) {
  for (const PumpKind kind : kEveryPump) {
    for (const bool up : {true, false}) {
      SimRig rig(kind);
      (up ? rig.front() : rig.back()).inbox = std::string(5000, 'x');
      rig.start_with_channel(false);
      rig.until(kPatrolRecentMs / 1000 + 10, [] { return false; });
      rig.back().peer_silent_ms = kPeerSilentMs;
      EXPECT_TRUE(rig.until(20, [&] { return rig.counters.get(Counter::kPeersSilent) == 1; }));
    }
  }
}

// A reader that paused long ago: what it did not take yet is all in the channel's socket, and keepalive is silent then.
TEST(PairSim, AndHoweverLongBytesForItWaitInItsSocket) {
  for (const PumpKind kind : kEveryPump) {
    for (const bool in_front : {true, false}) {
      SimRig rig(kind);
      rig.start_with_channel(in_front);
      SimSocket& channel = in_front ? rig.front() : rig.back();
      (in_front ? rig.back() : rig.front()).inbox = "hello";
      rig.until(kPatrolRecentMs / 1000 + 10, [] { return false; });
      ASSERT_EQ(channel.outbox, "hello");
      EXPECT_EQ(rig.pairs.live(), 1u);
      channel.peer_silent_ms = kPeerSilentMs;
      EXPECT_TRUE(rig.until(20, [&] { return rig.counters.get(Counter::kPeersSilent) == 1; }));
    }
  }
}

TEST(PairSim, AChannelThatHasNothingUnderWayIsLeftToItsKeepalive) {
  SimRig rig(PumpKind::kAuto);
  rig.start_with_channel(false);
  rig.until(kPatrolRecentMs / 1000 + 10, [] { return false; });
  rig.back().peer_silent_ms = kPeerSilentMs;
  EXPECT_FALSE(rig.until(30, [&] { return rig.pairs.live() == 0; }));
}

// A visitor or a service that answers nothing is as it would be without a tunnel: its own keepalive looks after it.
TEST(PairSim, OnlyAChannelIsGivenUpForItsSilence) {
  for (const bool in_front : {true, false}) {
    SimRig rig(PumpKind::kAuto);
    rig.start_with_channel(in_front);
    (in_front ? rig.back() : rig.front()).peer_silent_ms = kPeerSilentMs;
    EXPECT_FALSE(rig.until(30, [&] { return rig.pairs.live() == 0; }));
  }
}

TEST(PairSim, PairsThatComeAllTheTimeDoNotKeepTheOthersFromBeingLookedAt) {
  SimRig rig(PumpKind::kAuto);
  const auto one_more = [&] {
    const int front = rig.loop.make_socket(1000);
    const int back = rig.loop.make_socket(1000);
    rig.start_with_channel(front, back, false);
    return back;
  };
  rig.loop.socket(one_more()).peer_silent_ms = kPeerSilentMs;
  for (int second = 0; second < 12 && rig.reasons.empty(); ++second) {
    rig.until(1, [] { return false; });
    one_more();
  }
  EXPECT_EQ(rig.reasons.size(), 1u);
}

TEST(PairSim, ASpliceThatIsNotToldOfItsBytesIsCountedAndTheDirectionCopiesForGood) {
  SimRig rig(PumpKind::kAuto);
  const int front = rig.loop.make_socket(1000);
  const int back = rig.loop.make_socket(1'000'000);
  size_t heard = 0;
  const auto hears = [&](size_t all) {
    std::string& outbox = rig.loop.socket(back).outbox;
    heard += outbox.size();
    outbox.clear();
    return heard == all;
  };
  rig.loop.socket(front).inbox = std::string(500'000, 'x');
  rig.start(front, back);
  ASSERT_TRUE(rig.until(60, [&] { return hears(500'000); }));
  ASSERT_EQ(rig.counters.get(Counter::kPromotions), 1u);
  ASSERT_EQ(rig.counters.get(Counter::kDemotions), 0u);

  rig.loop.socket(front).readiness_lost = true;
  rig.loop.socket(front).inbox = std::string(500'000, 'y');
  ASSERT_TRUE(rig.until(60, [&] { return rig.counters.get(Counter::kPumpStalls) == 1; }));
  rig.loop.socket(front).readiness_lost = false;
  EXPECT_TRUE(rig.until(60, [&] { return hears(1'000'000); }));
  EXPECT_EQ(rig.counters.get(Counter::kPromotions), 1u) << "it was trusted with splice again";
  EXPECT_EQ(rig.counters.get(Counter::kPumpStalls), 1u);
}

// While a pair waits to reset, the sweep comes every few ms: two of its looks show nothing of a stream.
TEST(PairSim, AStreamWhoseEventIsAMomentLateIsTrustedWhateverElseIsSwept) {
  SimRig rig(PumpKind::kAuto);
  rig.start();
  rig.back().outbox_max = 1'000'000;
  rig.front().inbox = std::string(500'000, 'x');
  ASSERT_TRUE(rig.until(60, [&] {
    rig.back().outbox.clear();
    return rig.pairs.at(0).up.mode == PumpMode::kSplice && rig.front().inbox.empty();
  }));
  const int leaver = rig.loop.make_socket(1000);
  const int slow = rig.loop.make_socket(1000);
  rig.loop.socket(leaver).inbox = "the last words";
  rig.loop.socket(leaver).far_reset = true;
  rig.loop.socket(slow).sent_ms_ago = 0;
  rig.start(leaver, slow);
  ASSERT_TRUE(rig.until(1, [&] { return rig.pairs.at(1).state == PairState::kResetting; }));

  rig.loop.pass(kBulkIdleMs);
  rig.front().inbox = "more";
  rig.front().readiness_lost = true;
  const uint64_t until_ms = rig.loop.turn_ms() + 100;
  while (rig.loop.turn_ms() < until_ms) rig.loop.run_once(0);
  rig.front().readiness_lost = false;
  EXPECT_EQ(rig.counters.get(Counter::kPumpStalls), 0u);
  EXPECT_TRUE(rig.until(10, [&] { return rig.back().outbox.ends_with("more"); }));
}

TEST(PairSim, AHalfClosedStreamIsLookedAtNoMore) {
  SimRig rig(PumpKind::kAuto);
  rig.start();
  rig.front().inbox = std::string(400'000, 'x');
  const auto heard = [&](auto done) {
    return rig.until(60, [&] {
      rig.back().outbox.clear();
      return done();
    });
  };
  Pump& up = rig.pairs.at(0).up;
  rig.back().outbox_max = 100'000;
  ASSERT_TRUE(heard([&] { return up.mode == PumpMode::kSplice && up.pending == 0 && rig.front().inbox.empty(); }));
  rig.front().far_fin = true;
  ASSERT_TRUE(heard([&] { return up.status == PumpStatus::kEof && up.op.in_flight; }));
  EXPECT_FALSE(heard([] { return false; }));
  EXPECT_EQ(rig.pairs.live(), 1u);
  EXPECT_EQ(rig.loop.timers().armed(), 1u) << "the patrol's, and no sweep's";
}

TEST(PairSim, WhenNoBufferIsLeftAPairThatHoldsOneForLongGivesItUp) {
  struct Case {
    PumpKind kind;
    SimLoop::Offers offers;
  };
  const Case kCases[] = {
      {PumpKind::kUring, SimLoop::Offers::kNone},
      {PumpKind::kCopy, SimLoop::Offers::kNone},
      {PumpKind::kCopy, SimLoop::Offers::kAsARing},  // what is on offer is no use to a pump that copies
  };
  for (const Case& each : kCases) {
    SimRig rig(each.kind, each.offers);
    const int hog = rig.loop.make_socket(1000);
    const int stuck = rig.loop.make_socket(100);
    rig.loop.socket(hog).inbox = std::string(5000, 'x');
    std::vector<uint16_t> held;
    for (uint16_t id = 0; rig.loop.buffers().take(id);) held.push_back(id);
    rig.loop.buffers().release(held.back());
    held.pop_back();
    rig.start(hog, stuck);
    ASSERT_TRUE(rig.until(5, [&] { return rig.loop.buffers().held() == held.size() + 1; }));
    const int front = rig.loop.make_socket(1000);
    const int back = rig.loop.make_socket(1000);
    rig.loop.socket(front).inbox = "hello";
    rig.start(front, back);
    // A slow reader: its socket lets some go now and then, and has not told the pump for long.
    rig.loop.socket(stuck).sent_ms_ago = 5000;
    EXPECT_FALSE(rig.until(30, [&] { return !rig.reasons.empty(); }));
    rig.loop.socket(stuck).sent_ms_ago = kBufferHoldMs;
    EXPECT_TRUE(rig.until(60, [&] { return rig.loop.socket(back).outbox == "hello"; }));
    EXPECT_TRUE(rig.until(20, [&] { return rig.reasons.size() == 1; }));
    EXPECT_EQ(rig.counters.get(Counter::kBuffersReclaimed), 1u);
    for (const uint16_t id : held) rig.loop.buffers().release(id);
  }
}

TEST(PairSim, ASeedMakesTheSameRunTwice) {
  SimLoop one(77);
  SimLoop two(77);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(one.random(1'000'000), two.random(1'000'000));
}

}  // namespace
}  // namespace natrp
