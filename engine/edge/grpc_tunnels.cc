#include "edge/grpc_tunnels.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/log.h"
#include "edge/edge.h"
#include "net/address.h"

namespace natrp {
namespace {

constexpr char kTunnelName[] = "natrp";
constexpr char kSoftware[] = "original natrp client (gRPC)";
// The same refusal again is logged this often.
constexpr uint64_t kRefusalLogMs = 60'000;

}  // namespace

// --- The store ----------------------------------------------------------------------------------------------------

void GrpcTunnels::set_clients(std::vector<ClientRecord> clients) {
  auto tokens = std::make_shared<GrpcTokens>();
  std::set<uint64_t> found;
  for (ClientRecord& client : clients) {
    const auto id = static_cast<uint64_t>(client.id);
    Tunnel& tunnel = tunnels_[id];
    if (!tunnel.shared) {
      tunnel.shared = std::make_shared<GrpcClient>(client.id, client.name, edge_.next_tunnel_id(), edge_.workers(),
                                                   edge_.client_conns().of(client));
    } else if (tunnel.client.token_hash != client.token_hash ||
               tunnel.client.plain_token_hash != client.plain_token_hash) {
      tokens->rotated.insert(id);
    }
    found.insert(id);
    tokens->clients[client.token_hash] = tunnel.shared;
    if (client.plain_token_hash) tokens->clients[*client.plain_token_hash] = tunnel.shared;
    tunnel.client = std::move(client);
    close_if_not_allowed(tunnel);
  }
  for (auto at = tunnels_.begin(); at != tunnels_.end();) {
    Tunnel& tunnel = at->second;
    if (found.contains(at->first)) {
      ++at;
      continue;
    }
    tunnel.shared->removed.store(true);
    if (tunnel.session.valid()) close(tunnel);
    at = tunnels_.erase(at);
  }
  edge_.crew().post_to_all([tokens](EdgeWorker& role) {
    if (role.grpc() != nullptr) role.grpc()->set_tokens(tokens);
  });
}

// Its streams stay: a worker that has a ready one asks for another port at its next tick.
void GrpcTunnels::close_if_not_allowed(Tunnel& tunnel) {
  if (!tunnel.session.valid() || may_have(tunnel.client, tunnel.port)) return;
  log_info("the port of a client of the original natrp is none of its ports any more, it closes",
           {{"client", tunnel.client.name}, {"port", static_cast<int>(tunnel.port)}});
  close(tunnel);
}

// --- A tunnel -----------------------------------------------------------------------------------------------------

void GrpcTunnels::want_port(uint64_t client) {
  const auto at = tunnels_.find(client);
  if (at == tunnels_.end() || at->second.session.valid() || draining_) return;
  open(at->second);
}

std::string GrpcTunnels::take(Tunnel& tunnel) {
  Registry& registry = edge_.registry();
  const std::string& client = tunnel.client.name;
  const SlotId holder = registry.holder(client, kTunnelName);
  // A living agent of today's protocol is silent between two heartbeats; its channel finds out when it is dead.
  if (holder.valid() && edge_.find_registration(holder) != nullptr) registry.heard(holder, edge_.now_ms());
  const TakeoverAnswer answer =
      registry.take_tunnel(tunnel.session, kTunnelName, tunnel.client.tunnels_max, false, edge_.now_ms());
  return answer.ok() ? std::string() : answer.sentence;
}

void GrpcTunnels::open(Tunnel& tunnel) {
  const std::string& client = tunnel.client.name;
  tunnel.session = edge_.next_session_id();
  edge_.registry().open_session(tunnel.session, client, {}, edge_.now_ms());
  std::string refusal = take(tunnel);
  if (refusal.empty()) {
    EdgeTunnel shared;
    shared.id = tunnel.shared->tunnel;
    shared.grpc = tunnel.shared;
    shared.stats = tunnel.shared->stats;
    const auto leased = edge_.lease_port(tunnel.client, kTunnelName, {}, tunnel.session, shared);
    if (leased.port != 0) {
      tunnel.listener = leased.listener;
      tunnel.port = leased.port;
      tunnel.seen_ms = edge_.now_ms();
      tunnel.refusal.clear();
      tunnel.shared->leased.store(true);
      edge_.count_sessions();
      const LogField fields[] = {{"client", client}, {"tunnel", kTunnelName}, {"port", static_cast<int>(leased.port)}};
      const std::string& host = edge_.public_address();
      if (host.empty()) {
        log_info("lease live", {fields[0], fields[1], fields[2]});
      } else {
        const std::string address = HostPort{host, leased.port}.text();
        log_info("lease live", {fields[0], fields[1], fields[2], {"public_address", address}});
      }
      return;
    }
    refusal = leased.sentence;
  }
  edge_.registry().close_session(tunnel.session);
  tunnel.session = {};
  refuse(tunnel, refusal);
}

void GrpcTunnels::refuse(Tunnel& tunnel, const std::string& sentence) {
  const uint64_t now = edge_.now_ms();
  if (sentence != tunnel.refusal || now - tunnel.refused_ms >= kRefusalLogMs) {
    log_warning("tunnel refused: " + sentence, {{"client", tunnel.client.name}, {"tunnel", kTunnelName}});
    tunnel.refusal = sentence;
    tunnel.refused_ms = now;
  }
  edge_.crew().post_to_all([shared = tunnel.shared, sentence](EdgeWorker& role) {
    if (role.grpc() != nullptr) role.grpc()->refuse(shared, sentence);
  });
}

// Its lease, if it still has one, goes into grace.
void GrpcTunnels::close(Tunnel& tunnel) {
  tunnel.shared->leased.store(false);
  edge_.close_listener(tunnel.listener);
  tunnel.listener = -1;
  edge_.session_over(std::exchange(tunnel.session, {}));
}

void GrpcTunnels::give_way(const std::string& client, const std::string& name, SlotId session) {
  if (name != kTunnelName) return;
  for (auto& [id, tunnel] : tunnels_) {
    if (tunnel.client.name != client || !tunnel.session.valid() || tunnel.session == session) continue;
    close(tunnel);
    refuse(tunnel, "another agent of client '" + client + "' took tunnel 'natrp' over");
  }
}

// --- For the admin server -----------------------------------------------------------------------------------------

size_t GrpcTunnels::live() const {
  return static_cast<size_t>(
      std::count_if(tunnels_.begin(), tunnels_.end(), [](const auto& each) { return each.second.session.valid(); }));
}

void GrpcTunnels::list_sessions(std::vector<SessionInfo>& out) const {
  for (const auto& [id, tunnel] : tunnels_) {
    if (!tunnel.session.valid()) continue;
    SessionInfo info;
    info.client = tunnel.client.name;
    info.software = kSoftware;
    info.session = tunnel.session.index();
    info.visitors_live = tunnel.shared->visitors_live();
    const TunnelCounts counts = tunnel.shared->stats->sum();
    info.visitors_total = counts.visitors_total;  // it has this tunnel and no other
    info.tunnels.push_back({kTunnelName, tunnel.shared->tunnel, tunnel.port, counts});
    out.push_back(std::move(info));
  }
}

// --- Time ---------------------------------------------------------------------------------------------------------

void GrpcTunnels::tick() {
  const uint64_t now = edge_.now_ms();
  for (auto& [id, tunnel] : tunnels_) {
    if (!tunnel.session.valid()) continue;
    // Also in the pause before it dials anew: whose port is open, has the tunnel.
    edge_.registry().heard(tunnel.session, now);
    if (tunnel.shared->agents() > 0) {
      tunnel.seen_ms = now;
    } else if (now - tunnel.seen_ms >= kGrpcAwayMs) {
      log_info("a client of the original natrp is away, its port closes", {{"client", tunnel.client.name}});
      close(tunnel);
    }
  }
}

void GrpcTunnels::drain() {
  draining_ = true;
  for (auto& [id, tunnel] : tunnels_) {
    if (tunnel.session.valid()) close(tunnel);
  }
}

}  // namespace natrp
