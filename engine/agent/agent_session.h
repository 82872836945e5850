// agent/agent_session.h
//
// AgentSession: what the agent's control thread and its workers share of the session with the edge.
//
// Life     made when Welcome came; gone when the last worker has dropped it. A new session is a new object.
// Thread   any. Tunnels' addresses are replaced whole (a service's name may resolve anew).
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "base/slot_id.h"
#include "control/ticket.h"
#include "net/address.h"

namespace natrp {

// Where the services are; by tunnel index. Never changed once shared.
struct ServiceAddresses {
  struct Service {
    std::string tunnel;
    std::string text;                // as the operator wrote it
    std::vector<Address> addresses;  // empty: none was found
    bool awaited = false;            // its first lookup may find one yet: visitors wait
  };
  std::vector<Service> services;
};

struct AgentSession {
  AgentSession(SlotId session_id, const TicketKey& key, std::vector<Address> edge_addresses)
      : id(session_id), sealer(key), edge(std::move(edge_addresses)) {}

  const SlotId id;
  const TicketSealer sealer;
  const std::vector<Address> edge;          // the one address that the control channel reached
  std::atomic<uint64_t> next_counter{1};    // of tickets; never given twice
};

}  // namespace natrp
