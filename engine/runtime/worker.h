// runtime/worker.h
//
// Worker: one thread, and all that it owns: a loop, a shard of the connection table, a pipe pool, a pair table,
// counters, a mailbox. It has no logic: the role (edge or agent) lives in it as a WorkerRole.
//
// Life     start() ──▶ running ──stop()──▶ joined. Everything inside is made and destroyed in the thread.
// Thread   start(), stop(): the control thread. From start() to stop() any thread may post to mailbox(), and read
//          counters(), index(), loop_name() and conns().live(). The rest: the worker.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/counters.h"
#include "loop/loop.h"
#include "loop/mailbox.h"
#include "net/conn_table.h"
#include "relay/pair.h"

namespace natrp {

class Worker;

// What a role does in one worker. Made and destroyed in the worker's thread, where all its functions run.
class WorkerRole {
 public:
  virtual ~WorkerRole() = default;
  // A pair is over (PairTable::Events::on_end); its slot is free after this.
  virtual void on_pair_end(Pair& pair) = 0;
  // A ready data channel is ending: take it out of its list.
  virtual void on_pair_unready(Pair& pair) = 0;
  // Edge: a visitor is over. Whether its pair shall wait for its data channel to come back.
  virtual bool on_visitor_gone(Pair&) { return false; }
  // Agent: whether the data channel of a pair that is over shall be kept for the next visitor.
  virtual bool may_keep_channel(const Pair&) { return false; }
};

struct WorkerSetup {
  unsigned index = 0;
  unsigned workers = 1;
  IoKind io = IoKind::kAuto;
  PumpKind pump = PumpKind::kAuto;
  unsigned pipes_max = 0;
  bool brief_wait = true;
  ConnShard* conns = nullptr;
  std::function<std::unique_ptr<WorkerRole>(Worker&)> make_role;
};

class Worker {
 public:
  explicit Worker(WorkerSetup setup);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Starts the thread and waits until its loop runs. The result: why the loop fell back to epoll, or empty.
  Result<std::string> start();
  // Asks the thread to end, and waits. Every pair must have ended, or is ended by force here.
  void stop();

  unsigned index() const { return setup_.index; }
  const char* loop_name() const { return loop_name_; }
  Mailbox& mailbox() { return *mailbox_; }
  Counters& counters() { return counters_; }
  const Counters& counters() const { return counters_; }

  // The worker's own thread only, but for conns().live().
  Loop& loop() { return *loop_; }
  ConnShard& conns() { return *setup_.conns; }
  PairTable& pairs() { return *pairs_; }
  RelayContext& relay() { return *relay_; }
  // The end of a conn that is in no pair: closes its socket, releases its slot. Nothing is in flight on it.
  void close(Conn& conn, CloseWith with) {
    loop_->close(conn.fd, with);
    conns().release(conn);
  }
  // Likewise, but its socket goes on elsewhere: the descriptor is the caller's.
  int let_go(Conn& conn) {
    const int fd = conn.fd;
    loop_->let_go(fd);
    conns().release(conn);
    return fd;
  }

 private:
  void run(const std::function<void(Result<std::string>)>& started);
  void end_everything();

  WorkerSetup setup_;
  Counters counters_;
  const char* loop_name_ = "";
  std::thread thread_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Mailbox> mailbox_;
  std::unique_ptr<PipePool> pipes_;
  std::unique_ptr<RelayContext> relay_;
  std::unique_ptr<PairTable> pairs_;
  std::unique_ptr<WorkerRole> role_;
  bool stopping_ = false;
};

}  // namespace natrp
