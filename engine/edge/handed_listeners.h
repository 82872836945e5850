// edge/handed_listeners.h
//
// HandedListeners: listeners of public ports that the edge before this one has handed on. Nobody accepts on them until
// the tunnel is back that had the port; whoever has connected meanwhile waits in the kernel's backlog.
//
// Life     of each: taken ──its tunnel has the lease again──▶ claimed
//                         ──somebody else has it, 10 s, or the end──▶ closed, who waits is reset
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
  // The listener of this address, when it was handed on for the tunnel; else no listener of its port is left here.
  Fd claim(const Address& address, const std::string& client, const std::string& tunnel);
  bool has(uint16_t port) const { return listeners_.contains(port); }
  // All that nobody has claimed yet: the next edge has them.
  std::vector<Fd> take_all();
  // Closes those for which no tunnel came. Their ports.
  std::vector<uint16_t> expire(uint64_t now_ms);

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
