#include "edge/rendezvous.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/limits.h"
#include "control/start_message.h"
#include "edge/edge_worker.h"
#include "net/socket.h"

namespace natrp {
namespace {

// For the next channel, after one that found no slot: an agent that is near would dial thousands of them in vain.
constexpr uint32_t kAskAgainMs = 100;

}  // namespace

Rendezvous::Rendezvous(EdgeWorker& edge) : edge_(edge), parked_(edge, ParkedVisitors::Leaves::kByReset) {}

Rendezvous::~Rendezvous() {
  edge_.worker().loop().timers().disarm(again_timer_);
  for (auto& [index, session] : sessions_) parked_.refuse_all(session->parked);
}

void Rendezvous::open_session(std::shared_ptr<EdgeSession> shared) {
  const uint32_t index = shared->id.index();
  sessions_[index] = std::make_unique<Session>(std::move(shared), edge_.worker().index());
}

Rendezvous::Session* Rendezvous::find(SlotId id) {
  const auto at = sessions_.find(id.index());
  return at != sessions_.end() && at->second->shared->id == id && !at->second->closed ? at->second.get() : nullptr;
}

EdgeSession* Rendezvous::find_session(SlotId id) {
  Session* session = find(id);
  return session != nullptr ? session->shared.get() : nullptr;
}

void Rendezvous::close_session(SlotId id) {
  Session* session = find(id);
  if (session == nullptr) return;
  session->closed = true;
  parked_.refuse_all(session->parked);
  ++session->pairs;  // held here while its channels end, perhaps inside end()
  while (session->ready.first != PairList::kEnd) {
    PairTable& pairs = edge_.worker().pairs();
    pairs.end(pairs.at(session->ready.first), EndReason::kSessionEnded, Resets::kNone);
  }
  --session->pairs;
  publish(*session);
  forget_if_over(id.index());
}

void Rendezvous::forget_if_over(uint32_t index) {
  const auto at = sessions_.find(index);
  if (at != sessions_.end() && at->second->closed && at->second->pairs == 0) sessions_.erase(at);
}

void Rendezvous::publish(Session& session) {
  auto& place = session.shared->places[edge_.worker().index()];
  place.ready.store(session.ready.size, std::memory_order_relaxed);
  place.returning.store(session.returning, std::memory_order_relaxed);
  place.flowing.store(session.pairs - session.ready.size - session.returning, std::memory_order_relaxed);
}

// --- Visitors -----------------------------------------------------------------------------------------------------

void Rendezvous::take_visitor(int fd, const EdgeTunnel& tunnel) {
  Worker& worker = edge_.worker();
  worker.counters().add(Counter::kVisitors);
  Session* session = find(tunnel.session->id);
  EdgeSession& shared = *tunnel.session;
  const bool entered = shared.conns->enter();
  shared.visitors.fetch_add(1, std::memory_order_relaxed);
  Conn* conn = entered && session != nullptr
                   ? worker.conns().claim(fd, peer_address(fd), ConnRole::kVisitor, worker.loop().turn_ms())
                   : nullptr;
  if (conn == nullptr) {
    if (entered) shared.conns->refuse(VisitorRefusal::kOther);
    return edge_.turn_away(fd, tunnel.id, *shared.conns);
  }
  conn->tunnel.store(tunnel.id, std::memory_order_relaxed);
  const uint64_t deadline_ms = parked_.deadline_ms();
  if (Pair* pair = pop_ready(*session)) return meet(*session, *pair, *conn, tunnel.index, deadline_ms);
  park(*session, *conn, tunnel.index, deadline_ms);
}

void Rendezvous::meet(Session& session, Pair& pair, Conn& visitor, uint32_t tunnel_index, uint64_t deadline_ms) {
  Worker& worker = edge_.worker();
  const Address peer = visitor.peer();
  const bool chunks = session.shared->chunks && worker.relay().kind != PumpKind::kSplice;
  const StartBytes start = encode_start(tunnel_index, peer.valid() ? peer.get() : nullptr, chunks);
  Conn& channel = pair.back_conn();
  channel.tunnel.store(visitor.tunnel.load(std::memory_order_relaxed), std::memory_order_relaxed);
  // Nothing that was sent on this socket is on its way any more, so 64 bytes fit. A call on the spot and not a borrowed
  // buffer: a thousand visitors in one turn would touch a thousand buffers for nothing.
  const ssize_t n = worker.loop().try_send(channel.fd, start.data(), start.size());
  if (n == static_cast<ssize_t>(start.size())) return worker.pairs().attach_front(pair, visitor, chunks);
  // The channel broke this very moment, and nobody has noticed yet. Its visitor waits for the next one.
  worker.pairs().end(pair, EndReason::kChannelLost, Resets::kBack);
  park(session, visitor, tunnel_index, deadline_ms);
}

void Rendezvous::park(Session& session, Conn& conn, uint32_t tunnel_index, uint64_t deadline_ms) {
  // Each of those that wait needs a slot for its channel: another one would wait for nothing.
  if (free_slots() <= parked_.size()) return parked_.refuse(session.parked, conn);
  if (parked_.park(session.parked, conn, deadline_ms, tunnel_index) == nullptr) return;
  // A channel that is ready elsewhere is nearer than a new one.
  const unsigned self = edge_.worker().index();
  for (unsigned other = 0; other < edge_.crew().size(); ++other) {
    if (other == self || session.shared->places[other].ready.load(std::memory_order_relaxed) == 0) continue;
    return edge_.crew().post(other, [id = session.shared->id, self](EdgeWorker& role) { role.give_channel(id, self); });
  }
  edge_.control().want_channels(session.shared->id, 1);
}

// --- Channels -----------------------------------------------------------------------------------------------------

void Rendezvous::take_channel(Conn& conn, SlotId id) {
  Worker& worker = edge_.worker();
  Session* session = find(id);
  if (session == nullptr) return worker.close(conn, CloseWith::kFin);
  if (session->parked.empty()) {
    const unsigned self = worker.index();
    for (unsigned other = 0; other < edge_.crew().size(); ++other) {
      if (other == self || session->shared->places[other].parked.load(std::memory_order_relaxed) == 0) continue;
      const int fd = worker.let_go(conn);
      worker.counters().add(Counter::kChannelsMoved);
      return edge_.crew().post(other, [fd, id](EdgeWorker& role) { role.take_channel(fd, id); });
    }
    if (!may_be_ready(*session)) {
      worker.counters().add(Counter::kChannelsSurplus);
      return worker.close(conn, CloseWith::kReset);
    }
  }
  Pair* pair = worker.pairs().start_waiting(conn, id.index());
  if (pair == nullptr) {
    worker.close(conn, CloseWith::kFin);
    return on_channel_refused(id);
  }
  ++session->pairs;
  if (ParkedVisitor* parked = parked_.front(session->parked)) {
    const uint32_t tunnel_index = parked->tunnel_index;
    const uint64_t deadline_ms = parked->deadline_ms;
    publish(*session);
    meet(*session, *pair, parked_.unpark(*parked), tunnel_index, deadline_ms);
    return edge_.check_idle();
  }
  pair->in_ready = true;
  worker.pairs().push(session->ready, *pair);
  worker.counters().add(Counter::kChannelsReady);
  publish(*session);
}

void Rendezvous::on_channel_refused(SlotId id) {
  edge_.worker().counters().add(Counter::kConnsRefused);
  Session* session = find(id);
  if (session == nullptr) return;
  ++session->refused;
  if (!again_timer_.armed()) edge_.worker().loop().timers().arm(again_timer_, kAskAgainMs);
}

// Who waited for one of them has no other on its way.
void Rendezvous::ask_again() {
  for (auto& [index, session] : sessions_) {
    const uint32_t waiting = session->shared->places[edge_.worker().index()].parked.load(std::memory_order_relaxed);
    const uint32_t missing = std::min(std::exchange(session->refused, 0), waiting);
    if (missing > 0) edge_.control().want_channels(session->shared->id, missing);
  }
}

// A ready channel needs a slot here for the visitor that it will meet, and so does one that may come back: channels
// that took all of them would keep every visitor out, for as long as they are there.
bool Rendezvous::has_slots_to_spare() const {
  return free_slots() > edge_.worker().counters().get(Counter::kChannelsReady) + returning_;
}

uint32_t Rendezvous::free_slots() const {
  const ConnShard& conns = edge_.worker().conns();
  return conns.capacity() - conns.live();
}

bool Rendezvous::may_be_ready(const Session& session) const {
  return has_slots_to_spare() &&
         session.shared->sum(&EdgeSession::Place::ready) <
             session.shared->ready_max.load(std::memory_order_relaxed);
}

void Rendezvous::close_ready(SlotId id, uint32_t count) {
  Session* session = find(id);
  if (session == nullptr) return;
  // The count may be old: visitors have come since, or it is the second letter about the same ones.
  const auto too_many = [&] {
    return session->shared->sum(&EdgeSession::Place::ready) >
           session->shared->ready_max.load(std::memory_order_relaxed);
  };
  for (; count > 0 && session->ready.first != PairList::kEnd && too_many(); --count) {
    edge_.worker().counters().add(Counter::kChannelsSurplus);
    PairTable& pairs = edge_.worker().pairs();
    pairs.end(pairs.at(session->ready.first), EndReason::kSurplus, Resets::kNone);
  }
}

bool Rendezvous::may_return(const Session& session) const {
  return has_slots_to_spare() &&
         session.shared->sum(&EdgeSession::Place::returning) < kReadyChannelsHeld;
}

Pair* Rendezvous::pop_ready(Session& session) {
  if (session.ready.first == PairList::kEnd) return nullptr;
  Pair& pair = edge_.worker().pairs().at(session.ready.first);
  on_pair_unready(pair);
  pair.in_ready = false;
  return &pair;
}

void Rendezvous::give_channel(SlotId id, unsigned to_worker) {
  Session* session = find(id);
  if (session == nullptr) return;
  Pair* pair = pop_ready(*session);
  if (pair == nullptr) return edge_.control().want_channels(id, 1);  // taken meanwhile: the visitor still needs one
  pair->tag = static_cast<uint8_t>(to_worker);
  edge_.worker().pairs().move_out(*pair);
}

void Rendezvous::on_pair_unready(Pair& pair) {
  Session& session = *sessions_.at(pair.owner);
  edge_.worker().pairs().remove(session.ready, pair);
  edge_.worker().counters().sub(Counter::kChannelsReady);
  publish(session);
}

void Rendezvous::on_pair_end(Pair& pair) {
  Session& session = *sessions_.at(pair.owner);
  if (pair.front != Pair::kNoConn) {
    session.shared->conns->leave();
    count_end(pair);
  } else if (pair.reason == EndReason::kMoved) {
    edge_.worker().counters().add(Counter::kChannelsMoved);
    edge_.worker().loop().let_go(pair.back_conn().fd);
    edge_.crew().post(pair.tag, [fd = pair.back_conn().fd, id = session.shared->id](EdgeWorker& role) {
      role.take_channel(fd, id);
    });
  } else if (pair.reason != EndReason::kSessionEnded && pair.reason != EndReason::kSurplus && !pair.returning) {
    edge_.worker().counters().add(Counter::kChannelsLost);
  }
  --session.pairs;
  if (pair.returning) {
    --session.returning;
    --returning_;
  }
  publish(session);
  const SlotId id = session.shared->id;
  forget_if_over(pair.owner);
  if (pair.reason != EndReason::kReturned) return;
  edge_.worker().counters().add(Counter::kChannelsReturned);
  Conn& conn = pair.back_conn();
  conn.renew(edge_.worker().loop().turn_ms());
  take_channel(conn, id);
}

// Its visitor's conn is released, and nobody has claimed it again: its numbers are still there.
void Rendezvous::count_end(Pair& pair) {
  const Conn& visitor = pair.front_conn();
  Conn& channel = pair.back_conn();
  const uint32_t tunnel = visitor.tunnel.load(std::memory_order_relaxed);
  const uint64_t bytes_up = visitor.bytes_received.load(std::memory_order_relaxed);
  const uint64_t bytes_down = channel.bytes_received.load(std::memory_order_relaxed);
  // One that waits for FREE is still listed: what it carried is counted with the tunnel from now on.
  if (pair.returning) channel.renew(edge_.worker().loop().turn_ms());
  edge_.tunnels().visitor_over(tunnel, bytes_up, bytes_down);
}

bool Rendezvous::on_visitor_gone(Pair& pair) {
  Session& session = *sessions_.at(pair.owner);
  session.shared->conns->leave();
  count_end(pair);
  const bool may = may_return(session);
  ++session.returning;
  ++returning_;
  publish(session);
  return may;
}

}  // namespace natrp
