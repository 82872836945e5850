// control/port_lease.h
//
// PortLeases: who has the right to which public port.
//
// Life     of a port: free → reserved (given, its listener not open yet) → live → grace (its session is lost,
//          kept for the same client and tunnel) → free. A port also remembers whom it served last: it is sticky.
// Thread   the control thread. Pure bookkeeping: no sockets, no clock of its own, no disk.
// Never    gives one port to two, nor a port in grace to another, unless its client is removed, may not have it any
//          more, or needs the room for another tunnel.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/port_set.h"
#include "base/slot_id.h"

namespace natrp {

enum class LeaseState : uint8_t { kFree, kReserved, kLive, kGrace };

enum class LeaseRefusal : uint8_t {
  kNone,
  kPortNotAllowed,  // the wanted one, by the edge's --ports or the client's policy: asking again is of no use
  kNoneAllowed,     // none of its policy is one of the edge's: a slip of the edge's operator, who may mend it
  kPortInUse,       // another client or tunnel has it: asking again later may help
  kRangeExhausted,  // likewise
};

// Which port an agent asks for.
struct PortWish {
  uint16_t wanted = 0;  // 0: any
  uint16_t had = 0;     // of any: the one that it says it had last; 0: none
};

struct LeaseRequest {
  std::string client;
  std::string tunnel;
  SlotId session;
  PortWish wish;
  PortSet policy;  // the client's ports; empty: any of the edge's
};

struct LeaseAnswer {
  LeaseRefusal refusal = LeaseRefusal::kNone;
  uint16_t port = 0;      // reserved for the request when it was not refused
  uint16_t released = 0;  // the tunnel's former port, free now: its listener was closed before; 0: none
  std::string sentence;   // of a refusal
  bool ok() const { return refusal == LeaseRefusal::kNone; }
};

struct Lease {
  std::string client;
  std::string tunnel;
  SlotId session;
  LeaseState state = LeaseState::kFree;
  uint64_t grace_ends_ms = 0;
};

// A port, and the tunnel that has it or had it.
struct TunnelPort {
  std::string client;
  std::string tunnel;
  uint16_t port = 0;
};

class PortLeases {
 public:
  PortLeases(PortSet range, uint64_t grace_ms) : range_(std::move(range)), unnamed_(range_), grace_ms_(grace_ms) {}

  // At the start of the edge: what the store remembers, the oldest first. The lease is in grace: its agent may still be
  // on its way back. A port outside of the range is ignored.
  void restore(const std::string& client, const std::string& tunnel, uint16_t port, uint64_t now_ms);
  // Likewise, but the port is free: that it was the tunnel's last port is all that is remembered.
  void remember(const std::string& client, const std::string& tunnel, uint16_t port);

  // The ports that the operator names in the policies of clients. A client without a policy that wants any port gets
  // one of them only where no other is free, or where it has that port already.
  void set_named(const PortSet& named) { unnamed_ = range_.without(named); }

  // The tunnel's own lease, in whatever state, goes over to the new session: who may take over is
  // control/registry's question, asked before.
  // A tunnel that wants any port gets the first of these:
  // 1. the port that it has,
  // 2. the port that it had last, if that is free; where none is remembered (an edge that was killed, or has lost its
  //    store), what its agent says, if that is nobody's last,
  // 3. a free port that nobody had before,
  // 4. the free port that was left longest ago.
  // For a client without a policy 2 to 4 are tried among the ports that no policy names, and then among all.
  LeaseAnswer reserve(const LeaseRequest& request, uint64_t now_ms);
  // What reserve() would answer; nothing is reserved.
  LeaseAnswer ask(const LeaseRequest& request, uint64_t now_ms);
  // Its listener is open. False: the lease is no longer this session's, close the listener.
  bool mark_live(uint16_t port, SlotId session);
  // Its listener could not be opened now, and the port is nobody else's: the lease waits in grace.
  void suspend(uint16_t port, SlotId session, uint64_t now_ms);
  // bind() said that another process has the port. The lease is free; `any` passes it over for kTakenMs.
  void mark_taken(uint16_t port, SlotId session, uint64_t now_ms);
  // The session's leases go into grace. Gives their ports: their listeners close. Leases taken over by a
  // newer session are left alone.
  std::vector<TunnelPort> session_lost(SlotId session, uint64_t now_ms);
  // The client was removed: frees all it has and forgets what it had. Gives the ports of its leases.
  std::vector<TunnelPort> remove_client(const std::string& client);
  // The client may have no other ports than those of policy any more; empty: any. Frees its leases of other ports,
  // whose listeners are closed: a port that the operator took from it is not kept for it. Returns those ports.
  std::vector<TunnelPort> take_away(const std::string& client, const PortSet& policy);
  // Makes room for `tunnel` of a client that may have `most` leases: frees as many of its leases in grace as are too
  // many, the oldest first, but not the lease of `tunnel` itself. Returns their ports.
  std::vector<TunnelPort> make_room(const std::string& client, const std::string& tunnel, uint32_t most);
  // The clients that have a lease, or whose last port is remembered.
  std::set<std::string> clients() const;
  // Ends graces that are over, as other calls do, too. Gives the ports of all that ended since it was last called, for
  // the log.
  std::vector<TunnelPort> expire(uint64_t now_ms);

  // nullptr: free.
  const Lease* find(uint16_t port) const;
  size_t size() const { return leases_.size(); }
  const std::map<uint16_t, Lease>& all() const { return leases_; }
  const PortSet& range() const { return range_; }

  static constexpr uint64_t kTakenMs = 10000;

 private:
  using Owner = std::pair<std::string, std::string>;  // client, tunnel
  struct Sticky {
    Owner owner;
    uint64_t order;  // greater: used later
  };
  bool allowed(const LeaseRequest& request, uint16_t port) const;
  bool is_free_for(const LeaseRequest& request, uint16_t port) const;
  uint16_t last_port_of(const LeaseRequest& request) const;
  // The best of these ports for a tunnel that had none of them; 0: none is free.
  uint16_t best_of(const PortSet& ports, const LeaseRequest& request) const;
  LeaseAnswer reserve_wanted(const LeaseRequest& request) const;
  LeaseAnswer choose_any(const LeaseRequest& request) const;
  LeaseAnswer exhausted(const LeaseRequest& request) const;
  LeaseAnswer none_allowed(const LeaseRequest& request) const;
  void make_sticky(const Owner& owner, uint16_t port);
  void put(uint16_t port, Lease lease);  // of an owner that has none
  TunnelPort drop(uint16_t port);
  template <typename Which>  // bool(port, lease)
  std::vector<TunnelPort> drop_all(Which which);
  void begin_grace(uint16_t port, Lease& lease, uint64_t now_ms);
  void end_graces(uint64_t now_ms);

  PortSet range_;
  PortSet unnamed_;  // the ports of range_ that are in nobody's policy
  uint64_t grace_ms_;
  uint64_t order_ = 0;
  std::map<uint16_t, Lease> leases_;          // every port that is not free
  std::map<Owner, uint16_t> port_of_;         // the same leases by owner,
  std::map<std::string, uint32_t> count_of_;  // … how many each client has,
  std::set<std::pair<uint64_t, uint16_t>> of_sessions_;  // … and those of living sessions: session, port
  uint64_t first_grace_ends_ms_ = UINT64_MAX;  // or later: that lease may be in grace no more
  std::map<uint16_t, Sticky> sticky_;         // a port's last owner …
  std::map<Owner, uint16_t> sticky_port_of_;  // … and an owner's last port; the two always agree
  std::map<uint16_t, uint64_t> taken_until_ms_;
  std::vector<TunnelPort> expired_;  // what expire() has not given yet
};

}  // namespace natrp
