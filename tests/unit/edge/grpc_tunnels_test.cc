// Tunnels of original clients: when a port opens and closes, whose it is, and what is told. The whole edge, in this
// process; each test is over {epoll, io_uring} because its workers are.
#include "edge/grpc_tunnels.h"

#include <pthread.h>
#include <sys/types.h>
#include <unistd.h>

#include <cstring>
#include <future>
#include <list>
#include <thread>

#include "base/join_token.h"
#include "control/auth.h"
#include "control/temp_dir.h"
#include "edge/edge_thread.h"
#include "edge/grpc_socket.h"
#include "edge/live_edge.h"
#include "loop/loop_of.h"
#include "loop/recorder.h"
#include "net/loopback.h"
#include "relay/rig.h"

namespace natrp {
namespace {

// A port that nobody has now, on an address that outgoing connections do not take.
uint16_t free_port(const char* host) {
  auto fd = listen_on(Address::parse(std::string(host) + ":0").value(), {}, 1);
  loopback::must(fd.ok(), "a free port");
  return local_address(fd.value().get()).port();
}

constexpr char kHost[] = "127.77.0.9";

class GrpcTunnelsTest : public testing::TestWithParam<IoKind> {
 protected:
  void SetUp() override {
    if (!make_loop(GetParam()).ok()) GTEST_SKIP() << "this machine has no such loop";
    pthread_sigmask(SIG_SETMASK, nullptr, &mask_before_);
    block_signals();
    options_.bind = Address::parse(std::string(kHost) + ":" + std::to_string(free_port(kHost))).value();
    options_.public_bind = Address::parse(std::string(kHost) + ":0").value();
    options_.public_address = kHost;
    options_.state_dir = folder_.path();
    port_ = free_port(kHost);
    options_.ports = PortSet::parse(std::to_string(port_)).value();
    options_.io = GetParam();
    options_.workers = 2;
    options_.drain_seconds = 0;
    options_.natrp_grpc = true;
    start();
    store_ = std::make_unique<Store>(Store::open(folder_.path()).value());
  }
  void TearDown() override {
    if (IsSkipped()) return;
    stop();
    pthread_sigmask(SIG_SETMASK, &mask_before_, nullptr);
  }
  void start() { edge_ = thread_.start(options_); }
  void stop() {
    edge_ = nullptr;
    thread_.stop();
  }

  // Its plain token is its name.
  void add_client(const std::string& name, const std::string& ports = {}, const TokenHash& join_hash = {}) {
    ClientRecord client;
    client.name = name;
    client.ports = ports;
    client.token_hash = join_hash;
    if (join_hash == TokenHash{}) random_bytes(std::span<uint8_t>(client.token_hash));
    client.plain_token_hash = sha256(bytes_of(name));
    ASSERT_TRUE(store_->add_client(client).ok());
  }
  GrpcSocket& connect_agent() { return agents_.emplace_back(options_.bind); }
  bool until(const std::function<bool()>& done) {
    return run_until([&] { turn_all(agents_, visitors_); }, done, 20000);
  }
  // As natrpctl does, and the edge has acted on it: an edge that knows of a later change knows of this one, and answers
  // when it is done with both. Takes a port for a moment.
  void set_limits(const std::string& client, const LimitChange& change) {
    add_client("later", std::to_string(port_ + 2));
    GrpcSocket& later = connect_agent();
    const int32_t id = open(later, "later");
    ASSERT_TRUE(store_->set_limits(client, change).ok());
    ASSERT_TRUE(store_->remove_client("later").ok());
    ASSERT_TRUE(until([&] { return later.call(id).closed; }));
    sessions();
  }
  // From port_ on.
  void restart_with_ports(uint16_t count) {
    options_.ports = PortSet::parse(std::to_string(port_) + "-" + std::to_string(port_ + count - 1)).value();
    stop();
    start();
  }
  // A stream that its edge took. A client that the edge has not heard of yet is no client.
  int32_t open(GrpcSocket& agent, const std::string& token) {
    int32_t id = agent.open(token);
    EXPECT_TRUE(until([&] {
      if (agent.call(id).closed && agent.call(id).grpc_status() == "16") id = agent.open(token);
      return agent.accepted(id) || (agent.call(id).closed && agent.call(id).grpc_status() != "16");
    }));
    return id;
  }
  std::vector<SessionInfo> sessions() { return edge_->list_sessions().value(); }
  bool port_open() {
    Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const Address address = options_.public_bind.with_port(port_);
    return ::connect(fd.get(), address.get(), address.length()) == 0;
  }
  Peer& visit() {
    Peer& visitor = visitors_.emplace_back();
    visitor.fd = loopback::connect_to(options_.public_bind.with_port(port_));
    return visitor;
  }
  void check_met(GrpcSocket& agent, int32_t id) {
    Peer& visitor = visit();
    visitor.say = "question";
    agent.say(id, "answer");
    EXPECT_TRUE(until([&] { return visitor.heard == "answer" && agent.heard(id) == "question"; }));
    visitor.closes = true;
    EXPECT_TRUE(until([&] { return agent.call(id).closed; }));
  }

  TempDir folder_;
  EdgeOptions options_;
  uint16_t port_ = 0;
  std::unique_ptr<Store> store_;
  Edge* edge_ = nullptr;
  EdgeThread thread_;
  std::list<GrpcSocket> agents_;
  std::list<Peer> visitors_;
  sigset_t mask_before_{};
};

TEST_P(GrpcTunnelsTest, APortOpensWithTheFirstStreamAndIsListedAsASession) {
  add_client("client");
  GrpcSocket& agent = connect_agent();
  EXPECT_TRUE(sessions().empty());
  EXPECT_EQ(edge_->sessions_live(), 0u);
  EXPECT_FALSE(port_open());
  const int32_t id = open(agent, "client");
  ASSERT_TRUE(until([&] { return edge_->sessions_live() == 1; }));
  const SessionInfo session = sessions().at(0);
  EXPECT_EQ(session.client, "client");
  EXPECT_EQ(session.visitors_total, 0u);
  ASSERT_EQ(session.tunnels.size(), 1u);
  EXPECT_EQ(session.tunnels[0].name, "natrp");
  EXPECT_EQ(session.tunnels[0].port, port_);
  check_met(agent, id);
  EXPECT_EQ(sessions().at(0).visitors_total, 1u);
  EXPECT_TRUE(until([&] { return sessions().at(0).visitors_live == 0; }));
}

TEST_P(GrpcTunnelsTest, TheSamePortComesBackAfterARestartOfTheEdge) {
  options_.ports = PortSet::parse(std::to_string(port_) + "-" + std::to_string(port_ + 3)).value();
  stop();
  start();
  add_client("client");
  ASSERT_GT(open(connect_agent(), "client"), 0);
  ASSERT_TRUE(until([&] { return edge_->sessions_live() == 1; }));
  const uint16_t port = port_ = sessions().at(0).tunnels.at(0).port;
  for (int restart = 0; restart < 2; ++restart) {
    stop();
    EXPECT_FALSE(port_open());
    start();
    GrpcSocket& agent = connect_agent();
    const int32_t id = open(agent, "client");
    ASSERT_TRUE(until([&] { return edge_->sessions_live() == 1; }));
    EXPECT_EQ(sessions().at(0).tunnels.at(0).port, port);
    check_met(agent, id);
  }
}

TEST_P(GrpcTunnelsTest, TheJoinTokenAndThePlainTokenAreOneClientWithOnePort) {
  JoinToken token{};
  random_bytes(token.secret);
  add_client("client", {}, sha256(token.secret));
  GrpcSocket& plain = connect_agent();
  GrpcSocket& join = connect_agent();
  const int32_t plain_id = open(plain, "client");
  ASSERT_TRUE(until([&] { return edge_->sessions_live() == 1; }));
  const int32_t join_id = open(join, format_join_token(token));
  EXPECT_EQ(sessions().size(), 1u);
  // Whichever worker a visitor comes to, both streams are found.
  for (int i = 0; i < 2; ++i) visit().say = std::to_string(i);
  EXPECT_TRUE(until([&] { return plain.heard(plain_id).size() == 1 && join.heard(join_id).size() == 1; }));
}

TEST_P(GrpcTunnelsTest, AClientThatIsRemovedLosesItsPortAndAnotherGetsIt) {
  add_client("first");
  add_client("second");
  GrpcSocket& first = connect_agent();
  GrpcSocket& second = connect_agent();
  const int32_t first_id = open(first, "first");
  ASSERT_TRUE(until([&] { return edge_->sessions_live() == 1; }));
  const int32_t refused = open(second, "second");
  ASSERT_TRUE(until([&] { return second.call(refused).closed; }));
  EXPECT_EQ(second.call(refused).grpc_status(), "14");
  EXPECT_NE(second.call(refused).fields["grpc-message"].find("port"), std::string::npos)
      << second.call(refused).fields["grpc-message"];
  EXPECT_EQ(sessions().size(), 1u);

  ASSERT_TRUE(store_->remove_client("first").ok());
  ASSERT_TRUE(until([&] { return first.call(first_id).closed; }));
  EXPECT_EQ(first.call(first_id).grpc_status(), "16");
  EXPECT_TRUE(until([&] { return edge_->sessions_live() == 0; }));
  // The next stream, and not before the refusal is forgotten.
  int32_t id = second.open("second");
  ASSERT_TRUE(until([&] {
    if (second.call(id).closed) id = second.open("second");
    return edge_->sessions_live() == 1;
  }));
  EXPECT_EQ(sessions().at(0).client, "second");
  EXPECT_EQ(sessions().at(0).tunnels.at(0).port, port_);
  check_met(second, id);
}

TEST_P(GrpcTunnelsTest, ARotatedTokenEndsWhatTheOldOneOpenedAndTheNewOneHasThePort) {
  add_client("client");
  GrpcSocket& agent = connect_agent();
  const int32_t flowing = open(agent, "client");
  ASSERT_TRUE(until([&] { return edge_->sessions_live() == 1; }));
  Peer& visitor = visit();
  visitor.say = "question";
  ASSERT_TRUE(until([&] { return agent.heard(flowing) == "question"; }));
  const int32_t ready = open(agent, "client");
  TokenHash hash;
  random_bytes(std::span<uint8_t>(hash));
  ASSERT_TRUE(store_->rotate("client", hash, sha256(bytes_of("new token"))).ok());
  EXPECT_TRUE(until([&] { return agent.call(flowing).closed && agent.call(ready).closed && agent.ended; }));
  EXPECT_EQ(agent.call(ready).grpc_status(), "16");
  EXPECT_NE(agent.call(ready).fields["grpc-message"].find("new token"), std::string::npos);
  EXPECT_EQ(edge_->sessions_live(), 1u) << "the port waits for the new token";
  GrpcSocket& again = connect_agent();
  check_met(again, open(again, "new token"));
}

TEST_P(GrpcTunnelsTest, APortThatItsPolicyDoesNotAllowIsNotOpened) {
  add_client("client", "1");
  GrpcSocket& agent = connect_agent();
  const int32_t id = open(agent, "client");
  ASSERT_TRUE(until([&] { return agent.call(id).closed; }));
  EXPECT_EQ(agent.call(id).grpc_status(), "14");
  EXPECT_GT(agent.call(id).fields["grpc-message"].size(), 20u) << "no sentence";
  EXPECT_EQ(edge_->sessions_live(), 0u);
  EXPECT_FALSE(port_open());
}

TEST_P(GrpcTunnelsTest, APortThatItsClientLosesClosesAndAVisitorFlowsOn) {
  restart_with_ports(4);
  add_client("client", std::to_string(port_));
  GrpcSocket& agent = connect_agent();
  const int32_t flowing = open(agent, "client");
  ASSERT_TRUE(until([&] { return edge_->sessions_live() == 1; }));
  Peer& visitor = visit();
  visitor.say = "question";
  ASSERT_TRUE(until([&] { return agent.heard(flowing) == "question"; }));
  const int32_t ready = open(agent, "client");
  const uint16_t lost = std::exchange(port_, static_cast<uint16_t>(port_ + 1));
  set_limits("client", {std::to_string(port_), {}, {}});
  ASSERT_TRUE(until([&] { return port_open(); }));
  EXPECT_EQ(sessions().at(0).tunnels.at(0).port, port_);
  EXPECT_FALSE(agent.call(ready).closed);
  agent.say(flowing, "answer");
  EXPECT_TRUE(until([&] { return visitor.heard == "answer"; }));
  add_client("other", std::to_string(lost));
  open(connect_agent(), "other");
  EXPECT_TRUE(until([&] { return edge_->sessions_live() == 2; })) << "a port that it may not have was kept for it";
}

TEST_P(GrpcTunnelsTest, AClientsMostVisitorsAreChangedBesideItsStreams) {
  restart_with_ports(4);
  add_client("client", std::to_string(port_));
  GrpcSocket& agent = connect_agent();
  const int32_t first = open(agent, "client");
  const int32_t second = open(agent, "client");
  ASSERT_TRUE(until([&] { return edge_->sessions_live() == 1; }));
  set_limits("client", {{}, {}, 1});
  Peer& flowing = visit();
  flowing.say = "question";
  const auto heard = [&] { return agent.heard(first) + agent.heard(second); };
  ASSERT_TRUE(until([&] { return heard() == "question"; }));
  Peer& refused = visit();
  EXPECT_TRUE(until([&] { return refused.was_reset; }));
  set_limits("client", {{}, {}, 2});
  visit().say = ", and another";
  EXPECT_TRUE(until([&] { return heard().size() == 21; })) << heard();
  EXPECT_FALSE(flowing.was_reset);
}

// The original client dials anew for every visitor, after a pause of up to 10 s.
TEST_P(GrpcTunnelsTest, AClientThatIsAwayForAMomentKeepsItsTunnelFromAnAgentOfToday) {
  add_client("client", {}, token_hash_of("client"));
  open(connect_agent(), "client");
  ASSERT_TRUE(until([&] { return edge_->sessions_live() == 1; }));
  agents_.clear();
  std::this_thread::sleep_for(std::chrono::milliseconds(2 * kSessionSilentMs));
  ASSERT_TRUE(port_open());
  // Who looked was a visitor: taken late, it would have the one stream that the client opens below.
  const auto looker_is_over = [&] {
    const SessionInfo session = sessions().at(0);
    return session.visitors_total == 1 && session.visitors_live == 0;
  };
  ASSERT_TRUE(until(looker_is_over));

  const auto loop = make_loop(IoKind::kEpoll).value().loop;
  HandAgent newcomer(*loop, options_.bind, TlsIdentity::load_or_create(folder_.path()).value().pin());
  newcomer.hello();
  newcomer.auth("client");
  newcomer.wish(0, "natrp");
  const auto answered = [&] { return newcomer.port() != 0 || newcomer.refused() != nullptr; };
  EXPECT_TRUE(run_until(*loop, answered));
  EXPECT_EQ(newcomer.port(), 0) << "it has what the client comes back to";
  EXPECT_TRUE(newcomer.refused() != nullptr && newcomer.refused()->code() == wire::Refused::CONFLICT);
  newcomer.leave();
  EXPECT_TRUE(run_until(*loop, [&] { return newcomer.closed(); }));

  GrpcSocket& again = connect_agent();
  check_met(again, open(again, "client"));
}

INSTANTIATE_TEST_SUITE_P(Loops, GrpcTunnelsTest, testing::Values(IoKind::kEpoll, IoKind::kUring), loop_of);

}  // namespace
}  // namespace natrp
