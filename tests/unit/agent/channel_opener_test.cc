// The agent's data channels: how many are dialled and when, which are kept, and how they end. A real worker; its edge
// and its service are made by hand.
#include "agent/channel_opener.h"

#include <gtest/gtest.h>
#include <sys/ioctl.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/agent_worker.h"
#include "base/limits.h"
#include "base/no_descriptors.h"
#include "control/start_message.h"
#include "loop/loop_of.h"
#include "loop/recorder.h"
#include "net/receive_buffer.h"
#include "relay/chunk_text.h"
#include "relay/rig.h"

namespace natrp {
namespace {

constexpr uint32_t kPatienceMs = 5000;
constexpr uint32_t kRefillPauseMs = 200;  // as in channel_opener.cc
constexpr uint32_t kPartingMs = 3000;     // … too

class ChannelOpenerTest : public testing::TestWithParam<IoKind>, public AgentControlPort {
 protected:
  void SetUp() override { make(PumpKind::kAuto); }
  void make(PumpKind pump) {
    std::signal(SIGPIPE, SIG_IGN);
    stop();
    conns = std::make_unique<ConnTable>();
    WorkerSetup setup;
    setup.io = GetParam();
    setup.pump = pump;
    setup.conns = &conns->add_shard(1024);
    setup.make_role = [this](Worker& its) {
      auto made = std::make_unique<AgentWorker>(its, *this);
      role = made.get();
      return made;
    };
    worker = std::make_unique<Worker>(std::move(setup));
    auto started = worker->start();
    if (!started.ok()) {
      worker.reset();
      GTEST_SKIP() << started.error().message;
    }
    edge = loopback::listener();
    service = loopback::listener();
    open_session();
  }
  void TearDown() override { stop(); }
  void stop() {
    if (!worker) return;
    worker->stop();
    EXPECT_EQ(conns->shard(0).live(), 0u) << "a slot is left";
    worker.reset();
  }
  void service_failed(uint32_t, int error) override {
    last_error = error;
    ++services_failed;
  }
  void dial_failed(int error) override {
    last_error = error;
    ++dials_failed;
  }

  void in_worker(std::function<void()> f) {
    std::promise<void> done;
    worker->mailbox().post([&] {
      f();
      done.set_value();
    });
    done.get_future().wait();
  }
  static std::shared_ptr<ServiceAddresses> services_at(std::vector<Address> addresses, bool awaited = false) {
    const auto made = std::make_shared<ServiceAddresses>();
    made->services.push_back({"tunnel", "service", std::move(addresses), awaited});
    return made;
  }
  void open_session() {
    const auto session =
        std::make_shared<AgentSession>(SlotId::make(0, 1, 1), TicketKey{}, std::vector<Address>{edge.address});
    in_worker([&] { role->opener().open_session(session, services_at({service.address})); });
  }
  void set_services(const std::shared_ptr<ServiceAddresses>& made) {
    in_worker([&] { role->opener().set_services(made); });
  }
  void close_session(ChannelOpener::Ready ready = ChannelOpener::Ready::kEnd) {
    in_worker([&] { role->opener().close_session(ready); });
  }
  void demand(uint32_t ready, uint32_t extra = 0) {
    in_worker([&] { role->opener().demand(ready, extra); });
  }
  uint32_t conns_live() {
    uint32_t live = 0;
    in_worker([&] { live = conns->shard(0).live(); });
    return live;
  }
  uint64_t count(Counter counter) const { return worker->counters().get(counter); }

  static void accept_all(const loopback::Listener& listener, std::deque<Peer>& peers) {
    for (;;) {
      Fd fd(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!fd.valid()) return;
      peers.emplace_back().fd = std::move(fd);
    }
  }
  // The edge and the service act until done().
  bool until(const std::function<bool()>& done, uint32_t patience_ms = kPatienceMs) {
    const auto turn = [&] {
      const size_t known = channels.size();
      accept_all(edge, channels);
      if (edge_closes) {
        for (size_t i = known; i < channels.size(); ++i) channels[i].fd.reset();
      }
      accept_all(service, services);
      for (auto* peers : {&channels, &services}) {
        for (Peer& peer : *peers) peer.turn();
      }
      ::poll(nullptr, 0, 1);
    };
    return run_until(turn, done, patience_ms);
  }
  // A channel that waits for a Start. With its ticket all is heard that it has to say.
  bool wait_channels(size_t so_many) {
    return until([&] {
      return channels.size() == so_many && channels.back().heard.size() >= kHelloBytes;
    });
  }
  static std::string start(bool chunks = true) {
    const StartBytes bytes = encode_start(0, nullptr, chunks);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  // A visitor that has said all and ended, on a channel that waits; what its service is asked through.
  Peer& visit(Peer& channel) {
    const size_t known = services.size();
    channel.heard.clear();
    channel.say += start() + chunk_of("request") + kEndText;
    EXPECT_TRUE(until([&] { return services.size() > known && services[known].ended; }));
    if (services.size() == known) services.emplace_back();
    EXPECT_EQ(services[known].heard, "request");
    return services[known];
  }
  // A visitor has said all and ended, on channels[0], and its service's address is not known yet; and a channel for the
  // next visitor is there.
  bool visit_before_the_lookup() {
    set_services(services_at({}, true));
    demand(1);
    if (!wait_channels(1)) return false;
    channels[0].heard.clear();
    channels[0].say += start() + chunk_of("request") + kEndText;
    return wait_channels(2);
  }
  static void answer(Peer& asked) {
    asked.say = "answer";
    asked.closes = true;
  }
  // … whose channel is free when it is over.
  void exchange(Peer& channel) {
    answer(visit(channel));
    EXPECT_TRUE(until([&] { return channel.heard == chunk_of("answer") + kEndText + kFreeText; }));
  }

  std::unique_ptr<ConnTable> conns;
  std::unique_ptr<Worker> worker;
  AgentWorker* role = nullptr;
  loopback::Listener edge;
  loopback::Listener service;
  std::atomic<int> last_error = 0;
  std::atomic<unsigned> dials_failed = 0;
  std::atomic<unsigned> services_failed = 0;
  bool edge_closes = false;    // what it has just accepted
  std::deque<Peer> channels;   // the edge's ends of all that were dialled
  std::deque<Peer> services;   // the service's ends
};

// --- How many are dialled, and when -------------------------------------------------------------------------------

TEST_P(ChannelOpenerTest, ExtraOnesAreDialledBesideThoseThatAreReady) {
  demand(3);
  ASSERT_TRUE(wait_channels(3));
  demand(3, 2);
  EXPECT_TRUE(wait_channels(5));
}

TEST_P(ChannelOpenerTest, AChannelHasABoundOnWhatWaitsInItAndAServiceHasNot) {
  demand(1);
  ASSERT_TRUE(wait_channels(1));
  visit(channels[0]);
  ASSERT_TRUE(wait_channels(2));
  std::map<ConnRole, std::vector<bool>> bounded;
  in_worker([&] {
    const ConnShard& shard = conns->shard(0);
    for (uint32_t i = 0; i < shard.touched(); ++i) {
      const Conn& conn = shard.slot(i);
      bounded[conn.role()].push_back(is_bounded(conn.fd));
    }
  });
  EXPECT_EQ(bounded[ConnRole::kDataChannel], std::vector<bool>(2, may_be_bounded()));
  EXPECT_EQ(bounded[ConnRole::kService], std::vector<bool>(1, false));
}

TEST_P(ChannelOpenerTest, ARaisedDemandIsDialledAtOnceAndInFull) {
  demand(2);
  ASSERT_TRUE(wait_channels(2));
  in_worker([&] {
    role->opener().demand(16, 0);
    role->opener().demand(2, 0);  // what was not asked for by now never will be
  });
  EXPECT_TRUE(wait_channels(16));
}

TEST_P(ChannelOpenerTest, ABurstsChannelsAreDialledOverManyTurns) {
  size_t dialled = 0;
  in_worker([&] {
    const size_t before = loopback::open_descriptors();
    role->opener().demand(0, 100);
    dialled = loopback::open_descriptors() - before;
  });
  EXPECT_GT(dialled, 0u);
  EXPECT_LT(dialled, 10u) << "visitors of this worker wait meanwhile";
  EXPECT_TRUE(wait_channels(100));
  EXPECT_FALSE(until([&] { return channels.size() > 100; }, 100));
}

TEST_P(ChannelOpenerTest, WhatIsNotDialledYetEndsWithItsSession) {
  in_worker([&] {
    role->opener().demand(0, 100);
    role->opener().close_session(ChannelOpener::Ready::kEnd);
  });
  EXPECT_FALSE(until([&] { return channels.size() >= 10; }, 100));
  const size_t before = channels.size();
  open_session();
  demand(0, 20);
  EXPECT_TRUE(wait_channels(before + 20));
}

TEST_P(ChannelOpenerTest, ASessionThatFollowsInTheSameTurnIsDialledForInFull) {
  in_worker([&] { role->opener().demand(0, 100); });
  close_session();
  open_session();
  const auto opened = [&] { return count(Counter::kChannelsOpened); };
  const uint64_t before = opened();
  demand(0, 20);
  EXPECT_TRUE(until([&] { return opened() == before + 20; }));
  EXPECT_FALSE(until([&] { return opened() > before + 20; }, 100));
}

TEST_P(ChannelOpenerTest, AnEdgeThatClosesFreshChannelsIsDialledAgainBehindAPause) {
  edge_closes = true;
  const uint64_t begin = now_ms();
  demand(4);
  ASSERT_TRUE(until([&] { return channels.size() > 8; }));
  // Four at once, and as many behind each pause at most.
  EXPECT_GE(now_ms() - begin, kRefillPauseMs);
  edge_closes = false;
  const size_t closed = channels.size();
  EXPECT_TRUE(until([&] {
    size_t open = 0;
    for (size_t i = closed; i < channels.size(); ++i) open += channels[i].fd.valid() && !channels[i].over() ? 1 : 0;
    return open == 4;
  }));
}

TEST_P(ChannelOpenerTest, AnEdgeThatGoesOnClosingFreshChannelsIsDialledLessAndLess) {
  edge_closes = true;
  demand(4);
  EXPECT_FALSE(until([&] { return channels.size() > 20; }, 3500)) << "four, then two at 0.2, 0.6, 1.4 and 3 s";
  EXPECT_GE(channels.size(), 8u);
  edge_closes = false;
  const size_t closed = channels.size();
  demand(5);
  EXPECT_TRUE(until([&] { return channels.size() == closed + 5; }, 1000)) << "visitors come";
}

TEST_P(ChannelOpenerTest, AVisitorEndsThePauseOfAnEdgeThatClosedFreshChannels) {
  edge_closes = true;
  demand(4);
  until([] { return false; }, 2000);  // the next pause is one of 1.6 s
  edge_closes = false;
  const size_t closed = channels.size();
  demand(4, 1);
  ASSERT_TRUE(wait_channels(closed + 1));
  visit(channels[closed]);
  EXPECT_TRUE(until([&] { return channels.size() >= closed + 5; }, 700)) << channels.size() - closed;
}

TEST_P(ChannelOpenerTest, ResetsOfChannelsThatCameBackDoNotStopTheRefill) {
  demand(8);
  ASSERT_TRUE(wait_channels(8));
  unsigned pauses = 0;
  for (size_t i = 0; i < 48; ++i) {
    const uint64_t begin = now_ms();
    ASSERT_TRUE(until([&] { return channels.size() > i && channels[i].heard.size() == kHelloBytes; })) << i;
    if (now_ms() - begin > kRefillPauseMs / 2) ++pauses;
    exchange(channels[i]);
    ASSERT_FALSE(HasFailure()) << i;
    loopback::reset(channels[i].fd);
  }
  // With the pause behind each, only the half that is wanted were dialled every 200 ms.
  EXPECT_LT(pauses, 4u);
}

TEST_P(ChannelOpenerTest, AShortVisitorNowAndThenDoesNotKeepThePoolAtHalf) {
  demand(16);
  ASSERT_TRUE(wait_channels(16));
  for (size_t i = 0; i < 10; ++i) visit(channels[i]);  // these stay
  ASSERT_FALSE(HasFailure());
  Peer& shortly = channels[10];
  const auto free_now = [&] { return channels.size() - 10; };
  const uint64_t begin = now_ms();
  while (free_now() < 13 && now_ms() - begin < kPatienceMs) {
    exchange(shortly);
    ASSERT_FALSE(HasFailure());
    until([&] { return free_now() >= 13; }, 60);
  }
  EXPECT_GE(free_now(), 13u) << "well above half, while visitors come";
  EXPECT_TRUE(until([&] { return free_now() == 16; })) << "all of them in the end, not " << free_now();
}

// --- Dials that fail ------------------------------------------------------------------------------------------------

TEST_P(ChannelOpenerTest, AnEdgeThatIsNotReachedIsCountedAndToldWithItsReason) {
  edge.fd.reset();
  demand(2);
  EXPECT_TRUE(until([&] { return dials_failed >= 2; }));
  EXPECT_EQ(last_error, ECONNREFUSED);
  EXPECT_GE(count(Counter::kDialsFailed), 2u);
}

TEST_P(ChannelOpenerTest, NoDescriptorForADialIsCountedAndToldToo) {
  in_worker([&] {
    const NoDescriptors here;
    role->opener().demand(1, 0);
  });
  EXPECT_TRUE(until([&] { return dials_failed == 1; }));
  EXPECT_EQ(last_error, EMFILE);
  EXPECT_TRUE(wait_channels(1)) << "it is dialled again";
}

TEST_P(ChannelOpenerTest, NorIsADialForWhichThereIsNoSlotPassedOver) {
  std::vector<Conn*> claimed;
  in_worker([&] {
    while (Conn* conn = worker->conns().claim(-1, {}, ConnRole::kService, 0)) claimed.push_back(conn);
  });
  demand(1);
  EXPECT_TRUE(until([&] { return dials_failed >= 1; }));
  EXPECT_EQ(last_error, EMFILE);
  in_worker([&] {
    for (Conn* conn : claimed) worker->conns().release(*conn);
  });
  EXPECT_TRUE(until([&] { return count(Counter::kChannelsReady) == 1; }));
}

TEST_P(ChannelOpenerTest, DialsThatEndWithTheirSessionAreNoFailures) {
  in_worker([&] {
    role->opener().demand(4, 0);
    role->opener().close_session(ChannelOpener::Ready::kEnd);
  });
  EXPECT_TRUE(until([&] { return conns_live() == 0; }));
  EXPECT_EQ(count(Counter::kDialsFailed), 0u);
}

// --- A session that ends in peace ---------------------------------------------------------------------------------

TEST_P(ChannelOpenerTest, AReadyChannelEndsWithItsSessionAlsoWhereHalfAStartIsFasterThanItsCancel) {
  demand(1);
  ASSERT_TRUE(wait_channels(1));
  std::promise<void> both_are_there;
  worker->mailbox().post([&] { both_are_there.get_future().wait(); });
  ::poll(nullptr, 0, 20);  // the worker has taken that letter, and no other
  worker->mailbox().post([this] { role->opener().close_session(ChannelOpener::Ready::kEnd); });
  ASSERT_EQ(::send(channels[0].fd.get(), start().data(), 10, MSG_NOSIGNAL), 10);
  both_are_there.set_value();
  EXPECT_TRUE(until([&] { return channels[0].over(); }));
  EXPECT_EQ(conns_live(), 0u);
}

TEST_P(ChannelOpenerTest, AStartThatWasOnItsWayIsServed) {
  demand(2);
  ASSERT_TRUE(wait_channels(2));
  close_session(ChannelOpener::Ready::kPart);
  answer(visit(channels[0]));
  EXPECT_TRUE(until([&] { return channels[0].over(); }));
  EXPECT_EQ(channels[0].heard, chunk_of("answer") + kEndText);
  EXPECT_FALSE(channels[0].was_reset);
  EXPECT_FALSE(channels[1].over()) << "the edge ends it, as it knows whether it has given it to somebody";
  channels[1].fd.reset();
  EXPECT_TRUE(until([&] { return conns_live() == 0; }));
}

TEST_P(ChannelOpenerTest, AnEdgeThatLeavesThemToThemselvesIsNotWaitedForForever) {
  demand(2);
  ASSERT_TRUE(wait_channels(2));
  const uint64_t begin = now_ms();
  close_session(ChannelOpener::Ready::kPart);
  EXPECT_TRUE(until([&] { return channels[0].over() && channels[1].over(); }));
  EXPECT_GE(now_ms() - begin, kPartingMs);
}

TEST_P(ChannelOpenerTest, OneThatComesBackBehindTheEndIsClosedByTheEdgeAndNotLost) {
  loopback::Two two = loopback::connected();
  close_session(ChannelOpener::Ready::kPart);
  in_worker([&] {
    Conn* conn = worker->conns().claim(two.near.release(), {}, ConnRole::kDataChannel, 0);
    role->opener().take_back(*conn, 1);  // of the session that has just ended
  });
  ASSERT_EQ(conns_live(), 1u);
  two.far.reset();
  EXPECT_TRUE(until([&] { return conns_live() == 0; }));
  EXPECT_EQ(count(Counter::kChannelsReturned), 1u);
  EXPECT_EQ(count(Counter::kChannelsLost), 0u);
}

TEST_P(ChannelOpenerTest, ADrainWaitsForThem) {
  demand(2);
  ASSERT_TRUE(wait_channels(2));
  std::atomic<bool> idle = false;
  in_worker([&] {
    role->opener().close_session(ChannelOpener::Ready::kPart);
    role->when_idle([&] { idle = true; });
  });
  Peer& asked = visit(channels[0]);
  channels[1].fd.reset();
  EXPECT_FALSE(until([&] { return idle.load(); }, 50));
  answer(asked);
  EXPECT_TRUE(until([&] { return idle.load(); }));
}

TEST_P(ChannelOpenerTest, TheNextSessionDoesNotCountOnThem) {
  demand(4);
  ASSERT_TRUE(wait_channels(4));
  close_session(ChannelOpener::Ready::kPart);
  open_session();
  demand(4);
  EXPECT_TRUE(wait_channels(8));
  EXPECT_EQ(count(Counter::kChannelsReady), 4u);
}

// --- A service whose address is not known yet ---------------------------------------------------------------------

TEST_P(ChannelOpenerTest, AVisitorWaitsForTheFirstLookupOfItsServicesName) {
  ASSERT_TRUE(visit_before_the_lookup());
  EXPECT_FALSE(until([&] { return channels[0].over(); }, 50));
  uint32_t coming = 0;
  in_worker([&] { coming = role->opener().visitors_coming(); });
  EXPECT_EQ(coming, 1u) << "a drain waits for it";
  set_services(services_at({service.address}));
  ASSERT_TRUE(until([&] { return services.size() == 1 && services[0].ended; }));
  EXPECT_EQ(services[0].heard, "request");
  answer(services[0]);
  EXPECT_TRUE(until([&] { return channels[0].heard == chunk_of("answer") + kEndText + kFreeText; }));
  EXPECT_EQ(services_failed, 0u);
}

TEST_P(ChannelOpenerTest, AndIsResetWhereItFindsNone) {
  ASSERT_TRUE(visit_before_the_lookup());
  close_session(ChannelOpener::Ready::kEnd);  // which is nothing to those that carry a visitor
  EXPECT_FALSE(channels[0].over());
  set_services(services_at({}));
  EXPECT_TRUE(until([&] { return channels[0].over(); }));
  EXPECT_TRUE(channels[0].was_reset);
  EXPECT_EQ(services_failed, 1u);
  EXPECT_EQ(last_error, kServiceUnresolved);
}

TEST_P(ChannelOpenerTest, AnAgentThatEndsResetsWhoWaitsForAName) {
  ASSERT_TRUE(visit_before_the_lookup());
  stop();
  EXPECT_TRUE(until([&] { return channels[0].over(); }));
  EXPECT_TRUE(channels[0].was_reset);
}

// --- Which are kept -----------------------------------------------------------------------------------------------

TEST_P(ChannelOpenerTest, AChannelThatCameBackServesTheNextVisitor) {
  demand(1);
  ASSERT_TRUE(wait_channels(1));
  for (int round = 0; round < 3; ++round) exchange(channels[0]);
  EXPECT_EQ(count(Counter::kChannelsReturned), 3u);
  EXPECT_EQ(channels.size(), 2u) << "one was dialled while the first was busy";
}

TEST_P(ChannelOpenerTest, TwiceAsManyAreKeptAsAreWantedAndTheOthersEndByFin) {
  demand(2, 8);
  ASSERT_TRUE(wait_channels(8));
  std::vector<Peer*> asked;
  for (size_t i = 0; i < 8; ++i) asked.push_back(&visit(channels[i]));
  ASSERT_TRUE(wait_channels(10));
  for (size_t i = 0; i < 8; ++i) {
    answer(*asked[i]);
    Peer& channel = channels[i];
    ASSERT_TRUE(until([&] { return channel.heard.ends_with(kEndText) || channel.heard.ends_with(kFreeText); }));
    const bool kept = i < 2;
    EXPECT_EQ(channel.heard, chunk_of("answer") + kEndText + (kept ? kFreeText : "")) << i;
    if (!kept) {
      EXPECT_TRUE(until([&] { return channel.over(); })) << i;
      EXPECT_TRUE(channel.ended) << i;
    }
  }
  EXPECT_EQ(count(Counter::kChannelsReturned), 2u);
  EXPECT_FALSE(channels[0].over() || channels[1].over());
}

// Their visitors read slowly, or not at all: what they were sent, and FREE behind it, waits at the edge.
TEST_P(ChannelOpenerTest, ChannelsThatTheEdgeDoesNotHaveBackAreMadeUpFor) {
  demand(2);
  ASSERT_TRUE(wait_channels(2));
  Peer& one = visit(channels[0]);
  Peer& other = visit(channels[1]);
  ASSERT_TRUE(wait_channels(4));
  answer(one);
  answer(other);
  ASSERT_TRUE(until([&] { return count(Counter::kChannelsReturned) == 2; }));
  visit(channels[2]);
  visit(channels[3]);
  for (size_t i = 4; i < 6; ++i) {
    demand(2, 1);
    ASSERT_TRUE(wait_channels(i + 1));
    visit(channels[i]);
  }
  EXPECT_TRUE(wait_channels(8)) << channels.size();
  // The visitors have read at last.
  exchange(channels[0]);
  exchange(channels[1]);
}

TEST_P(ChannelOpenerTest, NoMoreThanEightAreKeptBesideTheManyThatAreWanted) {
  demand(10, 20);
  ASSERT_TRUE(wait_channels(20));
  std::vector<Peer*> asked;
  for (size_t i = 0; i < 20; ++i) asked.push_back(&visit(channels[i]));
  ASSERT_TRUE(wait_channels(30));
  for (size_t i = 0; i < 20; ++i) {
    answer(*asked[i]);
    Peer& channel = channels[i];
    const bool kept = i < 8;
    ASSERT_TRUE(until([&] { return kept ? channel.heard.ends_with(kFreeText) : channel.over(); })) << i;
  }
  EXPECT_EQ(count(Counter::kChannelsReturned), 8u);
}

TEST_P(ChannelOpenerTest, AChannelOfASessionThatEndedIsNotKept) {
  demand(1);
  ASSERT_TRUE(wait_channels(1));
  Peer& asked = visit(channels[0]);
  ASSERT_TRUE(wait_channels(2));
  close_session();
  answer(asked);
  EXPECT_TRUE(until([&] { return channels[0].over(); }));
  EXPECT_TRUE(channels[0].ended);
  EXPECT_EQ(channels[0].heard, chunk_of("answer") + kEndText);
  EXPECT_EQ(count(Counter::kChannelsReturned), 0u);
}

TEST_P(ChannelOpenerTest, AChannelOfTheFormerSessionIsNotKeptForTheNewOne) {
  demand(1);
  ASSERT_TRUE(wait_channels(1));
  Peer& asked = visit(channels[0]);
  ASSERT_TRUE(wait_channels(2));
  close_session();
  open_session();
  demand(4);
  ASSERT_TRUE(wait_channels(6));
  answer(asked);
  EXPECT_TRUE(until([&] { return channels[0].over(); }));
  EXPECT_TRUE(channels[0].ended);
  EXPECT_EQ(channels[0].heard, chunk_of("answer") + kEndText);
  EXPECT_EQ(count(Counter::kChannelsReturned), 0u);
}

TEST_P(ChannelOpenerTest, NorIsOneWhoseServiceWasDialledWhenTheSessionChanged) {
  demand(1);
  ASSERT_TRUE(wait_channels(1));
  // One waits to be accepted and nobody else may: the dial waits for its next SYN, a second later.
  ASSERT_EQ(::listen(service.fd.get(), 0), 0);
  const Fd first = loopback::connect_to(service.address);
  channels[0].heard.clear();
  channels[0].say = start() + chunk_of("request") + kEndText;
  ASSERT_TRUE(run_until([&] { channels[0].turn(); ::poll(nullptr, 0, 1); },
                        [&] { return count(Counter::kVisitors) == 1; }, kPatienceMs));
  close_session();
  open_session();
  demand(2);
  ASSERT_TRUE(until([&] { return services.size() == 2 && services[1].ended; }));
  EXPECT_EQ(services[1].heard, "request");
  answer(services[1]);
  EXPECT_TRUE(until([&] { return channels[0].over(); }));
  EXPECT_TRUE(channels[0].ended);
  EXPECT_EQ(channels[0].heard, chunk_of("answer") + kEndText);
  EXPECT_EQ(count(Counter::kChannelsReturned), 0u);
}

// --- The end ------------------------------------------------------------------------------------------------------

class AnswerUnderWay : public ChannelOpenerTest {
 protected:
  // A channel that came back, whose edge has not read the answer: most of it is still the agent's to send.
  void come_back() {
    const int few = 2048;
    setsockopt(edge.fd.get(), SOL_SOCKET, SO_RCVBUF, &few, sizeof few);
    demand(1);
    ASSERT_TRUE(wait_channels(1));
    Peer& asked = visit(channels[0]);
    channels[0].hear_at_once = 0;
    said = random_bytes(random, 30'000);
    asked.say = said;
    asked.closes = true;
    ASSERT_TRUE(until([&] { return count(Counter::kChannelsReturned) == 1; }));
    int arrived = 0;
    ASSERT_EQ(::ioctl(channels[0].fd.get(), FIONREAD, &arrived), 0);
    ASSERT_LT(static_cast<size_t>(arrived), said.size() / 2);
  }
  void expect_all_of_it() {
    Peer& channel = channels[0];
    channel.hear_at_once = 1 << 20;
    EXPECT_TRUE(until([&] { return channel.over(); }));
    EXPECT_TRUE(channel.ended);
    EXPECT_TRUE(channel.heard.ends_with(kEndText + kFreeText));
    EXPECT_TRUE(bytes_of_chunks(channel.heard) == said) << channel.heard.size() << " of " << said.size();
  }
  std::mt19937 random{1};
  std::string said;
};

TEST_P(AnswerUnderWay, ArrivesWholeWhenTheSessionEnds) {
  ASSERT_NO_FATAL_FAILURE(come_back());
  close_session();
  expect_all_of_it();
}

TEST_P(AnswerUnderWay, ArrivesWholeWhenTheAgentEnds) {
  ASSERT_NO_FATAL_FAILURE(come_back());
  stop();
  expect_all_of_it();
}

// --- Starts -------------------------------------------------------------------------------------------------------

TEST_P(ChannelOpenerTest, AnAgentThatForcesSpliceRefusesAStartInChunks) {
  make(PumpKind::kSplice);
  if (IsSkipped()) return;
  demand(1);
  ASSERT_TRUE(wait_channels(1));
  channels[0].say = start() + chunk_of("request") + kEndText;
  EXPECT_TRUE(until([&] { return channels[0].over(); }));
  EXPECT_TRUE(channels[0].was_reset);
  EXPECT_TRUE(services.empty());
}

TEST_P(ChannelOpenerTest, AVisitorWithoutChunksIsServedAndItsChannelEndsByFinWithIt) {
  demand(1);
  ASSERT_TRUE(wait_channels(1));
  Peer& channel = channels[0];
  channel.heard.clear();
  channel.say = start(false) + "request";
  channel.closes = true;
  ASSERT_TRUE(until([&] { return services.size() == 1 && services[0].ended; }));
  EXPECT_EQ(services[0].heard, "request");
  answer(services[0]);
  EXPECT_TRUE(until([&] { return channel.over(); }));
  EXPECT_EQ(channel.heard, "answer");
  EXPECT_TRUE(channel.ended);
  EXPECT_EQ(count(Counter::kChannelsReturned), 0u);
}

INSTANTIATE_TEST_SUITE_P(Loops, ChannelOpenerTest, testing::Values(IoKind::kEpoll, IoKind::kUring), loop_of);
INSTANTIATE_TEST_SUITE_P(Loops, AnswerUnderWay, testing::Values(IoKind::kEpoll, IoKind::kUring), loop_of);

}  // namespace
}  // namespace natrp
