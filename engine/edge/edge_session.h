// edge/edge_session.h
//
// EdgeSession: what the control thread and the workers share of one agent's session: who it is, the key of its
// tickets, and a few numbers. Immutable but for the atomics.
//
// Life     made by the control thread before Welcome is sent; gone when the last worker has forgotten it.
// Thread   any.
#pragma once

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "base/slot_id.h"
#include "control/ticket.h"
#include "edge/grpc_client.h"
#include "edge/tunnel_stats.h"

namespace natrp {

struct EdgeSession {
  EdgeSession(SlotId session_id, const TicketKey& key, size_t workers, std::shared_ptr<ClientConns> client_conns,
              bool in_chunks)
      : id(session_id), checker(key), conns(std::move(client_conns)), chunks(in_chunks), places(workers) {}

  const SlotId id;
  const TicketChecker checker;
  TicketWindow window;
  const std::shared_ptr<ClientConns> conns;  // of its client
  const bool chunks;  // its agent understands relay/chunks
  std::atomic<uint64_t> visitors{0};      // since the session began; the demand for channels follows its rate
  std::atomic<uint32_t> ready_max{kReadyChannelsHeld};  // one more ready channel is closed

  // What of the session is in each worker; only that worker writes its Place. For the other workers a hint where a
  // ready channel or a waiting visitor is; their sums bound the session.
  struct alignas(64) Place {
    std::atomic<uint32_t> ready{0};
    std::atomic<uint32_t> returning{0};  // pairs whose visitor is gone, and whose channel may come back
    std::atomic<uint32_t> parked{0};
    std::atomic<uint32_t> flowing{0};  // visitors that have a channel
  };
  std::vector<Place> places;  // one for each worker

  // Over all workers: a hint, as its parts change meanwhile.
  uint32_t sum(std::atomic<uint32_t> Place::* cell) const {
    uint32_t count = 0;
    for (const Place& place : places) count += (place.*cell).load(std::memory_order_relaxed);
    return count;
  }
  // Of this session; conns->live counts those of all of the client's sessions.
  uint32_t visitors_live() const { return sum(&Place::parked) + sum(&Place::flowing); }
};

// A tunnel as a worker needs it.
struct EdgeTunnel {
  uint32_t id = 0;     // the edge's own number, unique in the process
  uint32_t index = 0;  // the agent's number for it, in Start
  std::shared_ptr<EdgeSession> session;
  std::shared_ptr<GrpcClient> grpc{};  // instead of a session: the tunnel of an original natrp's client
  std::shared_ptr<TunnelStats> stats{};
};

}  // namespace natrp
