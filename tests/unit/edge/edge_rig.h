// The edge's workers without its control thread: real threads, real loops, real sockets. Each worker has a control
// port and a public port of its own here, so that a test says which worker takes what.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "edge/edge_worker.h"
#include "edge/grpc_socket.h"
#include "loop/loop_of.h"
#include "loop/recorder.h"
#include "net/loopback.h"
#include "relay/rig.h"

namespace natrp {

class EdgeRig final : public EdgeControlPort {
 public:
  explicit EdgeRig(IoKind io, unsigned workers = 1, uint32_t slots = 8192) {
    std::signal(SIGPIPE, SIG_IGN);
    EngineOptions options;
    options.workers = workers;
    options.io = io;
    const Status started = crew_.start(options, slots, [this](Worker& worker) {
      return std::make_unique<EdgeWorker>(worker, *this, true, crew_);
    });
    if (!started.ok()) {
      refused_ = started.error().message;
      return;
    }
    for (unsigned i = 0; i < workers; ++i) {
      controls_.push_back(loopback::listener());
      in_worker(i, [&] { role(i).open_control_listener(controls_[i].fd.get()); });
    }
  }
  ~EdgeRig() {
    crew_.stop();
    for (const auto& worker : crew_.workers()) EXPECT_EQ(worker->conns().live(), 0u) << "a slot is left";
  }

  // Why this machine has no such loop; empty when it has.
  const std::string& refused() const { return refused_; }

  // Runs f in the worker, gives what it gave.
  template <typename F>
  auto in_worker(unsigned index, F f) -> std::invoke_result_t<F> {
    std::packaged_task<std::invoke_result_t<F>()> task(std::move(f));
    auto result = task.get_future();
    crew_.worker(index).mailbox().post([task = std::move(task)]() mutable { task(); });
    return result.get();
  }
  EdgeWorker& role(unsigned index) { return crew_.role(index); }
  Worker& worker(unsigned index) { return crew_.worker(index); }
  uint64_t count(Counter counter) const {
    uint64_t sum = 0;
    for (const auto& worker : crew_.workers()) sum += worker->counters().get(counter);
    return sum;
  }
  // The worker's only data channel, as a descriptor of the edge.
  int channel_fd(unsigned index) {
    ConnShard& conns = worker(index).conns();
    for (uint32_t i = 0; i < conns.capacity(); ++i) {
      if (conns.at(i).fd > 0 && conns.at(i).role() == ConnRole::kDataChannel) return conns.at(i).fd;
    }
    return -1;
  }
  uint32_t slots_claimed(unsigned index) {
    return in_worker(index, [&] { return worker(index).conns().live(); });
  }
  // What was taken from the visitors that are there, in any worker.
  uint64_t bytes_from_visitors() const {
    uint64_t sum = 0;
    crew_.conns().for_each([&](const ConnView& view) {
      if (view.role == ConnRole::kVisitor) sum += view.bytes_received;
    });
    return sum;
  }

  // What came from the original clients that are there, of their services.
  uint64_t bytes_from_agents() const {
    uint64_t sum = 0;
    crew_.conns().for_each([&](const ConnView& view) {
      if (view.role == ConnRole::kDataChannel) sum += view.bytes_received;
    });
    return sum;
  }

  // All data channels that are there, as the admin's API tells of them.
  std::vector<ConnView> channels() const {
    std::vector<ConnView> out;
    crew_.conns().for_each([&](const ConnView& view) {
      if (view.role == ConnRole::kDataChannel) out.push_back(view);
    });
    return out;
  }

  // A session of today's protocol without any channel, and its public port in every worker.
  std::shared_ptr<EdgeSession> open_session(bool in_chunks = false, uint32_t conns_max = 0) {
    const auto conns = std::make_shared<ClientConns>();
    conns->max.store(conns_max);
    const auto session =
        std::make_shared<EdgeSession>(SlotId::make(0, 1, 1), TicketKey{}, crew_.size(), conns, in_chunks);
    for (unsigned i = 0; i < crew_.size(); ++i) {
      in_worker(i, [&] { role(i).open_session(session); });
    }
    EdgeTunnel tunnel;
    tunnel.id = 9;
    tunnel.session = session;
    tunnel.stats = native_stats = std::make_shared<TunnelStats>(crew_.size());
    open_public_ports("native", tunnel);
    return session;
  }

  // --- original clients -------------------------------------------------------------------------------------------

  // A client whose token is its name, and whose port is open in every worker. send_buffer: of the edge's sockets
  // to its visitors, 0 for the kernel's choice.
  std::shared_ptr<GrpcClient> add_client(const std::string& name, uint32_t conns_max = 0, int send_buffer = 0) {
    auto client = std::make_shared<GrpcClient>(next_id_, name, static_cast<uint32_t>(100 + next_id_),
                                               crew_.size());
    client->conns->max.store(conns_max);
    ++next_id_;
    client->leased.store(true);
    tokens_.clients[sha256(bytes_of(name))] = client;
    tell_tokens();
    EdgeTunnel tunnel;
    tunnel.id = client->tunnel;
    tunnel.grpc = client;
    tunnel.stats = client->stats;
    open_public_ports(client->name, tunnel, send_buffer);
    return client;
  }
  void remove_client(const std::shared_ptr<GrpcClient>& client) {
    client->removed.store(true);
    tokens_.clients.erase(sha256(bytes_of(client->name)));
    tell_tokens();
  }
  void open_public_ports(const std::string& name, const EdgeTunnel& tunnel, int send_buffer = 0) {
    for (unsigned i = 0; i < crew_.size(); ++i) {
      loopback::Listener& listener = public_[name].emplace_back(loopback::listener());
      if (send_buffer != 0) {
        setsockopt(listener.fd.get(), SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof send_buffer);
      }
      in_worker(i, [&, fd = listener.fd.get()] { role(i).open_public_port(fd, tunnel); });
    }
  }
  // On its control port, and silent so far.
  Fd connect_stranger(unsigned worker) { return loopback::connect_to(controls_[worker].address); }
  GrpcSocket& connect_agent(unsigned worker, bool gives_window_back = true) {
    return agents_.emplace_back(controls_[worker].address, gives_window_back);
  }
  // receive_buffer: of its socket, 0 for the kernel's choice.
  Peer& visit(unsigned worker, const std::string& client, int receive_buffer = 0) {
    Peer& visitor = visitors_.emplace_back();
    visitor.fd.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (receive_buffer != 0) {
      setsockopt(visitor.fd.get(), SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    }
    const Address& address = public_[client][worker].address;
    loopback::must(::connect(visitor.fd.get(), address.get(), address.length()) == 0, "connect");
    loopback::must(::fcntl(visitor.fd.get(), F_SETFL, O_NONBLOCK) == 0, "fcntl");
    return visitor;
  }
  // Agents and visitors act until done().
  bool until(const std::function<bool()>& done, uint32_t patience_ms = 20000) {
    return run_until([&] { turn_all(agents_, visitors_); }, done, patience_ms);
  }

  // The ports of a tunnel close in every worker, as when it has lost its lease.
  void close_public_ports(const std::string& name) {
    for (unsigned i = 0; i < crew_.size(); ++i) {
      in_worker(i, [&, fd = public_[name][i].fd.get()] { role(i).close_listener(fd); });
    }
  }
  const ConnTable& conns() const { return crew_.conns(); }
  std::shared_ptr<TunnelStats> native_stats;  // of open_session()'s tunnel

  // What the workers asked the control thread for.
  std::atomic<uint32_t> channels_wanted{0};
  std::atomic<uint64_t> port_wanted_by{0};
  std::atomic<uint32_t> control_conns{0};

 private:
  void take_control_conn(int fd, std::string, uint64_t) override {
    const Fd closed(fd);
    ++control_conns;
  }
  void want_channels(SlotId, uint32_t count) override { channels_wanted += count; }
  void want_grpc_port(uint64_t client) override { port_wanted_by = client; }
  void listener_landed(int) override {}
  void tell_tokens() {
    const auto tokens = std::make_shared<GrpcTokens>(tokens_);
    for (unsigned i = 0; i < crew_.size(); ++i) in_worker(i, [&] { role(i).grpc()->set_tokens(tokens); });
  }

  std::vector<loopback::Listener> controls_;
  std::map<std::string, std::deque<loopback::Listener>> public_;
  Crew<EdgeWorker> crew_;
  std::deque<GrpcSocket> agents_;
  std::deque<Peer> visitors_;
  GrpcTokens tokens_;
  int64_t next_id_ = 1;
  std::string refused_;
};

// Bytes that are the same in every run.
inline std::string some_bytes(size_t bytes, unsigned seed = 1) {
  std::mt19937 random(seed);
  return random_bytes(random, bytes);
}

class EdgeWorkerTest : public testing::TestWithParam<IoKind> {
 protected:
  void make(unsigned workers = 1, uint32_t slots = 8192) {
    rig = std::make_unique<EdgeRig>(GetParam(), workers, slots);
    if (!rig->refused().empty()) GTEST_SKIP() << rig->refused();
  }
  std::unique_ptr<EdgeRig> rig;
};

}  // namespace natrp
