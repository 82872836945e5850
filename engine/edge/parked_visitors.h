// edge/parked_visitors.h
//
// ParkedVisitors: in one worker, the visitors that wait for a data channel or for a stream.
// ParkedQueue: those of them that wait for one session, or for one original client; the oldest first.
//
// Life     of a visitor: park ──▶ waiting ──unpark──▶ its owner's again
//                                    ├──it has left: looked at once a second──▶ closed, counted
//                                    └──its deadline──▶ reset, counted
// Thread   its worker's.
// Memory   a record from a pool for each visitor that waits; for less than a second, without a system call.
// Bounds   kParkedVisitorsMax in a queue; one more is reset.
// Never    takes a byte of a visitor out of its socket.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/limits.h"
#include "base/record_pool.h"
#include "edge/client_conns.h"
#include "loop/timer_wheel.h"
#include "net/conn_table.h"

namespace natrp {

class ParkedQueue;
class ParkedVisitors;
class EdgeWorker;
class Worker;

struct ParkedVisitor {
  explicit ParkedVisitor(ParkedVisitors& its) : all(&its) {}

  Timer timer;  // first: the handler finds its visitor by a cast
  ListLink link;  // of its queue
  ListLink pool_link;
  ParkedVisitors* const all;
  ParkedQueue* queue = nullptr;
  Conn* conn = nullptr;
  uint64_t deadline_ms = 0;
  uint32_t tunnel_index = 0;
};

class ParkedQueue {
 public:
  // conns: each visitor that ends here leaves it. parked: is set to how many wait here, for other workers to see. Both
  // outlive the queue.
  ParkedQueue(ClientConns& conns, std::atomic<uint32_t>& parked) : conns_(conns), parked_(parked) {}
  ParkedQueue(const ParkedQueue&) = delete;
  ParkedQueue& operator=(const ParkedQueue&) = delete;
  bool empty() const { return list_.empty(); }

 private:
  friend class ParkedVisitors;
  List<ParkedVisitor, &ParkedVisitor::link> list_;
  ClientConns& conns_;
  std::atomic<uint32_t>& parked_;
  uint32_t size_ = 0;
};

class ParkedVisitors {
 public:
  // Which end of a visitor says that it does not want to be served any more.
  enum class Leaves : uint8_t {
    kByReset,   // a FIN alone is half of a close: its other half waits for the answer
    kByAnyEnd,  // a FIN with nothing before it, too: it would end both directions of what it meets
  };
  ParkedVisitors(EdgeWorker& edge, Leaves leaves);
  ParkedVisitors(const ParkedVisitors&) = delete;
  ParkedVisitors& operator=(const ParkedVisitors&) = delete;

  // Until when a visitor that comes now may wait, in the loop's time.
  uint64_t deadline_ms() const;
  // conn: nothing in flight; owned here until unpark(). nullptr: the queue is full, and the visitor was reset.
  ParkedVisitor* park(ParkedQueue& queue, Conn& conn, uint64_t deadline_ms, uint32_t tunnel_index = 0);
  // The visitor that has waited longest; nullptr: nobody waits.
  ParkedVisitor* front(ParkedQueue& queue) { return queue.list_.front(); }
  // Likewise, of those that have not left. A system call for each one that is looked at.
  ParkedVisitor* front_still_there(ParkedQueue& queue);
  // The visitor is the caller's again; parked is gone.
  Conn& unpark(ParkedVisitor& parked);

  // Resets a visitor that may not wait (any more), and counts it as refused.
  void refuse(ParkedQueue& queue, Conn& conn, VisitorRefusal why = VisitorRefusal::kOther);
  void refuse_all(ParkedQueue& queue);
  // In all queues.
  uint32_t size() const { return pool_.taken(); }
  bool empty() const { return size() == 0; }

 private:
  static void on_timer(Timer& timer);
  bool has_left(int fd) const;
  void end(ParkedQueue& queue, Conn& conn);
  void let_go(ParkedVisitor& parked);

  EdgeWorker& edge_;
  Worker& worker_;
  const Leaves leaves_;
  RecordPool<ParkedVisitor, &ParkedVisitor::pool_link> pool_{kRecordsKept};
};

}  // namespace natrp
