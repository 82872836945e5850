// A whole edge in this process, and agents that say what a test tells them to: well-behaved ones and others.
#pragma once

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <deque>
#include <functional>
#include <future>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "control/auth.h"
#include "control/control_channel.h"
#include "control/temp_dir.h"
#include "control/ticket.h"
#include "edge/edge_thread.h"
#include "loop/recorder.h"
#include "net/loopback.h"

namespace natrp {

inline constexpr char kEdgeHost[] = "127.77.0.10";

inline uint16_t free_edge_port() {
  auto fd = listen_on(Address::parse(std::string(kEdgeHost) + ":0").value(), {}, 1);
  loopback::must(fd.ok(), "a free port");
  return local_address(fd.value().get()).port();
}

// A client's secret is its name, filled up with zeros.
inline std::string secret_of(const std::string& client) {
  std::string secret = client;
  secret.resize(32);
  return secret;
}

inline TokenHash token_hash_of(const std::string& client) {
  const std::string secret = secret_of(client);
  return sha256({reinterpret_cast<const uint8_t*>(secret.data()), secret.size()});
}

inline wire::Frame hello_frame(const std::string& instance = "the same process", uint32_t version = 1) {
  wire::Frame frame;
  frame.mutable_hello()->set_protocol_version(version);
  frame.mutable_hello()->set_instance_id(instance);
  return frame;
}

inline wire::Frame auth_frame(const std::string& client) {
  wire::Frame frame;
  frame.mutable_auth()->set_secret(secret_of(client));
  return frame;
}

inline wire::Frame wish_frame(uint32_t index, const std::string& name, uint32_t port = 0) {
  wire::Frame frame;
  frame.mutable_register_tunnel()->set_tunnel_index(index);
  frame.mutable_register_tunnel()->set_name(name);
  frame.mutable_register_tunnel()->set_wanted_port(port);
  return frame;
}

// An agent's control channel, in the test's own loop. It answers heartbeats and does nothing else by itself.
class HandAgent final : public ControlChannelEvents {
 public:
  HandAgent(Loop& loop, const Address& edge, const Pin& pin) : edge_(edge) {
    ClientVerify verify;
    verify.pin = pin;
    channel_ = std::make_unique<ControlChannel>(loop, loopback::connect_to(edge), TlsStream::client(verify).value(),
                                                *this);
  }
  void hello(const std::string& instance = "the same process", const std::string& software = "by hand") {
    wire::Frame frame = hello_frame(instance);
    frame.mutable_hello()->set_software(software);
    send(frame);
  }
  void auth(const std::string& client) { send(auth_frame(client)); }
  void wish(uint32_t index, const std::string& name, uint32_t port = 0, bool replace = false) {
    wire::Frame frame = wish_frame(index, name, port);
    frame.mutable_register_tunnel()->set_replace(replace);
    send(frame);
  }
  void service_failed(uint32_t index, uint32_t count) {
    wire::Frame frame;
    frame.mutable_service_failed()->set_tunnel_index(index);
    frame.mutable_service_failed()->set_count(count);
    frame.mutable_service_failed()->set_reason("because");
    send(frame);
  }
  void send(const wire::Frame& frame) {
    if (channel_) channel_->send(frame);
  }
  void leave() {
    if (channel_) channel_->close("the test is over");
  }

  // What the edge has said, the latest first; nullptr: nothing like it.
  const wire::Frame* last(wire::Frame::BodyCase what) const {
    for (auto at = heard.rbegin(); at != heard.rend(); ++at) {
      if (at->body_case() == what) return &*at;
    }
    return nullptr;
  }
  bool welcome() const { return last(wire::Frame::kWelcome) != nullptr; }
  uint16_t port() const {
    const wire::Frame* leased = last(wire::Frame::kLeased);
    return leased != nullptr ? static_cast<uint16_t>(leased->leased().port()) : 0;
  }
  // Of the session, or of a tunnel.
  const wire::Refused* refused() const {
    for (auto at = heard.rbegin(); at != heard.rend(); ++at) {
      if (at->has_refused()) return &at->refused();
      if (at->has_tunnel_refused()) return &at->tunnel_refused().refused();
    }
    return nullptr;
  }
  bool closed() const { return channel_ == nullptr; }

  // A data channel that has shown its ticket.
  Fd& open_channel() {
    Fd& fd = channels_.emplace_back(loopback::connect_to(edge_));
    uint8_t ticket[kHelloBytes];
    TicketSealer(channel_->ticket_key()).seal(session_, ++counter_, ticket);
    loopback::must(::write(fd.get(), ticket, sizeof ticket) == sizeof ticket, "a ticket");
    return fd;
  }

  std::deque<wire::Frame> heard;
  std::string why_closed;

 private:
  void on_secure() override {}
  void on_frame(const wire::Frame& frame) override {
    heard.push_back(frame);
    if (!frame.has_welcome()) return;
    session_ = SlotId{frame.welcome().session_id()};
    channel_->start_heartbeats();
  }
  void on_closed(const std::string& why, bool) override {
    why_closed = why;
    channel_.reset();
  }
  Address edge_;
  std::unique_ptr<ControlChannel> channel_;
  std::list<Fd> channels_;
  SlotId session_;
  uint64_t counter_ = 0;
};

class LiveEdgeTest : public testing::Test {
 protected:
  void SetUp() override {
    pthread_sigmask(SIG_SETMASK, nullptr, &mask_before_);
    block_signals();
    std::signal(SIGPIPE, SIG_IGN);
    loop_ = make_loop(IoKind::kEpoll).value().loop;
    second_loop_ = make_loop(IoKind::kEpoll).value().loop;
    options_.bind = Address::parse(std::string(kEdgeHost) + ":" + std::to_string(free_edge_port())).value();
    options_.public_bind = Address::parse(std::string(kEdgeHost) + ":0").value();
    options_.public_address = kEdgeHost;
    options_.state_dir = folder_.path();
    for (const uint16_t first = free_edge_port(); ports_.size() < 4;) {
      ports_.push_back(static_cast<uint16_t>(first + ports_.size()));
    }
    options_.ports = PortSet::parse(std::to_string(ports_.front()) + "-" + std::to_string(ports_.back())).value();
    options_.io = IoKind::kEpoll;
    options_.workers = 2;
    options_.drain_seconds = 0;
    start();
    store_ = std::make_unique<Store>(Store::open(folder_.path()).value());
  }
  void TearDown() override {
    second_loop_turns_ = true;
    for (HandAgent& agent : agents_) agent.leave();
    EXPECT_TRUE(until([&] { return std::all_of(agents_.begin(), agents_.end(), [](auto& a) { return a.closed(); }); }));
    if (thread_.running()) stop();
    pthread_sigmask(SIG_SETMASK, &mask_before_, nullptr);
  }
  void start() { edge_ = thread_.start(options_); }
  void terminate() { EdgeThread::terminate(); }
  void stop() {
    edge_ = nullptr;
    thread_.stop();
  }

  ClientRecord client_record(const std::string& name) {
    ClientRecord client;
    client.name = name;
    client.token_hash = token_hash_of(name);
    return client;
  }
  void add_client(const ClientRecord& client) { ASSERT_TRUE(store_->add_client(client).ok()); }
  void add_client(const std::string& name) { add_client(client_record(name)); }

  HandAgent& connect_agent() { return connect_agent(*loop_); }
  HandAgent& connect_agent(Loop& loop) {
    const Pin pin = TlsIdentity::load_or_create(folder_.path()).value().pin();
    return agents_.emplace_back(loop, options_.bind, pin);
  }
  // With a session. Agents of one instance are one process that comes back.
  HandAgent& open_session(const std::string& client, const std::string& instance = "the same process") {
    return open_session(client, instance, *loop_);
  }
  HandAgent& open_session(const std::string& client, const std::string& instance, Loop& loop) {
    HandAgent& agent = connect_agent(loop);
    agent.hello(instance);
    agent.auth(client);
    EXPECT_TRUE(until([&] { return agent.welcome() || agent.closed(); }));
    EXPECT_TRUE(agent.welcome()) << agent.why_closed;
    return agent;
  }
  // Asks for a tunnel, and gives its port; 0: refused.
  uint16_t lease(HandAgent& agent, const std::string& name, uint32_t port = 0, uint32_t index = 0,
                 bool replace = false) {
    agent.heard.clear();
    agent.wish(index, name, port, replace);
    EXPECT_TRUE(until([&] { return agent.port() != 0 || agent.refused() != nullptr; }));
    return agent.port();
  }
  void end(HandAgent& agent) {
    agent.leave();
    EXPECT_TRUE(until([&] { return agent.closed(); }));
  }
  bool until(const std::function<bool()>& done, uint32_t patience_ms = 10000) {
    return run_until(*loop_, [&] {
      if (second_loop_turns_) second_loop_->run_once(0);
      return done();
    }, patience_ms);
  }
  bool listening(uint16_t port) {
    Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const Address address = options_.public_bind.with_port(port);
    return ::connect(fd.get(), address.get(), address.length()) == 0;
  }
  Fd& visit(uint16_t port) {
    return visitors_.emplace_back(loopback::connect_to(options_.public_bind.with_port(port)));
  }
  uint64_t count(Counter counter) {
    uint64_t sum = 0;
    for (const Counters* set : edge_->counters()) sum += set->get(counter);
    return sum;
  }

  TempDir folder_;
  EdgeOptions options_;
  std::vector<uint16_t> ports_;  // what the edge may lease
  std::unique_ptr<Store> store_;
  Edge* edge_ = nullptr;
  EdgeThread thread_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Loop> second_loop_;  // an agent in it is silent while it does not turn
  bool second_loop_turns_ = true;
  std::list<HandAgent> agents_;
  std::list<Fd> visitors_;
  sigset_t mask_before_{};
};

}  // namespace natrp
