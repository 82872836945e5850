// edge/handed_listeners.h
//
// HandedListeners: listeners of public ports that the edge before this one has handed on. Nobody accepts on one until
// the tunnel that had its port is back; visitors that connect meanwhile wait in the kernel's backlog.
//
// Life     of each: taken ──its tunnel has the lease again──▶ claimed
//                         ──another tunnel has it, 10 s, or the end──▶ closed: visitors that wait are reset
// Thread   the control thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/fd.h"
#include "control/port_lease.h"
#include "net/address.h"

namespace natrp {

class HandedListeners {
 public:
  // leases: as the store has them; a listener whose port is in nobody's lease is closed.
  void take(std::vector<Fd> listeners, const PortLeases& leases, uint64_t now_ms);
  // The listener of this address, if it was handed on for this tunnel. Otherwise none, and one of the same port is
  // closed.
  Fd claim(const Address& address, const std::string& client, const std::string& tunnel);
  bool has(uint16_t port) const { return listeners_.contains(port); }
  // All that no tunnel has claimed yet: the next edge gets them.
  std::vector<Fd> take_all();
  // When their time is over, closes the listeners whose tunnels have not come. Returns their ports.
  std::vector<TunnelPort> expire(uint64_t now_ms);

 private:
  struct Handed {
    Fd fd;
    std::string client;
    std::string tunnel;
  };
  std::map<uint16_t, Handed> listeners_;
  uint64_t ends_ms_ = 0;
};

}  // namespace natrp
