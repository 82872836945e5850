// Pairs whose data channel comes back (relay/pair_return): every backend with every pump that speaks in chunks, real
// sockets on both sides.
#include <gtest/gtest.h>

#include <cstring>

#include "base/limits.h"
#include "relay/chain.h"

namespace natrp {
namespace {

// Splice never speaks in chunks: edge and agent ask for none then.
class PairReturnTest : public testing::TestWithParam<Kinds> {
 protected:
  void SetUp() override {
    auto made = make_loop(std::get<0>(GetParam()));
    if (!made.ok()) GTEST_SKIP() << made.error().message;
    chain = std::make_unique<Chain>(std::move(made.value().loop), std::get<1>(GetParam()));
  }
  uint64_t count(Counter counter) const { return chain->counters.get(counter); }
  // One visitor that asks and is answered, whoever closes first; the channel comes back.
  enum class First { kVisitor, kService, kBoth };
  void exchange(First first, size_t up, size_t down) {
    Peer visitor;
    Peer service;
    chain->meet(visitor, service);
    visitor.say = random_bytes(random, up);
    service.say = random_bytes(random, down);
    if (first == First::kBoth) visitor.closes = service.closes = true;
    Peer& leads = first == First::kService ? service : visitor;
    Peer& follows = first == First::kService ? visitor : service;
    leads.closes = true;
    ASSERT_TRUE(chain->until({&visitor, &service}, [&] { return follows.over(); }));
    follows.closes = true;
    ASSERT_TRUE(chain->until({&visitor, &service}, [&] { return leads.over() && chain->over(); }));
    EXPECT_TRUE(visitor.ended && service.ended);
    EXPECT_TRUE(service.heard == visitor.say) << service.heard.size() << " of " << up;
    EXPECT_TRUE(visitor.heard == service.say) << visitor.heard.size() << " of " << down;
    EXPECT_EQ(chain->edge_ends.back(), EndReason::kReturned);
    EXPECT_EQ(chain->agent_ends.back(), EndReason::kReturned);
    ASSERT_TRUE(chain->channel_is_back());
    EXPECT_EQ(chain->loop->bytes_readable(chain->idle->fd), 0);
    EXPECT_EQ(chain->loop->bytes_readable(chain->waiting->back_conn().fd), 0);
    EXPECT_EQ(chain->agent_received, up) << "headers are nobody's bytes";
    EXPECT_EQ(chain->edge_received, down);
  }
  void turns(unsigned milliseconds) {
    chain->until({}, [] { return false; }, milliseconds);
  }
  void expect_the_channel_gone(const char* where) {
    ASSERT_TRUE(chain->until({}, [&] { return chain->pairs.live() == 0; })) << where;
    EXPECT_TRUE(chain->channel_is_closed()) << where;
    for (const auto* ends : {&chain->edge_ends, &chain->agent_ends}) {
      for (const EndReason reason : *ends) EXPECT_NE(reason, EndReason::kReturned) << where;
    }
  }
  // A visitor at the edge alone comes and goes; its channel is waited for.
  void end_but_for_free(Peer& agent, Peer& visitor) {
    chain->open_channel_of(agent);
    chain->visit(visitor);
    visitor.closes = true;
    agent.say = kEndText;
    const unsigned gone = chain->visitors_gone;
    ASSERT_TRUE(chain->until({&agent, &visitor}, [&] { return chain->visitors_gone > gone && visitor.over(); }));
  }

  std::mt19937 random{1};
  std::unique_ptr<Chain> chain;
};

// --- A channel comes back -----------------------------------------------------------------------------------------

TEST_P(PairReturnTest, WhoeverClosesFirstTheChannelComesBackAndCarriesTheNextVisitor) {
  chain->open_channel();
  const int edge_fd = chain->waiting->back_conn().fd;
  const int agent_fd = chain->idle->fd;
  uint64_t up = 0;
  uint64_t down = 0;
  for (const First first : {First::kVisitor, First::kService, First::kBoth}) {
    for (const auto& [asks, answers] : {std::pair{10u, 1000u}, {1000u, 10u}, {0u, 0u}, {0u, 500u}, {500u, 0u},
                                        {1u, 1u}, {12'000u, 12'000u}}) {
      ASSERT_NO_FATAL_FAILURE(exchange(first, asks, answers)) << asks << " " << answers;
      up += asks;
      down += answers;
      EXPECT_EQ(chain->waiting->back_conn().fd, edge_fd);
      EXPECT_EQ(chain->idle->fd, agent_fd);
    }
  }
  EXPECT_EQ(count(Counter::kBytesUp), 2 * up) << "counted by each of the two pairs, and no headers";
  EXPECT_EQ(count(Counter::kBytesDown), 2 * down);
  EXPECT_EQ(chain->visitors_gone, chain->edge_ends.size());
  EXPECT_EQ(count(Counter::kResetsCarried), 0u);
}

TEST_P(PairReturnTest, TheHundredthVisitorOfAChannelGetsItsOwnBytesAndNoOthers) {
  chain->open_channel();
  for (int round = 0; round < 100; ++round) {
    const First first = std::array{First::kVisitor, First::kService, First::kBoth}[random() % 3];
    ASSERT_NO_FATAL_FAILURE(exchange(first, random() % 3000, random() % 3000)) << round;
  }
  EXPECT_EQ(chain->edge_ends.size(), 100u);
}

TEST_P(PairReturnTest, ALateAnswerToAHalfClosedVisitorArrivesAndTheChannelComesBack) {
  for (const bool visitor_first : {true, false}) {
    chain->open_channel();
    for (int round = 0; round < 2; ++round) {
      Peer visitor;
      Peer service;
      chain->meet(visitor, service);
      Peer& first = visitor_first ? visitor : service;
      Peer& second = visitor_first ? service : visitor;
      first.say = "question";
      first.closes = true;
      ASSERT_TRUE(chain->until({&visitor, &service}, [&] { return second.over(); }));
      EXPECT_EQ(second.heard, "question");
      turns(3 * kHalfClosedMs);  // both pairs watch for a reset now
      ASSERT_TRUE(chain->edge != nullptr && chain->agent != nullptr) << "half-closed pairs live";
      second.say = random_bytes(random, 5000);
      second.closes = true;
      ASSERT_TRUE(chain->until({&visitor, &service}, [&] { return first.over() && chain->over(); }));
      EXPECT_TRUE(first.ended && second.ended);
      EXPECT_TRUE(first.heard == second.say);
      EXPECT_EQ(chain->edge_ends.back(), EndReason::kReturned);
      EXPECT_EQ(chain->agent_ends.back(), EndReason::kReturned);
      ASSERT_TRUE(chain->channel_is_back());
    }
    chain->pairs.end(*chain->waiting, EndReason::kSessionEnded, Resets::kNone);
  }
}

TEST_P(PairReturnTest, ManySmallMessagesBackAndForthAreWhole) {
  chain->open_channel();
  Peer visitor;
  Peer service;
  chain->meet(visitor, service);
  for (int round = 0; round < 300; ++round) {
    visitor.say += random_bytes(random, 1 + random() % 50);
    service.say += random_bytes(random, 1 + random() % 50);
    ASSERT_TRUE(chain->until({&visitor, &service}, [&] {
      return service.heard.size() == visitor.say.size() && visitor.heard.size() == service.say.size();
    }));
  }
  visitor.closes = service.closes = true;
  ASSERT_TRUE(chain->until({&visitor, &service}, [&] { return chain->over(); }));
  EXPECT_TRUE(service.heard == visitor.say);
  EXPECT_TRUE(visitor.heard == service.say);
  EXPECT_TRUE(chain->channel_is_back());
}

// --- Streams, and channels that nobody wants ----------------------------------------------------------------------

TEST_P(PairReturnTest, AStreamArrivesWholeAndEndsByFinAndItsChannelWithIt) {
  for (const auto& [up, down] : {std::pair{3u << 20, 10u}, {10u, 3u << 20}, {2u << 20, 3u << 20},
                                 {(64u << 10) + 1, 0u}, {0u, 200'000u}}) {
    chain->open_channel();
    Peer visitor;
    Peer service;
    chain->meet(visitor, service);
    visitor.say = random_bytes(random, up);
    service.say = random_bytes(random, down);
    visitor.closes = service.closes = true;
    ASSERT_TRUE(chain->until({&visitor, &service}, [&] { return visitor.over() && service.over(); })) << up;
    EXPECT_TRUE(visitor.ended && service.ended);
    EXPECT_TRUE(service.heard == visitor.say) << service.heard.size() << " of " << up;
    EXPECT_TRUE(visitor.heard == service.say) << visitor.heard.size() << " of " << down;
    ASSERT_NO_FATAL_FAILURE(expect_the_channel_gone("a stream"));
    EXPECT_EQ(chain->edge_ends.back(), EndReason::kCompleted);
    EXPECT_EQ(chain->agent_ends.back(), EndReason::kCompleted);
  }
}

TEST_P(PairReturnTest, AfterTheLastChunkASlowStreamGoesOnWithoutThem) {
  chain->open_channel();
  Peer visitor;
  Peer service;
  chain->meet(visitor, service);
  size_t up = 0;
  while (up < 3 * kChunkedBytesMax) {
    visitor.say += random_bytes(random, 3000);
    service.say += random_bytes(random, 2500);
    up += 3000;
    ASSERT_TRUE(chain->until({&visitor, &service}, [&] {
      return service.heard.size() == visitor.say.size() && visitor.heard.size() == service.say.size();
    }));
  }
  EXPECT_FALSE(chain->edge->up.wraps);
  EXPECT_FALSE(chain->agent->up.unwraps);
  visitor.closes = service.closes = true;
  ASSERT_TRUE(chain->until({&visitor, &service}, [&] { return visitor.over() && service.over(); }));
  EXPECT_TRUE(visitor.ended && service.ended);
  EXPECT_TRUE(service.heard == visitor.say);
  EXPECT_TRUE(visitor.heard == service.say);
  ASSERT_NO_FATAL_FAILURE(expect_the_channel_gone("a stream"));
}

TEST_P(PairReturnTest, AChannelThatItsAgentHasNoUseForEndsByFin) {
  chain->keeps = false;
  for (int round = 0; round < 8; ++round) {
    chain->open_channel();
    Peer visitor;
    Peer service;
    chain->meet(visitor, service);
    visitor.say = random_bytes(random, 100);
    service.say = random_bytes(random, 2000);
    (round % 2 == 0 ? visitor : service).closes = true;
    ASSERT_TRUE(chain->until({&visitor, &service}, [&] { return visitor.over() || service.over(); }));
    visitor.closes = service.closes = true;
    ASSERT_TRUE(chain->until({&visitor, &service}, [&] { return visitor.over() && service.over(); }));
    EXPECT_TRUE(visitor.ended && service.ended);
    EXPECT_TRUE(service.heard == visitor.say);
    EXPECT_TRUE(visitor.heard == service.say);
    ASSERT_NO_FATAL_FAILURE(expect_the_channel_gone("not kept"));
    EXPECT_EQ(chain->edge_ends.back(), EndReason::kCompleted);
    EXPECT_EQ(chain->agent_ends.back(), EndReason::kCompleted);
  }
  EXPECT_EQ(count(Counter::kResetsCarried), 0u);
}

// --- Resets -------------------------------------------------------------------------------------------------------

TEST_P(PairReturnTest, AResetAtAnyMomentIsCarriedToTheOtherEndAndItsChannelIsClosed) {
  enum Moment { kAtOnce, kAfterBytes, kInTheMiddleOfAnAnswer, kAfterItsEnd, kAfterTheOthersEnd };
  for (const bool from_visitor : {true, false}) {
    for (const Moment moment : {kAtOnce, kAfterBytes, kInTheMiddleOfAnAnswer, kAfterItsEnd, kAfterTheOthersEnd}) {
      const std::string where = std::string(from_visitor ? "visitor " : "service ") + std::to_string(moment);
      chain->open_channel();
      Peer visitor;
      Peer service;
      chain->meet(visitor, service);
      Peer& loud = from_visitor ? visitor : service;
      Peer& other = from_visitor ? service : visitor;
      if (moment != kAtOnce) loud.say = random_bytes(random, 3000);
      if (moment == kInTheMiddleOfAnAnswer) other.say = random_bytes(random, 8000);
      if (moment == kAfterItsEnd) loud.closes = true;
      if (moment == kAfterTheOthersEnd) other.closes = true;
      ASSERT_TRUE(chain->until({&loud, &other}, [&] {
        if (moment == kAfterItsEnd) return other.ended;
        if (moment == kAfterTheOthersEnd) return loud.ended && other.heard.size() == loud.say.size();
        return other.heard.size() == loud.say.size();
      })) << where;
      if (moment == kInTheMiddleOfAnAnswer) {
        loud.say += random_bytes(random, 3000);
        loud.turn();
        ASSERT_TRUE(chain->until({&loud}, [&] {
          return loud.said == loud.say.size() && chain->loop->bytes_unacknowledged(loud.fd.get()) == 0;
        })) << where;
      }
      loopback::reset(loud.fd);
      ASSERT_TRUE(chain->until({&other}, [&] { return chain->pairs.live() == 0; })) << where;
      other.turn();
      EXPECT_TRUE(other.heard == loud.say) << where << ": " << other.heard.size() << " of " << loud.say.size();
      if (moment == kAfterItsEnd) {
        const char byte = 0;
        EXPECT_EQ(::send(other.fd.get(), &byte, 1, MSG_NOSIGNAL), -1) << where;
      } else {
        EXPECT_TRUE(other.was_reset) << where;
      }
      expect_the_channel_gone(where.c_str());
      EXPECT_EQ(chain->edge_ends.back(), from_visitor ? EndReason::kFrontReset : EndReason::kBackReset) << where;
      EXPECT_EQ(chain->agent_ends.back(), from_visitor ? EndReason::kFrontReset : EndReason::kBackReset) << where;
    }
  }
}

TEST_P(PairReturnTest, AResetOfTheChannelResetsWhoeverIsAtTheOtherEnd) {
  for (const bool at_edge : {true, false}) {
    for (const bool said_end : {false, true}) {
      Peer far;
      Peer near;
      if (at_edge) {
        chain->open_channel_of(far);
        chain->visit(near);
      } else {
        chain->serve_from(far, near);
      }
      far.say = chunk_of("all of it") + (said_end ? kEndText : "");
      ASSERT_TRUE(chain->until({&far, &near}, [&] { return near.heard == "all of it" && near.ended == said_end; }));
      loopback::reset(far.fd);
      ASSERT_TRUE(chain->until({&near}, [&] { return chain->pairs.live() == 0; }));
      near.turn();
      const char byte = 0;
      EXPECT_EQ(::send(near.fd.get(), &byte, 1, MSG_NOSIGNAL), -1);
      EXPECT_TRUE(near.was_reset || said_end);
      ASSERT_NO_FATAL_FAILURE(expect_the_channel_gone("reset"));
    }
  }
}

// --- A channel that is cut, or that does not speak our protocol ---------------------------------------------------

TEST_P(PairReturnTest, AFinWhereEndWasDueIsAResetForWhoeverWaitsForTheRest) {
  for (const bool at_edge : {true, false}) {
    for (const std::string& tail :
         {std::string(), chunk_header(9) + "part", chunk_header(1), std::string(1, 0), std::string("\x80")}) {
      Peer far;
      Peer near;
      if (at_edge) {
        chain->open_channel_of(far);
        chain->visit(near);
      } else {
        chain->serve_from(far, near);
      }
      far.say = chunk_of("whole") + tail;
      far.closes = true;
      ASSERT_TRUE(chain->until({&far, &near}, [&] { return near.over() && far.over(); }));
      EXPECT_TRUE(near.was_reset);
      EXPECT_EQ(near.heard, "whole" + tail.substr(std::min<size_t>(2, tail.size())));
      ASSERT_NO_FATAL_FAILURE(expect_the_channel_gone("cut"));
    }
  }
}

TEST_P(PairReturnTest, WhoDoesNotSpeakOurProtocolIsResetAndSoIsTheOtherEnd) {
  for (const bool at_edge : {true, false}) {
    for (const std::string& nonsense : {chunk_header(0), chunk_header(0x8003),
                                        chunk_header(0xffff), kFreeText, kEndText + chunk_of("x"),
                                        kEndText + kFreeText + kFreeText}) {
      Peer far;
      Peer near;
      if (at_edge) {
        chain->open_channel_of(far);
        chain->visit(near);
      } else {
        chain->serve_from(far, near);
      }
      far.say = chunk_of("hello");
      ASSERT_TRUE(chain->until({&far, &near}, [&] { return near.heard == "hello"; }));
      far.say += nonsense;
      ASSERT_TRUE(chain->until({&far, &near}, [&] { return near.over() && far.over(); }));
      EXPECT_TRUE(near.was_reset) << testing::PrintToString(nonsense);
      EXPECT_TRUE(far.was_reset) << testing::PrintToString(nonsense);
      EXPECT_EQ(near.heard, "hello");
      ASSERT_NO_FATAL_FAILURE(expect_the_channel_gone("nonsense"));
      EXPECT_EQ((at_edge ? chain->edge_ends : chain->agent_ends).back(), EndReason::kChannelSpoke);
    }
  }
}

TEST_P(PairReturnTest, AnAgentThatSaysFreeBeforeItWasToldOfTheVisitorsEndIsResetWithItsVisitor) {
  Peer agent;
  Peer visitor;
  chain->open_channel_of(agent);
  chain->visit(visitor);
  agent.say = chunk_of("hello") + kEndText + kFreeText;
  ASSERT_TRUE(chain->until({&agent, &visitor}, [&] { return visitor.over() && agent.over(); }));
  EXPECT_EQ(visitor.heard, "hello");
  EXPECT_TRUE(visitor.was_reset);
  EXPECT_TRUE(agent.was_reset);
  ASSERT_NO_FATAL_FAILURE(expect_the_channel_gone("FREE too early"));
  EXPECT_EQ(chain->edge_ends.back(), EndReason::kChannelSpoke);
}

// --- Returning ----------------------------------------------------------------------------------------------------

TEST_P(PairReturnTest, AFreeThatComesInPiecesIsOne) {
  for (const std::vector<std::string>& pieces : std::vector<std::vector<std::string>>{
           {kEndText, kFreeText},
           {kEndText + kFreeText},
           {kEndText + "\x80", "\x02"},
           {"\x80", "\x01\x80", "\x02"},
           {"\x80", "\x01", "\x80", "\x02"},
       }) {
    Peer agent;
    Peer visitor;
    chain->open_channel_of(agent);
    chain->visit(visitor);
    visitor.say = "question";
    visitor.closes = true;
    agent.say = chunk_of("answer");
    // The visitor has ended: what comes now may all come at once.
    ASSERT_TRUE(chain->until({&agent, &visitor}, [&] {
      return agent.heard == chunk_of("question") + kEndText && visitor.heard == "answer";
    }));
    for (const std::string& piece : pieces) {
      agent.say += piece;
      agent.turn();
      turns(3);
    }
    ASSERT_TRUE(chain->until({&agent, &visitor}, [&] { return visitor.over() && chain->edge == nullptr; }));
    EXPECT_TRUE(visitor.ended) << pieces.size();
    EXPECT_EQ(visitor.heard, "answer");
    EXPECT_EQ(chain->edge_ends.back(), EndReason::kReturned);
    ASSERT_NE(chain->waiting, nullptr);
    chain->pairs.end(*chain->waiting, EndReason::kSessionEnded, Resets::kNone);
  }
}

TEST_P(PairReturnTest, AChannelThatSaysAnythingButFreeInsteadIsResetAndItsVisitorIsNone) {
  for (const std::string& nonsense : {chunk_of("x"), kEndText, chunk_header(kChunkRaw), chunk_header(0),
                                      kFreeText + "x", kFreeText + kFreeText,
                                      kFreeText + chunk_of("somebody else's")}) {
    Peer agent;
    Peer visitor;
    ASSERT_NO_FATAL_FAILURE(end_but_for_free(agent, visitor));
    EXPECT_TRUE(visitor.ended);
    EXPECT_EQ(chain->pairs.with_visitor(), 0u);
    EXPECT_EQ(chain->pairs.live(), 1u) << "it waits for FREE";
    agent.say += nonsense;
    ASSERT_TRUE(chain->until({&agent}, [&] { return agent.over(); })) << testing::PrintToString(nonsense);
    EXPECT_TRUE(agent.was_reset) << testing::PrintToString(nonsense);
    ASSERT_TRUE(chain->until({}, [&] { return chain->pairs.live() == 0; }));
    EXPECT_EQ(chain->edge_ends.back(), EndReason::kChannelSpoke);
  }
}

TEST_P(PairReturnTest, AReturningChannelThatEndsEndsQuietly) {
  for (const bool by_reset : {false, true}) {
    for (const bool half_a_free : {false, true}) {
      Peer agent;
      Peer visitor;
      chain->open_channel_of(agent);
      chain->visit(visitor);
      visitor.say = "question";
      visitor.closes = true;
      agent.say = chunk_of("answer") + kEndText;
      const unsigned gone = chain->visitors_gone;
      ASSERT_TRUE(chain->until({&agent, &visitor}, [&] {
        return chain->visitors_gone > gone && visitor.over() && agent.heard.size() == 12;
      }));
      if (half_a_free) agent.say += "\x80";
      agent.turn();
      if (by_reset) {
        loopback::reset(agent.fd);
      } else {
        agent.closes = true;
      }
      ASSERT_TRUE(chain->until({&agent}, [&] { return chain->pairs.live() == 0; }));
      EXPECT_TRUE(visitor.ended);
      EXPECT_EQ(visitor.heard, "answer");
      EXPECT_EQ(chain->edge_ends.back(), EndReason::kCompleted);
      EXPECT_EQ(chain->waiting, nullptr);
    }
  }
}

// --- No room for an END -------------------------------------------------------------------------------------------

TEST_P(PairReturnTest, AnEndThatFindsNoRoomFollowsItsBytes) {
  for (const bool at_edge : {true, false}) {
    bool waited = false;
    // Of so many sizes some fill the channel to its last byte.
    for (size_t bytes = 2000; bytes < 60'000 && !waited; bytes += 1111) {
      Peer far;
      Peer near;
      if (at_edge) {
        chain->open_channel_of(far, 4096);
        chain->visit(near);
      } else {
        chain->serve_from(far, near, 4096);
      }
      far.hear_at_once = 0;
      near.say = random_bytes(random, bytes);
      near.say_at_once = 4095;
      near.closes = true;
      Pair& pair = at_edge ? *chain->edge : *chain->agent;
      Pump& pump = at_edge ? pair.up : pair.down;
      ASSERT_TRUE(chain->until({&near}, [&] { return near.closed; }));
      turns(2);
      waited |= pump.status == PumpStatus::kEof && pump.sending && pump.wraps;
      far.hear_at_once = 1000;
      const bool in_chunks = pump.wraps;
      far.say = kEndText;
      ASSERT_TRUE(chain->until({&far, &near}, [&] {
        return near.over() && (far.over() || far.heard.ends_with(at_edge ? kEndText : kEndText + kFreeText));
      })) << bytes;
      EXPECT_TRUE(near.ended);
      std::string heard;
      size_t at = 0;
      while (at + 2 <= far.heard.size()) {
        const size_t header = static_cast<uint8_t>(far.heard[at]) << 8 | static_cast<uint8_t>(far.heard[at + 1]);
        at += 2;
        if (header == kChunkEnd || header == kChunkFree) continue;
        const size_t size = header == kChunkRaw ? std::string::npos : header;
        heard += far.heard.substr(at, size);
        at += size == std::string::npos ? far.heard.size() - at : size;
      }
      EXPECT_TRUE(heard == near.say) << heard.size() << " of " << bytes << (in_chunks ? " in chunks" : "");
      far.fd.reset();
      chain->drop_idle();
      ASSERT_TRUE(chain->until({}, [&] { return chain->pairs.live() == 0; }));
    }
    EXPECT_TRUE(waited) << "no END had to wait";
  }
}

TEST_P(PairReturnTest, ThroughANarrowChannelAllArrivesAndTheChannelComesBack) {
  chain->open_channel(4096);
  for (int round = 0; round < 6; ++round) {
    Peer visitor;
    Peer service;
    chain->meet(visitor, service);
    visitor.say = random_bytes(random, 10'000);
    service.say = random_bytes(random, 10'000);
    visitor.say_at_once = service.say_at_once = 3000;
    visitor.hear_at_once = service.hear_at_once = 700;
    visitor.closes = service.closes = true;
    ASSERT_TRUE(chain->until({&visitor, &service}, [&] {
      return visitor.over() && service.over() && chain->over();
    }));
    EXPECT_TRUE(visitor.ended && service.ended);
    EXPECT_TRUE(service.heard == visitor.say);
    EXPECT_TRUE(visitor.heard == service.say);
    if (!chain->channel_is_back()) {  // a FREE that found no room
      ASSERT_TRUE(chain->channel_is_closed());
      chain->open_channel(4096);
    }
  }
}

// --- The end of the process ---------------------------------------------------------------------------------------

TEST_P(PairReturnTest, ADrainDoesNotWaitForAChannelThatReturns) {
  Peer agent;
  Peer visitor;
  ASSERT_NO_FATAL_FAILURE(end_but_for_free(agent, visitor));
  ASSERT_EQ(chain->pairs.live(), 1u);
  chain->pairs.end_all(EndReason::kDrainDeadline);
  ASSERT_TRUE(chain->until({}, [&] { return chain->pairs.live() == 0; }));
  EXPECT_EQ(chain->edge_ends.back(), EndReason::kDrainDeadline);
  EXPECT_EQ(chain->waiting, nullptr);
  ASSERT_TRUE(chain->until({&agent}, [&] { return agent.over(); }));
  EXPECT_TRUE(agent.ended);
}

TEST_P(PairReturnTest, TheEndOfADrainResetsAVisitorAtBothEnds) {
  chain->open_channel();
  Peer visitor;
  Peer service;
  chain->meet(visitor, service);
  visitor.say = "question";
  visitor.closes = true;
  ASSERT_TRUE(chain->until({&visitor, &service}, [&] { return service.ended; }));
  chain->pairs.end_all(EndReason::kDrainDeadline);
  ASSERT_TRUE(chain->until({&visitor, &service}, [&] { return visitor.over() && chain->pairs.live() == 0; }));
  EXPECT_TRUE(visitor.was_reset);
  EXPECT_EQ(chain->edge_ends.back(), EndReason::kDrainDeadline);
  EXPECT_EQ(chain->agent_ends.back(), EndReason::kDrainDeadline);
}

std::string kinds_name(const testing::TestParamInfo<Kinds>& info) {
  const char* loop = std::get<0>(info.param) == IoKind::kUring ? "uring" : "epoll";
  const char* pump = std::get<1>(info.param) == PumpKind::kAuto    ? "auto"
                     : std::get<1>(info.param) == PumpKind::kUring ? "uring"
                                                                   : "copy";
  return std::string(loop) + "_" + pump;
}

INSTANTIATE_TEST_SUITE_P(Kinds, PairReturnTest,
                         testing::Combine(testing::Values(IoKind::kUring, IoKind::kEpoll),
                                          testing::Values(PumpKind::kAuto, PumpKind::kUring, PumpKind::kCopy)),
                         kinds_name);

}  // namespace
}  // namespace natrp
