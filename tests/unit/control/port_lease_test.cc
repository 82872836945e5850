#include "control/port_lease.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace natrp {
namespace {

constexpr uint64_t kGraceMs = 60000;

PortSet ports(const char* text) { return PortSet::parse(text).value(); }
SlotId session(uint32_t number) { return SlotId::make(0, number, 1); }

LeaseRequest request(const std::string& client, const std::string& tunnel, uint32_t session_number,
                     uint16_t wanted = 0, const char* policy = nullptr) {
  LeaseRequest made;
  made.client = client;
  made.tunnel = tunnel;
  made.session = session(session_number);
  made.wish.wanted = wanted;
  if (policy != nullptr) made.policy = ports(policy);
  return made;
}

std::vector<uint16_t> numbers(const std::vector<TunnelPort>& ports) {
  std::vector<uint16_t> numbers;
  for (const TunnelPort& each : ports) numbers.push_back(each.port);
  return numbers;
}

// Reserves and opens.
uint16_t lease(PortLeases& leases, const LeaseRequest& wish, uint64_t now_ms = 0) {
  const LeaseAnswer answer = leases.reserve(wish, now_ms);
  EXPECT_TRUE(answer.ok()) << answer.sentence;
  if (answer.ok()) {
    EXPECT_TRUE(leases.mark_live(answer.port, wish.session));
  }
  return answer.port;
}

TEST(PortLeases, AnEdgeWithoutPortsRefusesInASentence) {
  PortLeases leases(PortSet(), kGraceMs);
  const LeaseAnswer answer = leases.reserve(request("a", "web", 1), 0);
  EXPECT_EQ(answer.refusal, LeaseRefusal::kNoneAllowed);
  EXPECT_NE(answer.sentence.find("none of the ports"), std::string::npos) << answer.sentence;
}

TEST(PortLeases, GivesAWantedPortOnce) {
  PortLeases leases(ports("20000-20009"), kGraceMs);
  EXPECT_EQ(lease(leases, request("a", "web", 1, 20003)), 20003);
  const LeaseAnswer other = leases.reserve(request("b", "web", 2, 20003), 0);
  EXPECT_EQ(other.refusal, LeaseRefusal::kPortInUse);
  EXPECT_NE(other.sentence.find("20003"), std::string::npos);
  EXPECT_EQ(other.sentence.find("'a'"), std::string::npos) << "another client's name is told";
  const LeaseAnswer own = leases.reserve(request("a", "ssh", 1, 20003), 0);
  EXPECT_EQ(own.refusal, LeaseRefusal::kPortInUse);
  EXPECT_NE(own.sentence.find("'web'"), std::string::npos);
}

TEST(PortLeases, RefusesAPortOutsideOfTheRangeOrThePolicy) {
  PortLeases leases(ports("20000-20009"), kGraceMs);
  EXPECT_EQ(leases.reserve(request("a", "web", 1, 443), 0).refusal, LeaseRefusal::kPortNotAllowed);
  EXPECT_EQ(leases.reserve(request("a", "web", 1, 20000, "20005-20006"), 0).refusal,
            LeaseRefusal::kPortNotAllowed);
  for (const uint16_t wanted : {0, 20000}) {
    EXPECT_EQ(leases.reserve(request("a", "web", 1, wanted, "443"), 0).refusal, LeaseRefusal::kNoneAllowed) << wanted;
  }
  const LeaseAnswer any = leases.reserve(request("a", "web", 1, 0, "443,20005-20006"), 0);
  ASSERT_TRUE(any.ok());
  EXPECT_TRUE(any.port == 20005 || any.port == 20006);
}

TEST(PortLeases, KeepsAPortInGraceForItsOwnerAndNobodyElse) {
  PortLeases leases(ports("20000"), kGraceMs);
  EXPECT_EQ(lease(leases, request("a", "web", 1)), 20000);
  EXPECT_EQ(numbers(leases.session_lost(session(1), 1000)), std::vector<uint16_t>{20000});
  EXPECT_EQ(leases.find(20000)->state, LeaseState::kGrace);
  EXPECT_EQ(leases.reserve(request("b", "web", 2), 60999).refusal, LeaseRefusal::kRangeExhausted);
  EXPECT_EQ(leases.reserve(request("b", "web", 2, 20000), 60999).refusal, LeaseRefusal::kPortInUse);
  EXPECT_EQ(lease(leases, request("a", "web", 3), 60999), 20000);
  EXPECT_TRUE(leases.expire(1'000'000).empty()) << "a live lease does not expire";
}

TEST(PortLeases, FreesAPortWhenItsGraceIsOver) {
  PortLeases leases(ports("20000"), kGraceMs);
  lease(leases, request("a", "web", 1));
  leases.session_lost(session(1), 1000);
  EXPECT_TRUE(leases.expire(60999).empty());
  EXPECT_EQ(numbers(leases.expire(61000)), std::vector<uint16_t>{20000});
  EXPECT_EQ(lease(leases, request("b", "web", 2), 61000), 20000);
}

TEST(PortLeases, WithoutGraceALostPortIsFreeAtOnce) {
  PortLeases leases(ports("20000"), 0);
  lease(leases, request("a", "web", 1));
  EXPECT_EQ(leases.session_lost(session(1), 5).size(), 1u);
  EXPECT_EQ(leases.find(20000), nullptr);
  EXPECT_EQ(numbers(leases.expire(5)), std::vector<uint16_t>{20000}) << "the log has to say so";
  EXPECT_TRUE(leases.expire(5).empty()) << "once";
  EXPECT_EQ(lease(leases, request("b", "web", 2), 5), 20000);
}

TEST(PortLeases, AGraceThatEndedWhenSomebodyAskedIsToldLikeTheOthers) {
  PortLeases leases(ports("20000-20001"), kGraceMs);
  leases.restore("a", "web", 20000, 0);
  leases.restore("a", "app", 20001, 10);
  EXPECT_TRUE(leases.ask(request("b", "web", 1), kGraceMs).ok());
  EXPECT_EQ(numbers(leases.expire(kGraceMs + 10)), (std::vector<uint16_t>{20000, 20001}));
}

TEST(PortLeases, ATunnelGetsItsLastPortBackAfterAnythingElse) {
  PortLeases leases(ports("20000-20003"), kGraceMs);
  leases.restore("a", "web", 20002, 0);
  // Its grace is over. Others come first and take what is nobody's.
  std::set<uint16_t> others;
  for (uint32_t i = 0; i < 3; ++i) {
    others.insert(lease(leases, request("b", "t" + std::to_string(i), 2), kGraceMs));
  }
  EXPECT_EQ(others, (std::set<uint16_t>{20000, 20001, 20003}));
  EXPECT_EQ(lease(leases, request("a", "web", 1), kGraceMs), 20002);
}

TEST(PortLeases, AfterARestartEveryLeaseIsInGrace) {
  PortLeases leases(ports("20000-20002"), kGraceMs);
  for (const uint16_t port : {20000, 20001, 20002, 443}) leases.restore("a", std::to_string(port), port, 5);
  EXPECT_EQ(leases.size(), 3u) << "a port outside of the range is nobody's";
  EXPECT_EQ(leases.reserve(request("b", "web", 1, 20001), 6).refusal, LeaseRefusal::kPortInUse);
  EXPECT_EQ(leases.reserve(request("b", "web", 1), 6).refusal, LeaseRefusal::kRangeExhausted);
  EXPECT_EQ(lease(leases, request("a", "20001", 2), 6), 20001);
  EXPECT_EQ(leases.reserve(request("b", "web", 1, 20000), 4 + kGraceMs).refusal, LeaseRefusal::kPortInUse);
  EXPECT_EQ(lease(leases, request("b", "web", 1, 20000), 5 + kGraceMs), 20000);
  EXPECT_EQ(leases.find(20001)->state, LeaseState::kLive);
}

TEST(PortLeases, ARestoredPortIsThatOfTheLastWhoHadIt) {
  PortLeases leases(ports("20000-20002"), kGraceMs);
  leases.restore("a", "web", 20000, 0);
  leases.restore("b", "web", 20000, 0);
  leases.restore("b", "web", 20001, 0);
  EXPECT_EQ(leases.size(), 1u);
  EXPECT_EQ(leases.ask(request("b", "web", 1), 0).port, 20001);
  EXPECT_EQ(leases.find(20001)->client, "b");
}

TEST(PortLeases, ARememberedPortIsFreeAndGoesToItsLastOwnerAsLongAsItIs) {
  PortLeases leases(ports("20000-20001"), kGraceMs);
  leases.restore("a", "web", 20001, 0);
  leases.remember("a", "ssh", 20001);
  leases.remember("a", "ssh", 443);
  EXPECT_EQ(leases.size(), 0u) << "the last word about the port is that it is free";
  EXPECT_EQ(lease(leases, request("b", "web", 1), 0), 20000) << "nobody's last comes first";
  EXPECT_EQ(lease(leases, request("a", "ssh", 2), 0), 20001);
}

TEST(PortLeases, AStickyPortGoesToAnotherWhenNothingElseIsFreeTheOldestFirst) {
  PortLeases leases(ports("20000-20001"), kGraceMs);
  leases.restore("a", "old", 20001, 0);
  leases.restore("a", "young", 20000, 0);
  EXPECT_EQ(lease(leases, request("b", "web", 1), kGraceMs), 20001);
  EXPECT_EQ(lease(leases, request("b", "ssh", 1), kGraceMs), 20000);
  EXPECT_EQ(leases.reserve(request("a", "old", 2), kGraceMs).refusal, LeaseRefusal::kRangeExhausted);
}

TEST(PortLeases, WhereNoLastPortIsRememberedWhatTheAgentSaysItHadIsIt) {
  PortLeases leases(ports("20000-20009"), kGraceMs);
  const auto back = [](const std::string& client, uint16_t had, uint16_t wanted = 0, const char* policy = nullptr) {
    LeaseRequest made = request(client, "web", 1, wanted, policy);
    made.wish.had = had;
    return made;
  };
  for (const uint16_t port : {20009, 20003}) EXPECT_EQ(leases.ask(back("a", port), 0).port, port);
  EXPECT_EQ(leases.ask(back("a", 20003, 20004), 0).port, 20004) << "it wants another";
  const uint16_t any = leases.ask(request("a", "web", 1), 0).port;
  for (const uint16_t no_port : {443, 19999, 65535}) EXPECT_EQ(leases.ask(back("a", no_port), 0).port, any);
  const uint16_t other = any == 20003 ? 20004 : 20003;
  EXPECT_EQ(leases.ask(back("a", other, 0, "20009"), 0).port, 20009) << "by its policy";
  leases.set_named(ports(std::to_string(other).c_str()));
  EXPECT_NE(leases.ask(back("a", other), 0).port, other) << "named for others";
  leases.set_named({});

  leases.remember("b", "web", other);
  EXPECT_EQ(leases.ask(back("a", other), 0).port, any) << "b may come back for it";
  leases.remember("a", "web", 20008);
  EXPECT_EQ(leases.ask(back("a", 20007), 0).port, 20008) << "the edge knows it better";
  lease(leases, request("c", "web", 2, 20008));
  EXPECT_NE(leases.ask(back("a", 20008), 0).port, 20008) << "it is not free";
}

TEST(PortLeases, APortThatItsTunnelLeftForAnotherIsNobodysLast) {
  PortLeases leases(ports("20000-20002"), kGraceMs);
  leases.restore("c", "web", 20002, 0);
  lease(leases, request("a", "web", 1, 20000), kGraceMs);
  lease(leases, request("a", "web", 1, 20001), kGraceMs);
  EXPECT_EQ(lease(leases, request("b", "web", 2), kGraceMs), 20000) << "c may come back for its port";
}

TEST(PortLeases, APortIsTheLastOfWhoHadItLast) {
  for (const char* tunnel : {"web", "ssh", "db"}) {  // whatever port each would begin its search with
    PortLeases leases(ports("20000-20001"), 0);
    lease(leases, request("a", tunnel, 1, 20000));
    leases.session_lost(session(1), 0);
    lease(leases, request("b", "web", 2, 20000));
    leases.session_lost(session(2), 0);
    EXPECT_EQ(lease(leases, request("a", tunnel, 3)), 20001) << "b may come back for its port";
    EXPECT_EQ(lease(leases, request("b", "web", 4)), 20000);
  }
}

TEST(PortLeases, WhereNoPortIsFreeItSaysWhatBecameOfThem) {
  PortLeases leases(ports("20000-20003"), kGraceMs);
  leases.restore("a", "old", 20003, 0);
  leases.restore("a", "older", 20002, 0);
  lease(leases, request("a", "web", 1), 0);
  lease(leases, request("a", "ssh", 1), 0);
  EXPECT_NE(leases.reserve(request("b", "web", 2), 0).sentence.find("2 are leased, 2 are kept"), std::string::npos);
}

TEST(PortLeases, AnyPassesOverAPortThatAnotherProgramHas) {
  PortLeases leases(ports("20000-20001"), kGraceMs);
  const uint16_t first = leases.reserve(request("a", "web", 1), 0).port;
  leases.mark_taken(first, session(1), 0);
  EXPECT_EQ(leases.find(first), nullptr);
  const uint16_t second = leases.reserve(request("a", "web", 1), 0).port;
  EXPECT_NE(second, first);
  leases.mark_taken(second, session(1), 0);
  const LeaseAnswer none = leases.reserve(request("a", "web", 1), 1);
  EXPECT_EQ(none.refusal, LeaseRefusal::kRangeExhausted);
  EXPECT_NE(none.sentence.find("2 are in use by other programs"), std::string::npos) << none.sentence;
  // A wish is always tried: the other program may be gone.
  EXPECT_TRUE(leases.reserve(request("a", "web", 1, first), 1).ok());
  EXPECT_TRUE(leases.reserve(request("b", "web", 2), PortLeases::kTakenMs).ok());
}

TEST(PortLeases, WhoIsRefusedHearsWhatTheOperatorCanDo) {
  PortLeases leases(ports("20000-20001"), kGraceMs);
  ASSERT_TRUE(leases.reserve(request("a", "web", 1, 20000), 0).ok());
  LeaseRequest wish = request("b", "web", 2);
  wish.policy = ports("20000");
  const std::string own = leases.reserve(wish, 0).sentence;
  EXPECT_NE(own.find("natrpctl client set b --ports"), std::string::npos) << own;
  ASSERT_TRUE(leases.reserve(request("a", "app", 1, 20001), 0).ok());
  const std::string all = leases.reserve(request("b", "web", 2), 0).sentence;
  EXPECT_NE(all.find("widen --ports or remove clients"), std::string::npos) << all;
}

TEST(PortLeases, AnyPassesOverWhatIsNamedForCertainClientsWhileAnotherIsFree) {
  PortLeases leases(ports("20000-20003"), kGraceMs);
  leases.set_named(ports("20001-20002"));
  for (char name = 'a'; name <= 'z'; ++name) {  // each begins to look elsewhere
    const LeaseAnswer answer = leases.ask(request("b", std::string(1, name), 1), 0);
    EXPECT_TRUE(answer.port == 20000 || answer.port == 20003) << name << ": " << answer.port;
  }
  std::set<uint16_t> first;
  for (const char* tunnel : {"web", "ssh"}) first.insert(lease(leases, request("b", tunnel, 1)));
  EXPECT_EQ(first, (std::set<uint16_t>{20000, 20003}));
  EXPECT_EQ(lease(leases, request("a", "web", 2, 0, "20001")), 20001);
  EXPECT_EQ(lease(leases, request("b", "third", 1)), 20002) << "no other is free";
  EXPECT_EQ(lease(leases, request("b", "third", 3)), 20002) << "what it has, it keeps";
}

TEST(PortLeases, ALastPortThatIsNamedForOthersNowIsNotSticky) {
  PortLeases leases(ports("20000-20001"), kGraceMs);
  leases.restore("b", "web", 20001, 0);
  leases.restore("c", "web", 20000, 0);
  leases.set_named(ports("20001"));
  EXPECT_EQ(lease(leases, request("b", "web", 1), kGraceMs), 20000) << "also another's last";
}

TEST(PortLeases, WhereAllAreNamedOrTakenALastPortIsStickyAsEver) {
  for (const char* named : {"20000-20009", "20001-20009"}) {
    PortLeases leases(ports("20000-20009"), kGraceMs);
    leases.set_named(ports(named));
    EXPECT_EQ(lease(leases, request("c", "web", 1, 20000), 0), 20000);
    leases.restore("b", "web", 20006, 0);
    EXPECT_EQ(lease(leases, request("b", "web", 2), kGraceMs), 20006) << named;
  }
}

TEST(PortLeases, AnotherWishReleasesTheFormerPort) {
  PortLeases leases(ports("20000-20009"), kGraceMs);
  lease(leases, request("a", "web", 1, 20001));
  const LeaseAnswer answer = leases.reserve(request("a", "web", 1, 20002), 0);
  EXPECT_EQ(answer.port, 20002);
  EXPECT_EQ(answer.released, 20001);
  EXPECT_EQ(leases.find(20001), nullptr);
  EXPECT_EQ(leases.size(), 1u);
}

TEST(PortLeases, ARefusedWishLeavesTheFormerPortAlone) {
  PortLeases leases(ports("20000-20009"), kGraceMs);
  lease(leases, request("a", "web", 1, 20001));
  EXPECT_FALSE(leases.reserve(request("a", "web", 1, 443), 0).ok());
  EXPECT_EQ(leases.find(20001)->state, LeaseState::kLive);
}

TEST(PortLeases, ANarrowedPolicyTakesTheFormerPortAway) {
  PortLeases leases(ports("20000-20009"), kGraceMs);
  lease(leases, request("a", "web", 1, 20001));
  leases.session_lost(session(1), 0);
  const LeaseAnswer answer = leases.reserve(request("a", "web", 2, 0, "20005"), 1);
  EXPECT_EQ(answer.port, 20005);
  EXPECT_EQ(answer.released, 20001);
}

TEST(PortLeases, WhatAClientMayNotHaveAnyMoreIsFreeAtOnce) {
  PortLeases leases(ports("20000-20009"), kGraceMs);
  lease(leases, request("a", "live", 1, 20000));
  lease(leases, request("a", "kept", 2, 20001));
  leases.session_lost(session(2), 0);
  lease(leases, request("a", "stays", 1, 20002));
  lease(leases, request("b", "web", 3, 20003));
  EXPECT_TRUE(leases.take_away("a", PortSet()).empty()) << "no policy is any port";
  EXPECT_EQ(numbers(leases.take_away("a", ports("20002,20004"))), (std::vector<uint16_t>{20000, 20001}));
  EXPECT_EQ(leases.find(20000), nullptr);
  EXPECT_EQ(leases.find(20001), nullptr);
  EXPECT_EQ(leases.find(20002)->state, LeaseState::kLive);
  EXPECT_EQ(leases.find(20003)->state, LeaseState::kLive);
  EXPECT_EQ(numbers(leases.session_lost(session(1), 0)), std::vector<uint16_t>{20002});
  // Its last ports are its own again when it may have them again.
  EXPECT_EQ(lease(leases, request("a", "kept", 4, 0, "20002,20004")), 20004);
  EXPECT_EQ(lease(leases, request("a", "live", 4)), 20000);
}

TEST(PortLeases, TheEndOfAnOldSessionDoesNotTouchWhatANewOneTookOver) {
  PortLeases leases(ports("20000-20009"), kGraceMs);
  const uint16_t port = lease(leases, request("a", "web", 1));
  EXPECT_EQ(lease(leases, request("a", "web", 2)), port);
  EXPECT_TRUE(leases.session_lost(session(1), 5).empty());
  leases.suspend(port, session(1), 5);
  EXPECT_FALSE(leases.mark_live(port, session(1)));
  EXPECT_EQ(leases.find(port)->state, LeaseState::kLive);
  EXPECT_EQ(numbers(leases.session_lost(session(2), 5)), std::vector<uint16_t>{port});
}

TEST(PortLeases, ARemovedClientLeavesNothingBehind) {
  PortLeases leases(ports("20000-20001"), kGraceMs);
  const uint16_t port = lease(leases, request("a", "web", 1));
  lease(leases, request("b", "web", 2));
  EXPECT_EQ(numbers(leases.remove_client("a")), std::vector<uint16_t>{port});
  EXPECT_EQ(leases.size(), 1u);
  EXPECT_EQ(lease(leases, request("c", "web", 3)), port);
}

TEST(PortLeases, WhatARemovedClientHadLastIsNobodysLast) {
  PortLeases leases(ports("20000-20002"), 0);
  lease(leases, request("c", "web", 3, 20002));
  leases.session_lost(session(3), 0);
  lease(leases, request("a", "web", 1, 20001));
  EXPECT_EQ(leases.clients(), (std::set<std::string>{"a", "c"}));
  leases.remove_client("a");
  EXPECT_EQ(leases.clients(), std::set<std::string>{"c"});
  // c's is the oldest last port, and a's is none.
  EXPECT_NE(lease(leases, request("b", "one", 2)), 20002);
  EXPECT_NE(lease(leases, request("b", "two", 2)), 20002);
  EXPECT_EQ(lease(leases, request("c", "web", 4)), 20002);
}

// A model that knows only the rules: who holds a port, and until when nobody else may have it.
class Model {
 public:
  struct Held {
    std::string owner;
    SlotId session;
    bool grace = false;
    uint64_t grace_ends_ms = 0;
  };
  void expire(uint64_t now_ms) {
    std::erase_if(held,
                  [&](const auto& one) { return one.second.grace && one.second.grace_ends_ms <= now_ms; });
  }
  std::map<uint16_t, Held> held;
};

TEST(PortLeases, NoPortIsEverOwnedTwiceAndNoneIsLost) {
  for (uint32_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const PortSet range = ports(seed % 2 == 0 ? "20000-20005" : "443,20000-20011,30000");
    PortLeases leases(range, 500);
    Model model;
    uint64_t now_ms = 0;
    for (int step = 0; step < 3000; ++step) {
      now_ms += random() % 40;
      const std::string client(1, static_cast<char>('a' + random() % 4));
      const std::string tunnel(1, static_cast<char>('x' + random() % 3));
      const std::string owner = client + tunnel;
      const uint32_t number = 1 + random() % 8;
      model.expire(now_ms);
      if (random() % 64 == 0) leases.set_named(random() % 2 == 0 ? PortSet() : ports("20001-20003"));
      switch (random() % 11) {
        case 0:
        case 1:
        case 2: {
          const uint16_t wanted = random() % 3 == 0 ? range.nth(random() % range.size()) : 0;
          const LeaseAnswer answer = leases.reserve(request(client, tunnel, number, wanted), now_ms);
          if (!answer.ok()) {
            ASSERT_FALSE(answer.sentence.empty());
            if (wanted != 0) {
              ASSERT_TRUE(model.held.contains(wanted) && model.held[wanted].owner != owner);
            } else {
              for (const auto& [port, held] : model.held)
                ASSERT_NE(held.owner, owner) << "its own port " << port;
            }
            break;
          }
          ASSERT_TRUE(range.contains(answer.port));
          const auto before = model.held.find(answer.port);
          ASSERT_TRUE(before == model.held.end() || before->second.owner == owner)
              << "given twice: " << answer.port;
          uint16_t former = 0;
          for (const auto& [port, held] : model.held) {
            if (held.owner == owner && port != answer.port) former = port;
          }
          ASSERT_EQ(answer.released, former);
          if (former != 0) model.held.erase(former);
          model.held[answer.port] = {owner, session(number), false, 0};
          break;
        }
        case 3: {
          const uint16_t port = range.nth(random() % range.size());
          const bool live = leases.mark_live(port, session(number));
          if (live) {
            ASSERT_TRUE(model.held.contains(port) && model.held[port].session == session(number));
          }
          break;
        }
        case 4: {
          std::set<uint16_t> expected;
          for (auto& [port, held] : model.held) {
            if (!(held.session == session(number)) || held.grace) continue;
            held.grace = true;
            held.grace_ends_ms = now_ms + 500;
            expected.insert(port);
          }
          const auto lost = numbers(leases.session_lost(session(number), now_ms));
          ASSERT_EQ(std::set<uint16_t>(lost.begin(), lost.end()), expected);
          break;
        }
        case 5: {
          const uint16_t port = range.nth(random() % range.size());
          leases.expire(now_ms);
          leases.suspend(port, session(number), now_ms);
          if (const auto at = model.held.find(port); at != model.held.end() && at->second.session == session(number)) {
            at->second.grace = true;
            at->second.grace_ends_ms = now_ms + 500;
          }
          break;
        }
        case 6: {
          const uint16_t port = range.nth(random() % range.size());
          leases.expire(now_ms);
          leases.mark_taken(port, session(number), now_ms);
          if (model.held.contains(port) && model.held[port].session == session(number))
            model.held.erase(port);
          break;
        }
        case 7: {
          if (random() % 10 != 0) break;
          leases.remove_client(client);
          std::erase_if(model.held, [&](const auto& one) { return one.second.owner[0] == client[0]; });
          break;
        }
        case 8: {
          const auto most = static_cast<uint32_t>(1 + random() % 3);
          size_t others = 0;
          std::set<std::pair<uint64_t, uint16_t>> in_grace;
          for (const auto& [port, held] : model.held) {
            if (held.owner[0] != client[0] || held.owner == owner) continue;
            ++others;
            if (held.grace) in_grace.insert({held.grace_ends_ms, port});
          }
          leases.expire(now_ms);
          std::vector<uint16_t> expected;
          for (const auto& [ends_ms, port] : in_grace) {
            if (others-- < most) break;
            expected.push_back(port);
            model.held.erase(port);
          }
          ASSERT_EQ(numbers(leases.make_room(client, tunnel, most)), expected);
          break;
        }
        case 9: {
          const uint16_t left = range.nth(random() % range.size());
          leases.expire(now_ms);
          leases.take_away(client, ports(std::to_string(left).c_str()));
          std::erase_if(model.held, [&](const auto& one) {
            return one.second.owner[0] == client[0] && one.first != left;
          });
          break;
        }
        case 10: {
          const uint16_t port = range.nth(random() % range.size());
          leases.restore(client, tunnel, port, now_ms);
          std::erase_if(model.held, [&](const auto& one) { return one.second.owner == owner; });
          model.held[port] = {owner, {}, true, now_ms + 500};
          break;
        }
      }
      leases.expire(now_ms);
      model.expire(now_ms);
      ASSERT_EQ(leases.size(), model.held.size()) << "step " << step;
      for (const auto& [port, held] : model.held) {
        const Lease* found = leases.find(port);
        ASSERT_NE(found, nullptr) << "lost: " << port << " at step " << step;
        ASSERT_EQ(found->client + found->tunnel, held.owner);
        ASSERT_EQ(found->state == LeaseState::kGrace, held.grace);
        ASSERT_EQ(leases.ask(request(found->client, found->tunnel, 0), now_ms).port, port);
      }
    }
    // Nothing is lost: when all clients are gone and no program is in the way, the whole range can be given.
    for (const char* client : {"a", "b", "c", "d"}) leases.remove_client(client);
    now_ms += PortLeases::kTakenMs;
    std::set<uint16_t> given;
    for (size_t i = 0; i < range.size(); ++i)
      given.insert(lease(leases, request("z", std::to_string(i), 9), now_ms));
    ASSERT_EQ(given.size(), range.size());
  }
}

}  // namespace
}  // namespace natrp
