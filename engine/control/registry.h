// control/registry.h
//
// Registry: which session holds which tunnel, and which one gives way when two want the same. The same agent process
// takes over from itself at once; a session that was silent for kSessionSilentMs gives way; between two living agents
// the newcomer is refused, unless it says replace.
//
// Life     of a session: opened → heard … → closed. Of a tunnel: held by one session, or by none.
// Thread   the control thread. Pure bookkeeping: no sockets, no clock of its own.
// Never    closes a session: it says which one has to go, the edge does it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/slot_id.h"

namespace natrp {

enum class Takeover : uint8_t {
  kNobodyThere,   // nobody has the tunnel
  kOwn,           // the asking session has it already
  kSameInstance,  // the old session was of the same agent process
  kSilent,        // the old session has not been heard of
  kReplaced,      // two living agents, the newcomer says replace
  kRefused,       // two living agents
  kTooMany,       // nobody has it, and the client has as many others as it may
};

// The rule itself. The holder's fields are ignored when there is none.
struct TakeoverQuestion {
  bool held = false;
  bool own = false;
  bool same_instance = false;
  uint64_t holder_silent_ms = 0;
  bool replace = false;
};
Takeover decide_takeover(const TakeoverQuestion& question);

struct TakeoverAnswer {
  Takeover takeover = Takeover::kNobodyThere;
  SlotId loser;          // the session that lost this tunnel; not valid(): none did
  std::string sentence;  // of a refusal
  bool may_change = false;  // of kTooMany: other sessions hold some, and may go
  bool ok() const { return takeover != Takeover::kRefused && takeover != Takeover::kTooMany; }
};

class Registry {
 public:
  // instance: the random bytes that an agent process chose at its start; the same after it reconnects.
  void open_session(SlotId session, std::string client, std::string instance, uint64_t now_ms);
  // Any frame came from its agent.
  void heard(SlotId session, uint64_t now_ms);
  // Nobody holds the session's tunnels any more.
  void close_session(SlotId session);

  // Gives the tunnel to the session, if the rule allows it and the client has fewer than `most` tunnels (0: no limit).
  TakeoverAnswer take_tunnel(SlotId session, const std::string& tunnel, uint32_t most, bool replace, uint64_t now_ms);
  // The session gives the tunnel up. False: it did not hold it.
  bool give_up_tunnel(SlotId session, const std::string& tunnel);

  // Not valid(): nobody.
  SlotId holder(const std::string& client, const std::string& tunnel) const;
  std::vector<SlotId> sessions_of(const std::string& client) const;
  size_t sessions() const { return sessions_.size(); }
  // How many tunnels all sessions of a client hold.
  size_t tunnels_held(const std::string& client) const;

 private:
  struct Session {
    std::string client;
    std::string instance;
    uint64_t heard_ms;
  };
  std::unordered_map<uint64_t, Session> sessions_;                 // by SlotId word
  std::map<std::pair<std::string, std::string>, SlotId> holders_;  // by client and tunnel
};

}  // namespace natrp
