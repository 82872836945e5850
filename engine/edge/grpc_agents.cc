#include "edge/grpc_agents.h"

#include <algorithm>

#include "base/fd.h"
#include "base/join_token.h"
#include "base/limits.h"
#include "control/auth.h"
#include "edge/edge_worker.h"
#include "net/socket.h"

namespace natrp {
namespace {

constexpr uint32_t kTickMs = 250;
// How long a client whose port was refused is answered from memory.
constexpr uint64_t kRefusedMs = 1000;

}  // namespace

GrpcAgents::GrpcAgents(EdgeWorker& edge)
    : edge_(edge),
      // To the original, its visitor's end is the end of both directions: one that said nothing and ended would cost
      // its client a stream and a new dial to the service.
      parked_(edge, ParkedVisitors::Leaves::kByAnyEnd),
      strangers_most_(std::clamp(edge.worker().conns().capacity() / kUnprovenSlotsShare, 1u, kGrpcStrangersMax)),
      scratch_(std::make_unique_for_overwrite<uint8_t[]>(kBufferBytes)) {}

GrpcAgents::~GrpcAgents() {
  stopping_ = draining_ = true;
  for (auto& [id, client] : clients_) parked_.refuse_all(client->parked);
  agents_.for_each([](GrpcAgent& agent) { agent.stop(); });
  channels_.for_each([](GrpcChannel& channel) { channel.cut(GrpcStatus::kUnavailable, {}); });
  worker().loop().land_until([this] { return idle(); });
  worker().loop().timers().disarm(tick_);
}

Worker& GrpcAgents::worker() { return edge_.worker(); }

// --- Connections --------------------------------------------------------------------------------------------------

void GrpcAgents::take_agent(Conn& conn, std::string_view first_bytes) {
  // Before our SETTINGS, which a client of its library takes for a success, and tries again at once after it.
  if (draining_ || agents_live_ >= kGrpcAgentsMax) {
    if (!draining_) worker().counters().add(Counter::kConnsRefused);
    worker().loop().close(conn.fd, CloseWith::kReset);
    worker().conns().release(conn);
    return;
  }
  conn.set_peer(peer_address(conn.fd), ConnRole::kDataChannel);
  if (strangers_count_ == strangers_most_) displace_oldest_stranger();
  auto* made = new GrpcAgent(*this, conn);
  agents_.push_back(*made);
  strangers_.push_back(*made);
  ++strangers_count_;
  ++agents_live_;
  keep_ticking();
  made->start(first_bytes);
}

void GrpcAgents::displace_oldest_stranger() {
  GrpcAgent& oldest = *strangers_.front();
  leave_strangers(oldest);
  worker().counters().add(Counter::kStrangersDisplaced);
  oldest.stop();
}

void GrpcAgents::leave_strangers(GrpcAgent& agent) {
  if (!agent.stranger_link.linked()) return;
  agent.stranger_link.unlink();
  --strangers_count_;
}

void GrpcAgents::over(GrpcAgent& agent) {
  leave_strangers(agent);
  agent.link.unlink();
  --agents_live_;
  delete &agent;
  edge_.check_idle();
}

void GrpcAgents::agent_came(GrpcClientHere& client) {
  ++client.agents;
  publish(client);
}

void GrpcAgents::agent_gone(GrpcClientHere& client) {
  --client.agents;
  publish(client);
}

void GrpcAgents::pump_agents() {
  agents_.for_each([](GrpcAgent& agent) { agent.pump(); });
}

void GrpcAgents::keep_ticking() {
  if (!tick_.armed()) worker().loop().timers().arm(tick_, kTickMs);
}

void GrpcAgents::on_tick() {
  agents_.for_each([](GrpcAgent& agent) { agent.tick(); });
  // A port that was closed while its client was away for long, and came back at that very moment.
  for (auto& [id, client] : clients_) {
    if (client->ready_count > 0 && !client->shared->leased.load()) edge_.control().want_grpc_port(id);
  }
  forget_removed();
  if (!idle()) keep_ticking();
}

// --- Clients ------------------------------------------------------------------------------------------------------

NatrpGrpcConnection::Verdict GrpcAgents::authenticate(std::string_view token) {
  NatrpGrpcConnection::Verdict verdict;
  if (!tokens_ || stopping_) return verdict;
  Sha256 hash;
  if (const auto join = parse_join_token(token); join.ok()) {
    hash = sha256(join.value().secret);
  } else {
    hash = sha256({reinterpret_cast<const uint8_t*>(token.data()), token.size()});
  }
  const auto found = tokens_->clients.find(hash);
  if (found == tokens_->clients.end()) {
    worker().counters().add(Counter::kHelloRefused);
    return verdict;
  }
  GrpcClientHere& client = here(found->second);
  if (worker().loop().turn_ms() < client.refused_until_ms) {
    verdict.status = GrpcStatus::kUnavailable;
    verdict.message = client.refusal;
    return verdict;
  }
  verdict.accepted = true;
  verdict.client = static_cast<uint64_t>(client.shared->id);
  return verdict;
}

GrpcClientHere& GrpcAgents::here(const std::shared_ptr<GrpcClient>& client) {
  auto& place = clients_[static_cast<uint64_t>(client->id)];
  if (!place) place = std::make_unique<GrpcClientHere>(client, worker().index());
  return *place;
}

GrpcClientHere* GrpcAgents::find(uint64_t client) {
  const auto at = clients_.find(client);
  return at != clients_.end() ? at->second.get() : nullptr;
}

void GrpcAgents::publish(GrpcClientHere& client) {
  auto& place = client.shared->places[worker().index()];
  place.ready.store(client.ready_count);
  place.agents.store(client.agents);
  place.flowing.store(client.flowing);
}

void GrpcAgents::set_tokens(std::shared_ptr<const GrpcTokens> tokens) {
  tokens_ = std::move(tokens);
  for (auto& [id, client] : clients_) {
    if (client->shared->removed.load()) parked_.refuse_all(client->parked);
  }
  // Why what was opened with the client's token is over; nullptr: it is not.
  const auto over = [this](const GrpcClientHere& client) -> const char* {
    if (client.shared->removed.load()) return "this client was removed by the edge's operator";
    if (!tokens_->rotated.contains(static_cast<uint64_t>(client.shared->id))) return nullptr;
    return "the edge's operator gave this client a new token";
  };
  channels_.for_each([&](GrpcChannel& channel) {
    if (const char* why = over(channel.client())) channel.cut(GrpcStatus::kUnauthenticated, why);
  });
  // Not only its streams: a connection keeps its client's port open.
  agents_.for_each([&](GrpcAgent& agent) {
    for (const GrpcClientHere* client : agent.shown()) {
      if (const char* why = over(*client)) agent.http2().drain(why);
    }
  });
  pump_agents();
  forget_removed();
}

void GrpcAgents::forget_removed() {
  for (auto at = clients_.begin(); at != clients_.end();) {
    const GrpcClientHere& client = *at->second;
    const bool over =
        client.shared->removed.load() && client.agents == 0 && client.channels == 0 && client.parked.empty();
    at = over ? clients_.erase(at) : std::next(at);
  }
}

void GrpcAgents::refuse(const std::shared_ptr<GrpcClient>& shared, const std::string& sentence) {
  GrpcClientHere* client = find(static_cast<uint64_t>(shared->id));
  if (client == nullptr) return;
  client->refusal = sentence;
  client->refused_until_ms = worker().loop().turn_ms() + kRefusedMs;
  channels_.for_each([&](GrpcChannel& channel) {
    if (&channel.client() == client && channel.open() && !channel.has_visitor()) {
      channel.cut(GrpcStatus::kUnavailable, sentence);
    }
  });
  pump_agents();
}

void GrpcAgents::drain() {
  if (draining_) return;
  draining_ = true;
  for (auto& [id, client] : clients_) parked_.refuse_all(client->parked);
  agents_.for_each([](GrpcAgent& agent) { agent.http2().drain(kDraining); });
  channels_.for_each([](GrpcChannel& channel) {
    if (channel.open() && !channel.has_visitor()) channel.cut(GrpcStatus::kUnavailable, kDraining);
  });
  pump_agents();
}

// --- Streams ------------------------------------------------------------------------------------------------------

GrpcChannel& GrpcAgents::make_channel(GrpcAgent& agent, GrpcChannel::StreamId stream, GrpcClientHere& client) {
  auto* channel = new GrpcChannel(*this, agent, stream, client);
  channels_.push_back(*channel);
  ++channels_live_;
  ++client.channels;
  worker().counters().add(Counter::kChannelsOpened);
  return *channel;
}

void GrpcAgents::over(GrpcChannel& channel) {
  --channel.client().channels;
  --channels_live_;
  channel.all_link.unlink();
  delete &channel;
  edge_.check_idle();
}

void GrpcAgents::offer(GrpcChannel& channel) {
  GrpcClientHere& client = channel.client();
  if (ParkedVisitor* parked = parked_.front_still_there(client.parked)) return channel.join(parked_.unpark(*parked));
  client.ready.push_back(channel);
  ++client.ready_count;
  worker().counters().add(Counter::kChannelsReady);
  publish(client);
  if (!client.shared->leased.load()) edge_.control().want_grpc_port(static_cast<uint64_t>(client.shared->id));
  ask_for_visitor(client.shared, worker().index());
}

// Asks one worker, and not this one, for a visitor of the client that waits there, on behalf of for_worker.
void GrpcAgents::ask_for_visitor(const std::shared_ptr<GrpcClient>& client, unsigned for_worker) {
  for (unsigned other = 0; other < edge_.crew().size(); ++other) {
    if (other == worker().index() || other == for_worker || client->places[other].parked.load() == 0) continue;
    return edge_.crew().post(other, [client, for_worker](EdgeWorker& role) {
      if (role.grpc() != nullptr) role.grpc()->give_visitor(client, for_worker);
    });
  }
}

void GrpcAgents::lost(GrpcChannel& channel) {
  if (channel.ready_link.linked() && !stopping_) worker().counters().add(Counter::kChannelsLost);
  unready(channel);
}

void GrpcAgents::unready(GrpcChannel& channel) {
  if (!channel.ready_link.linked()) return;
  channel.ready_link.unlink();
  --channel.client().ready_count;
  worker().counters().sub(Counter::kChannelsReady);
  publish(channel.client());
}

// --- Visitors -----------------------------------------------------------------------------------------------------

void GrpcAgents::take_visitor(int fd, const std::shared_ptr<GrpcClient>& client) {
  worker().counters().add(Counter::kVisitors);
  const bool allowed = client->conns->enter();
  if (!allowed || draining_ || client->removed.load()) {
    if (allowed) client->conns->refuse(VisitorRefusal::kOther);
    return edge_.turn_away(fd, client->tunnel, *client->conns);
  }
  if (Conn* conn = claim(fd, client)) {
    meet_or_park(here(client), *conn, parked_.deadline_ms());
  }
}

// A slot of the table for the visitor, or nullptr: it is reset.
Conn* GrpcAgents::claim(int fd, const std::shared_ptr<GrpcClient>& client) {
  Conn* conn = worker().conns().claim(fd, peer_address(fd), ConnRole::kVisitor, worker().loop().turn_ms());
  if (conn != nullptr) {
    conn->tunnel.store(client->tunnel, std::memory_order_relaxed);
    return conn;
  }
  client->conns->refuse(VisitorRefusal::kOther);
  edge_.turn_away(fd, client->tunnel, *client->conns);
  return nullptr;
}

void GrpcAgents::meet_or_park(GrpcClientHere& client, Conn& conn, uint64_t deadline_ms) {
  GrpcChannel* channel = client.ready.front();
  if (channel == nullptr) return park(client, conn, deadline_ms);
  unready(*channel);
  channel->join_and_pump(conn);
}

void GrpcAgents::park(GrpcClientHere& client, Conn& conn, uint64_t deadline_ms) {
  ParkedVisitor* parked = parked_.park(client.parked, conn, deadline_ms);
  if (parked == nullptr) return;
  for (unsigned other = 0; other < edge_.crew().size(); ++other) {
    if (other == worker().index() || client.shared->places[other].ready.load() == 0) continue;
    return move(client, *parked, other);
  }
}

void GrpcAgents::move(GrpcClientHere& client, ParkedVisitor& parked, unsigned to_worker) {
  const uint64_t deadline_ms = parked.deadline_ms;
  Conn& conn = parked_.unpark(parked);
  const int fd = conn.fd;
  worker().conns().release(conn);
  edge_.tunnels().let_go(client.shared->tunnel);
  edge_.crew().post(to_worker, [fd, shared = client.shared, deadline_ms](EdgeWorker& role) {
    if (role.grpc() != nullptr) return role.grpc()->take_waiting_visitor(fd, shared, deadline_ms);
    const Fd lost(fd);  // that worker ends
  });
}

void GrpcAgents::take_waiting_visitor(int fd, const std::shared_ptr<GrpcClient>& client, uint64_t deadline_ms) {
  edge_.tunnels().hold(client->tunnel, client->stats);
  Conn* conn = claim(fd, client);
  if (conn == nullptr) return;
  GrpcClientHere& its = here(client);
  if (draining_ || client->removed.load()) return parked_.refuse(its.parked, *conn);
  meet_or_park(its, *conn, deadline_ms);
}

void GrpcAgents::give_visitor(const std::shared_ptr<GrpcClient>& client, unsigned to_worker) {
  GrpcClientHere* its = find(static_cast<uint64_t>(client->id));
  if (its == nullptr) return;
  if (ParkedVisitor* parked = parked_.front_still_there(its->parked)) return move(*its, *parked, to_worker);
  // The one that was seen here has left, or another stream has it. One that waits elsewhere was not asked for.
  if (client->places[to_worker].ready.load() > 0) ask_for_visitor(client, to_worker);
}

void GrpcAgents::visitor_came(GrpcClientHere& client) {
  ++client.flowing;
  publish(client);
}

void GrpcAgents::visitor_gone(GrpcClientHere& client, uint64_t bytes_up, uint64_t bytes_down) {
  --client.flowing;
  publish(client);
  client.shared->conns->leave();
  edge_.tunnels().visitor_over(client.shared->tunnel, bytes_up, bytes_down);
}

}  // namespace natrp
