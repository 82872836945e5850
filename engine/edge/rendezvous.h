// edge/rendezvous.h
//
// Rendezvous: in one worker, where a visitor meets a data channel of its session.
//
//     visitor, a channel ready here        → they become a pair at once
//     visitor, a channel ready elsewhere   → it waits; that worker gives its channel away (only idle channels move)
//     visitor, no channel anywhere         → it waits; the agent is asked for one
//     channel, a visitor waits here        → pair;  elsewhere → the channel moves there;  nobody → ready
//     10 s                                 → the visitor is reset
//
// Thread   its worker's.
// Memory   a waiting visitor costs one ParkedVisitor from a pool; a ready channel is a waiting Pair.
#pragma once

#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/list.h"
#include "edge/edge_session.h"
#include "loop/timer_wheel.h"
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
  EdgeSession* session(SlotId id);

  // fd: a visitor of tunnel, just accepted; owned here.
  void visitor(int fd, const EdgeTunnel& tunnel);
  // conn: a proven data channel of the session, nothing in flight; owned here.
  void channel(Conn& conn, SlotId session);
  // Another worker's visitor waits: hands a ready channel over.
  void give(SlotId session, unsigned to_worker);

  void on_pair_end(Pair& pair);
  void on_pair_unready(Pair& pair);

 private:
  struct Session;
  struct ParkedVisitor {
    Timer timer;  // first: the handler finds its visitor by a cast
    ListLink link;
    Rendezvous* self = nullptr;
    Session* session = nullptr;
    Conn* conn = nullptr;
    uint32_t tunnel_index = 0;
  };
  // What this worker knows of a session. Stays until its last pair is over.
  struct Session {
    std::shared_ptr<EdgeSession> shared;
    PairList ready;
    List<ParkedVisitor, &ParkedVisitor::link> parked;
    uint32_t pairs = 0;
    uint32_t parked_count = 0;
    bool closed = false;
  };

  static void on_parked_timeout(Timer& timer);
  void meet(Session& session, Pair& pair, Conn& visitor, uint32_t tunnel_index);
  void park(Session& session, Conn& conn, uint32_t tunnel_index);
  Conn* unpark(Session& session, ParkedVisitor& parked);
  void refuse(Conn& conn);
  void left(Session& session);
  Pair* pop_ready(Session& session);
  Session* find(SlotId id);
  void forget_if_over(uint32_t index);
  void publish(Session& session);

  EdgeWorker& edge_;
  std::unordered_map<uint32_t, std::unique_ptr<Session>> sessions_;  // by index of the session's SlotId
  std::deque<ParkedVisitor> parked_pool_;
  std::vector<ParkedVisitor*> parked_free_;
};

}  // namespace natrp
