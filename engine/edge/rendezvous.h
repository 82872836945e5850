// edge/rendezvous.h
//
// Rendezvous: in one worker, where a visitor meets a data channel of its session.
//
//     visitor, a channel ready here        → they become a pair at once
//     visitor, a channel ready elsewhere   → it waits; that worker gives its channel away (only idle channels move)
//     visitor, no channel anywhere         → it waits; the agent is asked for one
//     channel, a visitor waits here        → pair;  elsewhere → the channel moves there;  nobody → ready,
//                                            or closed where too many are ready already
//     10 s, or the visitor has left        → edge/parked_visitors ends it
//
// Thread   its worker's.
// Memory   a waiting visitor costs one ParkedVisitor from a pool; a ready channel is a waiting Pair.
#pragma once

#include <memory>
#include <unordered_map>

#include "edge/edge_session.h"
#include "edge/parked_visitors.h"
#include "loop/owned.h"
#include "net/conn_table.h"
#include "relay/pair.h"

namespace natrp {

class EdgeWorker;

class Rendezvous {
 public:
  explicit Rendezvous(EdgeWorker& edge);
  ~Rendezvous();
  Rendezvous(const Rendezvous&) = delete;
  Rendezvous& operator=(const Rendezvous&) = delete;

  void open_session(std::shared_ptr<EdgeSession> session);
  // Its ready channels are closed, its waiting visitors reset; pairs that flow go on.
  void close_session(SlotId id);
  // nullptr: over, or not open here yet.
  EdgeSession* find_session(SlotId id);

  // fd: a visitor of tunnel, just accepted; owned here.
  void take_visitor(int fd, const EdgeTunnel& tunnel);
  // conn: a proven data channel of the session, nothing in flight; owned here.
  void take_channel(Conn& conn, SlotId session);
  // A data channel of the session that came to this worker found no slot in it, and is closed.
  void on_channel_refused(SlotId session);
  // The visitors for whom channels were dialled have left: closes up to count ready channels.
  void close_ready(SlotId session, uint32_t count);
  // Another worker's visitor waits: hands a ready channel over.
  void give_channel(SlotId session, unsigned to_worker);

  // A visitor waits here.
  bool waits() const { return !parked_.empty(); }

  void on_pair_end(Pair& pair);
  void on_pair_unready(Pair& pair);
  // Whether its channel may come back.
  bool on_visitor_gone(Pair& pair);

 private:
  // What this worker knows of a session. Stays until its last pair is over.
  struct Session {
    Session(std::shared_ptr<EdgeSession> its, unsigned worker)
        : shared(std::move(its)), parked(*shared->conns, shared->places[worker].parked) {}
    const std::shared_ptr<EdgeSession> shared;
    ParkedQueue parked;
    PairList ready;
    uint32_t pairs = 0;
    uint32_t refused = 0;  // channels for which no others were asked for yet
    uint32_t returning = 0;  // of these: EdgeSession::Place
    bool closed = false;
  };

  void meet(Session& session, Pair& pair, Conn& visitor, uint32_t tunnel_index, uint64_t deadline_ms);
  void park(Session& session, Conn& conn, uint32_t tunnel_index, uint64_t deadline_ms);
  Pair* pop_ready(Session& session);
  uint32_t free_slots() const;
  bool has_slots_to_spare() const;
  bool may_be_ready(const Session& session) const;
  bool may_return(const Session& session) const;
  Session* find(SlotId id);
  void forget_if_over(uint32_t index);
  void publish(Session& session);
  void count_end(Pair& pair);
  void ask_again();

  EdgeWorker& edge_;
  std::unordered_map<uint32_t, std::unique_ptr<Session>> sessions_;  // by index of the session's SlotId
  uint32_t returning_ = 0;  // of all sessions
  ParkedVisitors parked_;
  OwnedTimer<&Rendezvous::ask_again> again_timer_{*this};
};

}  // namespace natrp
