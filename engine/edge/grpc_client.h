// edge/grpc_client.h
//
// GrpcClient: what the control thread and the workers share of one client of the original natrp: who it is, and where
// its agents, its ready streams and its waiting visitors are. Immutable but for the atomics.
// GrpcTokens: who every token is of, as it was when the store last changed. A new one is made for each change.
//
// Life     made by the control thread when it first reads the client in the store; gone when the last worker that
//          served it has forgotten it.
// Thread   any.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/limits.h"
#include "control/auth.h"
#include "edge/client_conns.h"
#include "edge/tunnel_stats.h"

namespace natrp {

struct GrpcClient {
  GrpcClient(int64_t store_id, std::string client_name, uint32_t tunnel_id, size_t workers,
             std::shared_ptr<ClientConns> client_conns = std::make_shared<ClientConns>())
      : id(store_id),
        name(std::move(client_name)),
        tunnel(tunnel_id),
        conns(std::move(client_conns)),
        stats(std::make_shared<TunnelStats>(workers)),
        places(workers) {}

  const int64_t id;  // the store's: never given again
  const std::string name;
  const uint32_t tunnel;             // the edge's own number of its tunnel
  std::atomic<bool> leased{false};   // its public port is open
  std::atomic<bool> removed{false};  // it is not in the store any more
  const std::shared_ptr<ClientConns> conns;
  const std::shared_ptr<TunnelStats> stats;  // of its tunnel, over all of its leases

  // Each Place is written by one worker. When two workers publish at the same moment what they have, and then look what
  // the others have, at least one of them sees the other: all accesses are sequentially consistent.
  struct alignas(64) Place {
    std::atomic<uint32_t> ready{0};
    std::atomic<uint32_t> parked{0};
    std::atomic<uint32_t> flowing{0};  // visitors that have a stream
    std::atomic<uint32_t> agents{0};  // connections that have shown its token
  };
  std::vector<Place> places;  // one for each worker

  uint32_t agents() const {
    uint32_t count = 0;
    for (const Place& place : places) count += place.agents.load();
    return count;
  }
  // By this protocol; conns->live counts those of the client's sessions, too.
  uint32_t visitors_live() const {
    uint32_t count = 0;
    for (const Place& place : places) count += place.parked.load() + place.flowing.load();
    return count;
  }
};

struct GrpcTokens {
  // The keys are hashes already.
  struct FirstWord {
    size_t operator()(const Sha256& hash) const {
      size_t word;
      std::memcpy(&word, hash.data(), sizeof word);
      return word;
    }
  };
  // By SHA-256 of a join token's secret, or of a plain token's text. How long a search takes tells something of a hash
  // and nothing of a token: both are 256 random bits.
  std::unordered_map<Sha256, std::shared_ptr<GrpcClient>, FirstWord> clients;
  // Those, by the store's id, whose tokens are others than before: what was opened with the old ones ends.
  std::unordered_set<uint64_t> rotated;
};

}  // namespace natrp
