// One agent at the edge: what it may say, and when.

#include <set>

#include "base/no_descriptors.h"
#include "edge/live_edge.h"

namespace natrp {
namespace {

class RegistrationTest : public LiveEdgeTest {
 protected:
  // As natrpctl does, and the edge has acted on it: an edge that knows of a later change knows of this one, and answers
  // when it is done with both.
  void set_limits(const std::string& client, const LimitChange& change) {
    add_client("later");
    HandAgent& later = open_session("later");
    ASSERT_TRUE(store_->set_limits(client, change).ok());
    ASSERT_TRUE(store_->remove_client("later").ok());
    ASSERT_TRUE(until([&] { return later.closed(); }));
    ASSERT_TRUE(edge_->list_sessions().has_value());
  }
};

// --- Failed services ------------------------------------------------------------------------------------------------

TEST_F(RegistrationTest, AStrangerCannotReportAFailedService) {
  HandAgent& stranger = connect_agent();
  stranger.service_failed(0, 1000);
  ASSERT_TRUE(until([&] { return stranger.refused() != nullptr; }));
  EXPECT_EQ(stranger.refused()->code(), wire::Refused::PROTOCOL);
  ASSERT_TRUE(until([&] { return stranger.closed(); }));
  EXPECT_EQ(count(Counter::kServiceFailures), 0u);
}

TEST_F(RegistrationTest, NoMoreServiceFailuresAreCountedThanVisitorsCameAndTheyAreLoggedOnceASecond) {
  add_client("client");
  HandAgent& agent = open_session("client");
  const uint16_t port = lease(agent, "web");
  ASSERT_NE(port, 0);
  for (int i = 0; i < 3; ++i) visit(port);
  ASSERT_TRUE(until([&] { return count(Counter::kVisitors) == 3; }));
  testing::internal::CaptureStderr();
  for (int i = 0; i < 500; ++i) agent.service_failed(i % 2, 1000);  // tunnel 1 is none of its own
  wire::Frame question;
  question.mutable_register_tunnel()->set_name("web");
  agent.heard.clear();
  agent.send(question);  // answered when all before it was read
  const bool answered = until([&] { return agent.port() == port; });
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(answered);
  EXPECT_EQ(count(Counter::kServiceFailures), 3u);
  size_t lines = 0;
  for (size_t at = 0; (at = log.find("service could not be reached", at)) != std::string::npos; ++at) ++lines;
  EXPECT_EQ(lines, 1u) << log;
  EXPECT_NE(log.find("visitors=3"), std::string::npos) << log;
}

TEST_F(RegistrationTest, AServiceFailureOfAnImpossibleTunnelEndsTheSession) {
  add_client("client");
  HandAgent& agent = open_session("client");
  agent.service_failed(256, 1);
  ASSERT_TRUE(until([&] { return agent.closed(); }));
  ASSERT_NE(agent.refused(), nullptr);
  EXPECT_EQ(agent.refused()->code(), wire::Refused::PROTOCOL);
}

// --- Clients that change --------------------------------------------------------------------------------------------

TEST_F(RegistrationTest, ARotatedTokenEndsTheSessionOfTheOldOneAndKeepsItsLease) {
  add_client("client");
  HandAgent& agent = open_session("client");
  const uint16_t port = lease(agent, "web");
  ASSERT_TRUE(store_->rotate("client", token_hash_of("new token"), std::nullopt).ok());
  ASSERT_TRUE(until([&] { return agent.closed(); }, 3000));
  ASSERT_NE(agent.refused(), nullptr);
  EXPECT_TRUE(agent.refused()->final());
  EXPECT_EQ(agent.refused()->code(), wire::Refused::CLIENT_REMOVED);
  EXPECT_NE(agent.refused()->message().find("token"), std::string::npos) << agent.refused()->message();
  EXPECT_EQ(agent.refused()->message().find("removed"), std::string::npos) << agent.refused()->message();
  EXPECT_FALSE(listening(port));
  add_client("other");
  EXPECT_EQ(lease(open_session("other"), "web", port), 0) << "the lease went with the old token";
  EXPECT_EQ(lease(open_session("new token"), "web"), port);
}

TEST_F(RegistrationTest, ARemovedClientLeavesNoLeaseInGrace) {
  add_client("client");
  add_client("other");
  HandAgent& agent = open_session("client");
  const uint16_t port = lease(agent, "web");
  end(agent);
  HandAgent& other = open_session("other");
  EXPECT_EQ(lease(other, "web", port), 0) << "a port in grace was given away";
  ASSERT_TRUE(store_->remove_client("client").ok());
  EXPECT_TRUE(until([&] { return lease(other, "web", port) == port; }, 3000));
}

TEST_F(RegistrationTest, AClientAddedAgainUnderItsNameDoesNotInheritThePorts) {
  add_client("client");
  HandAgent& agent = open_session("client");
  const uint16_t port = lease(agent, "web", ports_[3]);
  end(agent);
  ASSERT_TRUE(store_->remove_client("client").ok());
  add_client("client");
  add_client("other");
  HandAgent& other = open_session("other");
  EXPECT_TRUE(until([&] { return lease(other, "web", port) == port; }, 3000));
}

TEST_F(RegistrationTest, AClientsMostVisitorsAreChangedBesideItsSession) {
  ClientRecord client = client_record("client");
  client.conns_max = 1;
  add_client(client);
  HandAgent& agent = open_session("client");
  const uint16_t port = lease(agent, "web");
  agent.heard.clear();
  visit(port);
  ASSERT_TRUE(until([&] { return count(Counter::kVisitors) == 1; }));
  set_limits("client", {{}, {}, 3});
  for (int i = 0; i < 2; ++i) visit(port);
  ASSERT_TRUE(until([&] { return count(Counter::kVisitors) == 3; }));
  EXPECT_EQ(count(Counter::kVisitorsRefused), 0u);
  set_limits("client", {{}, {}, 2});
  visit(port);
  EXPECT_TRUE(until([&] { return count(Counter::kVisitorsRefused) == 1; }, 2000));
  EXPECT_EQ(agent.refused(), nullptr) << agent.refused()->message();
  EXPECT_FALSE(agent.closed());
}

TEST_F(RegistrationTest, AChangeThatConcernsNoLeaseEndsNoSession) {
  add_client("client");
  HandAgent& agent = open_session("client");
  ASSERT_EQ(lease(agent, "web", ports_[0]), ports_[0]);
  set_limits("client", {std::to_string(ports_[0]), 1, {}});
  EXPECT_EQ(lease(agent, "app", ports_[1], 1), 0);
  ASSERT_NE(agent.refused(), nullptr);
  EXPECT_EQ(agent.refused()->code(), wire::Refused::TOO_MANY_TUNNELS);
  set_limits("client", {{}, 2, {}});
  EXPECT_EQ(lease(agent, "app", ports_[1], 1), 0);
  ASSERT_NE(agent.refused(), nullptr);
  EXPECT_EQ(agent.refused()->code(), wire::Refused::PORT_NOT_ALLOWED);
  set_limits("client", {"", {}, {}});
  EXPECT_EQ(lease(agent, "app", ports_[1], 1), ports_[1]);
  EXPECT_FALSE(agent.closed());
  EXPECT_TRUE(listening(ports_[0]));
}

TEST_F(RegistrationTest, WhoWantsAnyPortPassesOverThoseOfClientsThatHaveTheirOwn) {
  add_client("named");
  add_client("any");
  set_limits("named", {std::to_string(ports_[1]) + "-" + std::to_string(ports_[2]), {}, {}});
  HandAgent& any = open_session("any");
  // Each name begins to look elsewhere.
  const std::set<uint16_t> its{lease(any, "app"), lease(any, "web", 0, 1)};
  EXPECT_EQ(its, (std::set<uint16_t>{ports_[0], ports_[3]}));
  EXPECT_EQ(lease(any, "wanted", ports_[1], 2), ports_[1]) << "a bound of others, and no reservation";
  HandAgent& named = open_session("named");
  EXPECT_EQ(lease(named, "web"), ports_[2]);
}

TEST_F(RegistrationTest, ASessionWithAPortThatItsClientLosesEndsAndThePortIsNotKept) {
  add_client("client");
  add_client("other");
  HandAgent& agent = open_session("client");
  ASSERT_EQ(lease(agent, "web", ports_[0]), ports_[0]);
  ASSERT_EQ(lease(agent, "app", ports_[1], 1), ports_[1]);
  HandAgent& gone = open_session("client", "another process.");
  ASSERT_EQ(lease(gone, "old", ports_[2]), ports_[2]);
  end(gone);
  HandAgent& other = open_session("other");
  agent.heard.clear();
  set_limits("client", {std::to_string(ports_[1]) + "," + std::to_string(ports_[3]), {}, {}});
  ASSERT_TRUE(until([&] { return agent.closed(); }, 3000));
  ASSERT_NE(agent.refused(), nullptr);
  EXPECT_EQ(agent.refused()->code(), wire::Refused::PORT_NOT_ALLOWED);
  EXPECT_FALSE(agent.refused()->final());
  const std::string& said = agent.refused()->message();
  EXPECT_NE(said.find("port " + std::to_string(ports_[0]) + " is not among its ports any more"), std::string::npos)
      << said;
  EXPECT_EQ(lease(other, "one", ports_[0], 0), ports_[0]) << "a port that it may not have was kept for it";
  EXPECT_EQ(lease(other, "two", ports_[2], 1), ports_[2]) << "a port in grace that it may not have was kept for it";
  HandAgent& again = open_session("client");
  EXPECT_EQ(lease(again, "web"), ports_[3]);
  EXPECT_EQ(lease(again, "app", 0, 1), ports_[1]);
  EXPECT_FALSE(other.closed());
}

// The latest session goes, and no more than has to.
TEST_F(RegistrationTest, OfAClientWithTooManyTunnelsTheLatestSessionEnds) {
  add_client("client");
  HandAgent& one = open_session("client", "one process here");
  HandAgent& two = open_session("client", "another process.");
  HandAgent& idle = open_session("client", "a third process.");
  ASSERT_EQ(lease(one, "web", ports_[0]), ports_[0]);
  ASSERT_EQ(lease(two, "app", ports_[1]), ports_[1]);
  ASSERT_EQ(lease(two, "more", ports_[2], 1), ports_[2]);
  two.heard.clear();
  set_limits("client", {{}, 2, {}});
  ASSERT_TRUE(until([&] { return two.refused() != nullptr; }, 3000));
  EXPECT_EQ(two.refused()->code(), wire::Refused::TOO_MANY_TUNNELS);
  EXPECT_FALSE(two.refused()->final());
  EXPECT_NE(two.refused()->message().find("2 tunnels at a time, and it has 3"), std::string::npos)
      << two.refused()->message();
  // At once: its former session may not have landed yet.
  HandAgent& again = open_session("client", "another process.");
  EXPECT_EQ(lease(again, "app"), ports_[1]);
  EXPECT_EQ(lease(again, "more", 0, 1), 0);
  ASSERT_NE(again.refused(), nullptr);
  EXPECT_EQ(again.refused()->code(), wire::Refused::TOO_MANY_TUNNELS);
  EXPECT_TRUE(listening(ports_[0]));
  EXPECT_FALSE(one.closed());
  EXPECT_FALSE(idle.closed());
}

TEST_F(RegistrationTest, AnEdgeThatStartsKeepsNoPortForAClientThatMayNotHaveIt) {
  add_client("client");
  add_client("other");
  HandAgent& agent = open_session("client");
  ASSERT_EQ(lease(agent, "web", ports_[0]), ports_[0]);
  ASSERT_EQ(lease(agent, "app", ports_[1], 1), ports_[1]);
  end(agent);
  stop();
  LimitChange change;
  change.ports = std::to_string(ports_[1]);
  ASSERT_TRUE(store_->set_limits("client", change).ok());
  start();
  HandAgent& other = open_session("other");
  EXPECT_EQ(lease(other, "one", ports_[0]), ports_[0]);
  EXPECT_EQ(lease(other, "two", ports_[1], 1), 0) << "a port that it may have was not kept for it";
}

TEST_F(RegistrationTest, AChangedClientIsOneLineOfTheLog) {
  add_client("client");
  add_client("other");
  HandAgent& agent = open_session("client");
  ASSERT_NE(lease(agent, "web"), 0);
  testing::internal::CaptureStderr();
  set_limits("client", {{}, 7, 9});
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("client=client ports=any tunnels_max=7 conns_max=9"), std::string::npos) << log;
  EXPECT_EQ(log.find("client=client"), log.rfind("client=client")) << log;
}

// --- Tunnels that are not given -------------------------------------------------------------------------------------

TEST_F(RegistrationTest, ATunnelThatCannotBeIsRefusedAndTheSessionGoesOn) {
  add_client("client");
  HandAgent& agent = open_session("client");
  const auto refusal = [&](uint32_t index, const std::string& name, uint32_t port) {
    EXPECT_EQ(lease(agent, name, port, index), 0);
    EXPECT_FALSE(agent.closed());
    const wire::Refused* refused = agent.refused();
    return refused != nullptr && refused->final() ? refused->code() : wire::Refused::UNSPECIFIED;
  };
  EXPECT_EQ(refusal(256, "one-too-many", 0), wire::Refused::TOO_MANY_TUNNELS);
  EXPECT_EQ(refusal(1, "not a name", 0), wire::Refused::PROTOCOL);
  EXPECT_EQ(refusal(2, "web", 70000), wire::Refused::PORT_NOT_ALLOWED);
  EXPECT_NE(lease(agent, "web"), 0);
}

TEST_F(RegistrationTest, ARefusalFitsIntoAFrameHoweverManyPortsAClientHas) {
  ClientRecord client = client_record("client");
  for (unsigned port = 1; port < 40000; port += 2) {
    const bool edges = port >= ports_.front() && port <= ports_.back();
    if (!edges) client.ports += (client.ports.empty() ? "" : ",") + std::to_string(port);
  }
  add_client(client);
  HandAgent& agent = open_session("client");
  for (const uint32_t wanted : {0u, static_cast<uint32_t>(ports_[0]), 3u}) {
    EXPECT_EQ(lease(agent, "web", wanted), 0);
    ASSERT_NE(agent.refused(), nullptr);
    EXPECT_EQ(agent.refused()->code(), wire::Refused::PORT_NOT_ALLOWED);
    EXPECT_EQ(agent.refused()->final(), wanted == 3) << "that it may have none, nobody can mend where the agent is";
    EXPECT_LE(agent.refused()->message().size(), kSentenceBytesMax);
    const char* said = wanted == 3 ? " is not one of this edge's public ports" : "1,3,5,7,9,11,13,15,… (";
    EXPECT_NE(agent.refused()->message().find(said), std::string::npos) << agent.refused()->message();
  }
  EXPECT_FALSE(agent.closed());
}

TEST_F(RegistrationTest, APortThatCannotBeOpenedForAnotherReasonStaysTheTunnels) {
  add_client("client");
  add_client("other");
  HandAgent& agent = open_session("client");
  const uint16_t port = lease(agent, "web");
  end(agent);
  HandAgent& again = open_session("client");
  HandAgent& other = open_session("other");
  {
    const NoDescriptors here;
    EXPECT_EQ(lease(again, "web"), 0);
  }
  ASSERT_NE(again.refused(), nullptr);
  EXPECT_EQ(again.refused()->code(), wire::Refused::INTERNAL);
  EXPECT_FALSE(again.refused()->final());
  EXPECT_NE(again.refused()->message().find("Too many open files"), std::string::npos) << again.refused()->message();
  EXPECT_EQ(lease(other, "web", port), 0) << "another client took the port meanwhile";
  EXPECT_EQ(lease(again, "web"), port);
}

TEST_F(RegistrationTest, APublicAddressThatThisHostDoesNotHaveIsSaidAtTheStart) {
  stop();
  EdgeOptions options = options_;
  options.public_bind = Address::parse("192.0.2.1:0").value();
  {
    Edge edge(options);
    const Status status = edge.listen();
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.error().message.find("--public-bind"), std::string::npos) << status.error().message;
    EXPECT_NE(status.error().message.find("192.0.2.1"), std::string::npos) << status.error().message;
  }
  start();
}

// An agent that may have a tunnel later asks each 3 s, and an operator may have set the bound long ago.
TEST_F(RegistrationTest, ATunnelBeyondItsClientsBoundIsOneLineOfTheLog) {
  ClientRecord client = client_record("client");
  client.tunnels_max = 1;
  add_client(client);
  HandAgent& agent = open_session("client");
  ASSERT_NE(lease(agent, "web"), 0);
  testing::internal::CaptureStderr();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(lease(agent, "app", 0, 1), 0);
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("tunnel refused: client 'client' may have 1 tunnel at a time"), std::string::npos) << log;
  EXPECT_NE(log.find("client=client tunnel=app"), std::string::npos) << log;
  EXPECT_EQ(log.find("tunnel refused"), log.rfind("tunnel refused")) << log;
}

// --- Bounds of a client ---------------------------------------------------------------------------------------------

TEST_F(RegistrationTest, ATunnelHasOneIndexAndOnePort) {
  ClientRecord client = client_record("client");
  client.tunnels_max = 1;
  add_client(client);
  HandAgent& agent = open_session("client");
  ASSERT_EQ(lease(agent, "web", ports_[0]), ports_[0]);
  for (const uint32_t wanted : {static_cast<uint32_t>(ports_[1]), static_cast<uint32_t>(ports_[0]), 0u}) {
    EXPECT_EQ(lease(agent, "web", wanted, 1), 0);
    ASSERT_NE(agent.refused(), nullptr);
    EXPECT_EQ(agent.refused()->code(), wire::Refused::PROTOCOL);
    EXPECT_TRUE(agent.refused()->final());
    EXPECT_NE(agent.refused()->message().find("'web'"), std::string::npos) << agent.refused()->message();
  }
  EXPECT_FALSE(agent.closed());
  EXPECT_TRUE(listening(ports_[0]));
  EXPECT_FALSE(listening(ports_[1])) << "a port beyond tunnels_max is open";
  EXPECT_EQ(lease(agent, "web"), ports_[0]) << "the tunnel itself went with the refusal";
}

TEST_F(RegistrationTest, AnIndexIsOneTunnel) {
  add_client("client");
  HandAgent& agent = open_session("client");
  const uint16_t port = lease(agent, "web");
  EXPECT_EQ(lease(agent, "mail"), 0) << "the agent was told that it has a tunnel that there is not";
  ASSERT_NE(agent.refused(), nullptr);
  EXPECT_EQ(agent.refused()->code(), wire::Refused::PROTOCOL);
  EXPECT_EQ(lease(agent, "web"), port);
}

TEST_F(RegistrationTest, TheLogAndTheListSayWhereAnAgentIs) {
  add_client("client");
  testing::internal::CaptureStderr();
  open_session("client");
  HandAgent& stranger = connect_agent();
  stranger.hello();
  stranger.auth("nobody");
  const bool closed = until([&] { return stranger.closed(); });
  const auto sessions = edge_->list_sessions();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(closed);
  ASSERT_TRUE(sessions.has_value() && sessions->size() == 1);
  const std::string peer = sessions->front().peer;
  EXPECT_TRUE(Address::parse(peer).ok()) << peer;
  EXPECT_NE(log.find("session opened client=client peer=" + peer), std::string::npos) << log;
  EXPECT_NE(log.find("unknown token peer=127."), std::string::npos) << log;
}

TEST_F(RegistrationTest, WhoTriesTokensHasOneLineASecond) {
  const auto knock = [this] {
    HandAgent& stranger = connect_agent();
    stranger.hello();
    stranger.auth("nobody");
    EXPECT_TRUE(until([&] { return stranger.closed(); }));
  };
  testing::internal::CaptureStderr();
  for (int i = 0; i < 6; ++i) knock();
  until([] { return false; }, 1100);
  knock();
  const std::string log = testing::internal::GetCapturedStderr();
  size_t lines = 0;  // the edge may have said a moment ago that it is ready
  for (size_t at = 0; (at = log.find("unknown token", at)) != std::string::npos; ++at) ++lines;
  EXPECT_EQ(lines, 2u) << log;
  EXPECT_NE(log.find("others_before=0\n"), std::string::npos) << log;
  EXPECT_NE(log.find("others_before=5\n"), std::string::npos) << log;
}

TEST_F(RegistrationTest, ASessionThatIsTakenOverByItsOwnAgentIsToldSo) {
  add_client("client");
  HandAgent& old = open_session("client");
  ASSERT_NE(lease(old, "web"), 0);
  HandAgent& next = open_session("client");
  ASSERT_NE(lease(next, "web"), 0);
  ASSERT_TRUE(until([&] { return old.closed(); }));
  const wire::Frame* bye = old.last(wire::Frame::kBye);
  ASSERT_NE(bye, nullptr);
  EXPECT_NE(bye->bye().reason().find("newer session of this agent"), std::string::npos) << bye->bye().reason();
}

TEST_F(RegistrationTest, AStrangersFrameThatIsNoneIsCountedAndWritesNothingPastTheLog) {
  HandAgent& stranger = connect_agent();
  testing::internal::CaptureStderr();
  stranger.hello("the same process", "\xff\xfe");  // no UTF-8: no protobuf string
  const bool closed = until([&] { return stranger.closed(); });
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(closed);
  EXPECT_EQ(said.find("libprotobuf"), std::string::npos) << said;
  EXPECT_TRUE(until([&] { return count(Counter::kGarbageRefused) == 1; }));
}

TEST_F(RegistrationTest, ATunnelThatIsContestedHasOneIndexToo) {
  add_client("client");
  HandAgent& silent = open_session("client", "one process here", *second_loop_);
  ASSERT_EQ(lease(silent, "web", ports_[0]), ports_[0]);
  HandAgent& rival = open_session("client", "another process.");
  second_loop_turns_ = false;
  rival.wish(0, "web", ports_[1]);
  EXPECT_EQ(lease(rival, "web", ports_[2], 1), 0);
  const wire::Frame* told = rival.last(wire::Frame::kTunnelRefused);
  ASSERT_NE(told, nullptr);
  EXPECT_EQ(told->tunnel_refused().tunnel_index(), 1u);
  EXPECT_EQ(told->tunnel_refused().refused().code(), wire::Refused::PROTOCOL);
  EXPECT_TRUE(until([&] { return rival.port() == ports_[1]; }));
  EXPECT_FALSE(listening(ports_[0]));
  EXPECT_FALSE(listening(ports_[2]));
}

// The wish was within the bound when it came; the holder left, and the place was taken before the contest's next step.
TEST_F(RegistrationTest, AContestIsNoWayAroundTheMostTunnels) {
  ClientRecord client = client_record("client");
  client.tunnels_max = 1;
  add_client(client);
  HandAgent& silent = open_session("client", "one process here", *second_loop_);
  ASSERT_EQ(lease(silent, "web", ports_[0]), ports_[0]);
  HandAgent& rival = open_session("client", "another process.");
  HandAgent& third = open_session("client", "a third process.");
  second_loop_turns_ = false;
  rival.wish(0, "web", ports_[1]);
  EXPECT_EQ(lease(rival, "web", 0, 1), 0);  // answered when the wish before it was read
  rival.heard.clear();
  second_loop_turns_ = true;
  end(silent);
  lease(third, "other", ports_[2]);
  ASSERT_TRUE(until([&] { return rival.port() != 0 || rival.refused() != nullptr; }));
  // On a slow machine the contest may be over before the third asks: then that one is refused.
  EXPECT_NE(listening(ports_[1]), listening(ports_[2])) << "two ports are open, or none";
}

TEST_F(RegistrationTest, AClientOfFewTunnelsHasFewSessions) {
  ClientRecord client = client_record("client");
  client.tunnels_max = 1;
  add_client(client);
  add_client("other");
  std::vector<HandAgent*> agents;
  for (unsigned i = 0; i < 2 + kSessionsSpare; ++i) agents.push_back(&open_session("client"));
  HandAgent& more = connect_agent();
  more.hello();
  more.auth("client");
  ASSERT_TRUE(until([&] { return more.closed(); }));
  ASSERT_NE(more.refused(), nullptr);
  EXPECT_EQ(more.refused()->code(), wire::Refused::TOO_MANY_SESSIONS);
  EXPECT_FALSE(more.refused()->final());
  EXPECT_NE(lease(open_session("other"), "web"), 0);
  end(*agents.front());
  EXPECT_TRUE(open_session("client").welcome());
}

TEST_F(RegistrationTest, APortInGraceCountsAsATunnelAndTheOldestGivesWay) {
  ClientRecord client = client_record("client");
  client.tunnels_max = 1;
  add_client(client);
  add_client("other");
  HandAgent& agent = open_session("client");
  const uint16_t first = lease(agent, "first", ports_[0]);
  ASSERT_NE(first, 0);
  end(agent);
  HandAgent& again = open_session("client");
  EXPECT_EQ(lease(again, "second", ports_[1]), ports_[1]);
  // The limit is one port, so the first is anybody's again.
  EXPECT_EQ(lease(open_session("other"), "web", first), first);
}

TEST_F(RegistrationTest, AClientsMostVisitorsAreThoseOfAllItsSessions) {
  ClientRecord client = client_record("client");
  client.conns_max = 2;
  add_client(client);
  HandAgent& one = open_session("client", "one process here");
  HandAgent& two = open_session("client", "another process.");
  const uint16_t first = lease(one, "first");
  const uint16_t second = lease(two, "second");
  for (int i = 0; i < 2; ++i) visit(first);
  ASSERT_TRUE(until([&] { return count(Counter::kVisitors) == 2; }));
  visit(second);
  ASSERT_TRUE(until([&] { return count(Counter::kVisitors) == 3; }));
  EXPECT_TRUE(until([&] { return count(Counter::kVisitorsRefused) == 1; }, 1000));
  const std::vector<SessionInfo> sessions = edge_->list_sessions().value();
  for (const SessionInfo& session : sessions) {
    EXPECT_EQ(session.visitors_live, session.tunnels.at(0).name == "first" ? 2u : 0u);
  }
}

TEST_F(RegistrationTest, ReadyChannelsBeyondWhatWasAskedForAreClosed) {
  add_client("client");
  HandAgent& agent = open_session("client");
  const uint16_t port = lease(agent, "web");
  for (int i = 0; i < 200; ++i) agent.open_channel();
  ASSERT_TRUE(until([&] { return count(Counter::kChannelsReady) + count(Counter::kChannelsSurplus) == 200; }));
  // Two workers look at each other's number: either may let one in that the other has not heard of.
  EXPECT_GE(count(Counter::kChannelsReady), kReadyChannelsHeld);
  EXPECT_LE(count(Counter::kChannelsReady), kReadyChannelsHeld + 8);
  visit(port);
  EXPECT_TRUE(until([&] { return count(Counter::kPairsLive) > 0; }));
  EXPECT_FALSE(agent.closed());
}

// --- Two agents -----------------------------------------------------------------------------------------------------

TEST_F(RegistrationTest, ReadyChannelsThatWereAskedForByVisitorsWhoHaveLeftAreNotKept) {
  add_client("client");
  HandAgent& agent = open_session("client");
  const uint16_t port = lease(agent, "web");
  for (int i = 0; i < 20; ++i) visit(port);
  ASSERT_TRUE(until([&] { return count(Counter::kVisitors) == 20; }));
  for (Fd& visitor : visitors_) loopback::reset(visitor);
  ASSERT_TRUE(until([&] { return count(Counter::kVisitorsLeft) == 20; }));
  for (uint32_t i = 0; i < kReadyChannelsHeld + 15; ++i) agent.open_channel();
  ASSERT_TRUE(until([&] { return count(Counter::kChannelsReady) + count(Counter::kChannelsSurplus) ==
                                 kReadyChannelsHeld + 15; }));
  ASSERT_TRUE(until([&] { return count(Counter::kChannelsReady) == kReadyChannelsHeld; }));
  EXPECT_EQ(count(Counter::kChannelsSurplus), 15u);
  EXPECT_EQ(count(Counter::kChannelsLost), 0u) << "nobody lost them";
  visit(port);
  EXPECT_TRUE(until([&] { return count(Counter::kPairsLive) > 0; }));
}

TEST_F(RegistrationTest, AReplacementThatMayNotHaveItsPortLeavesTheLivingAgentAlone) {
  add_client("client");
  add_client("other");
  HandAgent& agent = open_session("client", "one process here");
  const uint16_t port = lease(agent, "web", ports_[0]);
  ASSERT_EQ(lease(open_session("other"), "web", ports_[1]), ports_[1]);
  auto busy = listen_on(options_.public_bind.with_port(ports_[2]), {}, 1);
  ASSERT_TRUE(busy.ok());
  HandAgent& rival = open_session("client", "another process.");
  const std::vector<std::pair<uint32_t, wire::Refused::Code>> wishes{{1, wire::Refused::PORT_NOT_ALLOWED},
                                                                     {ports_[1], wire::Refused::PORT_IN_USE},
                                                                     {ports_[2], wire::Refused::PORT_IN_USE}};
  for (const auto& [wanted, code] : wishes) {
    EXPECT_EQ(lease(rival, "web", wanted, 0, true), 0);
    ASSERT_NE(rival.refused(), nullptr);
    EXPECT_EQ(rival.refused()->code(), code) << wanted;
  }
  EXPECT_EQ(agent.refused(), nullptr) << "it was replaced by an agent that got nothing";
  EXPECT_TRUE(listening(port));
  EXPECT_EQ(lease(rival, "web", 0, 0, true), port);
  EXPECT_TRUE(until([&] { return agent.refused() != nullptr; }));
}

TEST_F(RegistrationTest, AContestEndsWhenTheEdgeDrains) {
  options_.drain_seconds = 4;
  options_.workers = 1;  // else a visitor that is faster than the channel, in another worker, waits for one more
  stop();
  start();
  add_client("client");
  HandAgent& holder = open_session("client", "one process here", *second_loop_);
  const uint16_t port = lease(holder, "web");
  ASSERT_NE(port, 0);
  holder.open_channel();  // and a visitor that flows: the edge does not end before its deadline
  visit(port);
  ASSERT_TRUE(until([&] { return count(Counter::kPairsLive) == 1; }));
  HandAgent& rival = open_session("client", "another process.");
  rival.heard.clear();
  second_loop_turns_ = false;
  rival.wish(0, "web");
  until([] { return false; }, 300);
  terminate();
  EXPECT_TRUE(until([&] { return rival.refused() != nullptr; }, 1500));
  ASSERT_NE(rival.refused(), nullptr);
  EXPECT_EQ(rival.refused()->code(), wire::Refused::DRAINING);
  EXPECT_FALSE(rival.refused()->final());
  until([] { return false; }, 2500);
  EXPECT_EQ(rival.port(), 0) << "a public port was opened during the drain";
  EXPECT_FALSE(listening(port));
  thread_.stop();
}

// The second to contest a silent agent finds the first in its place, who lives: it was never asked.
TEST_F(RegistrationTest, OfTwoThatContestASilentAgentTheFirstKeepsTheTunnel) {
  add_client("client");
  HandAgent& silent = open_session("client", "one process here", *second_loop_);
  ASSERT_EQ(lease(silent, "web", ports_[0]), ports_[0]);
  HandAgent& first = open_session("client", "another process.");
  HandAgent& second = open_session("client", "a third process.");
  second_loop_turns_ = false;
  first.wish(0, "web");
  until([] { return false; }, 150);
  second.wish(0, "web");
  ASSERT_TRUE(until([&] { return first.port() == ports_[0]; }));
  ASSERT_TRUE(until([&] { return second.refused() != nullptr || second.port() != 0; }));
  EXPECT_EQ(second.port(), 0);
  ASSERT_NE(second.refused(), nullptr);
  EXPECT_EQ(second.refused()->code(), wire::Refused::CONFLICT);
  until([] { return false; }, 300);
  EXPECT_EQ(first.refused(), nullptr);
  EXPECT_FALSE(first.closed());
}

TEST_F(RegistrationTest, AnAgentThatLosesOneOfItsTunnelsBySilenceIsTold) {
  add_client("client");
  HandAgent& silent = open_session("client", "one process here", *second_loop_);
  const uint16_t web = lease(silent, "web");
  ASSERT_NE(lease(silent, "app", 0, 1), 0);
  silent.heard.clear();
  second_loop_turns_ = false;
  HandAgent& rival = open_session("client", "another process.");
  EXPECT_EQ(lease(rival, "web"), web);
  second_loop_turns_ = true;
  ASSERT_TRUE(until([&] { return silent.refused() != nullptr; }, 3000));
  const wire::Frame* told = silent.last(wire::Frame::kTunnelRefused);
  ASSERT_NE(told, nullptr);
  EXPECT_EQ(told->tunnel_refused().tunnel_index(), 0u);
  EXPECT_EQ(told->tunnel_refused().refused().code(), wire::Refused::CONFLICT);
  EXPECT_FALSE(told->tunnel_refused().refused().final()) << "it may have the tunnel when the other agent is gone";
  EXPECT_FALSE(silent.closed());
}

// --- Words ----------------------------------------------------------------------------------------------------------

TEST_F(RegistrationTest, WhatAnAgentCallsItselfIsNotCutInsideACharacter) {
  add_client("client");
  HandAgent& agent = connect_agent();
  agent.hello("the same process", std::string(63, 'a') + "\xc3\xa9");
  agent.auth("client");
  ASSERT_TRUE(until([&] { return agent.welcome(); }));
  EXPECT_EQ(edge_->list_sessions().value().at(0).software, std::string(63, 'a'));
}

// --- Strangers ------------------------------------------------------------------------------------------------------

TEST_F(RegistrationTest, HandshakesThatFailOrAreLateAreCounted) {
  Fd& nonsense = visitors_.emplace_back(loopback::connect_to(options_.bind));
  loopback::must(::write(nonsense.get(), "\x16\x03\x01\x00\x05hello", 10) == 10, "nonsense");
  EXPECT_TRUE(until([&] { return count(Counter::kGarbageRefused) == 1; }, 2000));
  const uint64_t began = now_ms();
  Fd& slow = visitors_.emplace_back(loopback::connect_to(options_.bind));
  until([] { return false; }, 2500);
  loopback::must(::write(slow.get(), "\x16", 1) == 1, "one byte");
  EXPECT_TRUE(until([&] { return count(Counter::kHelloTimeouts) == 1; }, 4000));
  EXPECT_LT(now_ms() - began, 6500u) << "it got more than its five seconds";
}

TEST_F(RegistrationTest, WhoComesWhileAsManyHandshakesAsAreBorneAreUnderWayWaits) {
  add_client("client");
  const uint64_t most = std::min<uint64_t>(kHandshakesMax, session_descriptors(raise_descriptor_limit()));
  for (unsigned i = 0; i < most; ++i) {
    Fd& stranger = visitors_.emplace_back(loopback::connect_to(options_.bind));
    loopback::must(::write(stranger.get(), "\x16", 1) == 1, "one byte");
  }
  until([] { return false; }, 500);  // all of them have come: two workers have accepted them
  HandAgent& agent = connect_agent();
  agent.hello();
  agent.auth("client");
  until([&] { return agent.welcome() || agent.closed(); }, 500);
  EXPECT_FALSE(agent.welcome() || agent.closed());
  visitors_.clear();
  EXPECT_TRUE(until([&] { return agent.welcome(); }));
  EXPECT_EQ(count(Counter::kHandshakesRefused), 0u);
}

TEST_F(RegistrationTest, WhoWaitsForAHandshakeHasNoMoreTimeThanOthers) {
  const uint64_t most = std::min<uint64_t>(kHandshakesMax, session_descriptors(raise_descriptor_limit()));
  const uint64_t began = now_ms();
  for (unsigned i = 0; i < most + 10; ++i) {
    Fd& stranger = visitors_.emplace_back(loopback::connect_to(options_.bind));
    loopback::must(::write(stranger.get(), "\x16", 1) == 1, "one byte");
  }
  EXPECT_TRUE(until([&] { return count(Counter::kHelloTimeouts) == most + 10; }, 8000));
  EXPECT_LT(now_ms() - began, 7500u);
}

}  // namespace
}  // namespace natrp
