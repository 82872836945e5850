// edge/grpc_tunnels.h
//
// GrpcTunnels: the tunnels of the original natrp's clients, one each, always named `natrp`: their leases, their public
// ports, and the tokens that the workers know.
//
// Life     of a tunnel: none ──first ready stream──▶ live ──no connection of its client for kGrpcAwayMs──▶ its port
//          closes, its lease is in grace ──▶ free. The client's next stream opens the same port again: it is sticky.
//          The original client dials anew for every visitor, after a pause of up to 10 s. Its port stays open
//          meanwhile, and a visitor that comes then waits for the next stream.
// Thread   the control thread.
// Never    shares the tunnel with an agent of today's protocol: the first that has it keeps it (control/registry).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/slot_id.h"
#include "control/status_info.h"
#include "edge/grpc_client.h"
#include "store/store.h"

namespace natrp {

class Edge;

inline constexpr uint64_t kGrpcAwayMs = 15'000;

class GrpcTunnels {
 public:
  // edge outlives this.
  explicit GrpcTunnels(Edge& edge) : edge_(edge) {}

  // All that the store has: tells the workers. At the start, and when the store has changed.
  void set_clients(std::vector<ClientRecord> clients);
  // A stream of the client is ready and its port is not open. The store's id.
  void want_port(uint64_t client);
  // session takes the tunnel over by the registry's rule: closes the port, if it is one of these.
  void give_way(const std::string& client, const std::string& tunnel, SlotId session);
  void tick();
  // Those whose port is open: what the admin pages call their sessions.
  size_t live() const;
  void list_sessions(std::vector<SessionInfo>& out) const;
  // Closes all ports.
  void drain();

 private:
  struct Tunnel {
    ClientRecord client;
    std::shared_ptr<GrpcClient> shared;
    SlotId session;  // what the registry and the leases know it by; valid: the port is open
    int listener = -1;
    uint16_t port = 0;
    uint64_t seen_ms = 0;
    uint64_t refused_ms = 0;
    std::string refusal;
  };
  void open(Tunnel& tunnel);
  void close(Tunnel& tunnel);
  void close_if_not_allowed(Tunnel& tunnel);
  void refuse(Tunnel& tunnel, const std::string& sentence);
  // Empty: the tunnel is the session's now.
  std::string take(Tunnel& tunnel);

  Edge& edge_;
  std::map<uint64_t, Tunnel> tunnels_;  // every client, by the store's id
  bool draining_ = false;
};

}  // namespace natrp
