// edge/edge_leases.h
//
// EdgeLeases: a lease as agents know it, of its three parts: the right to the port (control/port_lease), the listener
// on it (edge/public_port), and what the store remembers of it (edge/lease_writer).
//
// Thread   the control thread.
// Never    says that a port is leased before it listens.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "base/port_set.h"
#include "base/result.h"
#include "control/control_channel.h"
#include "control/port_lease.h"
#include "edge/edge_session.h"
#include "edge/handed_listeners.h"
#include "edge/lease_writer.h"
#include "edge/public_port.h"
#include "loop/loop.h"
#include "loop/owned.h"
#include "runtime/options.h"
#include "store/store.h"

namespace natrp {

// The client's policy. Empty: any port.
Result<PortSet> ports_of(const ClientRecord& client);
// By its policy.
bool may_have(const ClientRecord& client, uint16_t port);

// The answer to an agent that wants a port.
struct LeasedPort {
  uint16_t port = 0;  // 0: refused
  int listener = -1;
  wire::Refused::Code code = wire::Refused::UNSPECIFIED;
  std::string sentence;
  bool final = false;
};

class EdgeLeases {
 public:
  // All of them outlive this. listeners_most: how many ports may be open at a time.
  EdgeLeases(const EdgeOptions& options, Loop& loop, Store& store, PublicPorts& ports, uint64_t listeners_most);
  ~EdgeLeases();

  // At the start: the leases in the store that were live when the last edge ended are kept for their clients, as many
  // as each may have at once. records: of Store::list_leases. handed: listeners of public ports that the edge
  // before this one has handed on.
  void restore(const std::vector<ClientRecord>& clients, const std::vector<LeaseRecord>& records,
               const std::vector<Fd>& handed);
  // After restore(): takes the same listeners.
  void take_listeners(std::vector<Fd> listeners);
  // The listeners that no tunnel has claimed yet: for the next edge.
  std::vector<Fd> give_up_listeners() { return handed_.take_all(); }
  // All clients, at the start and whenever the store has changed: for PortLeases::set_named.
  void set_clients(const std::vector<ClientRecord>& clients);
  // At the end: the last try to write what the store does not have yet.
  void finish() { writer_.finish(); }

  // Leases a port and listens on it. From then on, visitors of the port belong to shared.
  LeasedPort lease(const ClientRecord& client, const std::string& tunnel, PortWish wish, SlotId session,
                   const EdgeTunnel& shared);
  // What lease() would answer, but for the listener; nothing is leased.
  LeasedPort check(const ClientRecord& client, const std::string& tunnel, PortWish wish);

  // Its leases go into grace.
  void session_lost(SlotId session);
  // The client may have no other ports than these any more; empty: any. The listeners of others have been closed.
  void take_away(const std::string& client, const PortSet& ports);
  // The clients that have a lease, or whose last port is remembered.
  std::set<std::string> clients() const { return leases_.clients(); }
  // The client was removed; another may get its name.
  void end_with_client(const std::string& client);
  // Ends graces that are over.
  void expire();
  // Now and then: writes leases that could not be written when they were given, and once in kLeaseFreshS all live ones.
  void write();

 private:
  Address address_of(uint16_t port) const { return options_.public_bind.with_port(port); }
  Result<Fd> listen(uint16_t port) const;
  void tell_free();
  uint64_t now_ms() const { return loop_.turn_ms(); }

  const EdgeOptions& options_;
  Loop& loop_;
  PublicPorts& ports_;
  const uint64_t listeners_most_;
  PortLeases leases_;
  HandedListeners handed_;
  LeaseWriter writer_;
  OwnedTimer<&EdgeLeases::write> write_soon_{*this};
  uint64_t refreshed_ms_;  // when all live leases were last written
};

}  // namespace natrp
