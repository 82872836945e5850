// edge/edge_worker.h
//
// EdgeWorker: the edge's part of one worker: accepts visitors on the public ports and conns on the control port,
// reads first bytes (unproven_conns), and lets visitors and data channels meet (rendezvous).
//
// Thread   its worker's. The control thread reaches it by letters, and is reached through EdgeControlPort.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "edge/edge_session.h"
#include "edge/grpc_agents.h"
#include "edge/rendezvous.h"
#include "edge/tunnels_here.h"
#include "edge/unproven_conns.h"
#include "net/acceptor.h"
#include "runtime/crew.h"
#include "runtime/idle_waiters.h"
#include "runtime/worker.h"

namespace natrp {

// What a worker asks of the control thread. Called from workers; implementations post letters.
class EdgeControlPort {
 public:
  // A conn on the control port began with TLS. fd is handed over. Its session has to be open by deadline_ms.
  virtual void take_control_conn(int fd, std::string prefix, uint64_t deadline_ms) = 0;
  // Visitors of the session wait: dial count channels now.
  virtual void want_channels(SlotId session, uint32_t count) = 0;
  // A client of the original natrp has a ready stream, and no port yet. The store's id.
  virtual void want_grpc_port(uint64_t client) = 0;
  // The worker has no acceptor on this listener any more.
  virtual void listener_landed(int listener_fd) = 0;

 protected:
  ~EdgeControlPort() = default;
};

class EdgeWorker final : public WorkerRole {
 public:
  EdgeWorker(Worker& worker, EdgeControlPort& control, bool grpc, const Crew<EdgeWorker>& crew);
  ~EdgeWorker() override;

  // Letters from the control thread.
  void open_session(std::shared_ptr<EdgeSession> session);
  void close_session(SlotId session);
  void close_ready(SlotId session, uint32_t count) { rendezvous_.close_ready(session, count); }
  void open_control_listener(int listener_fd);
  void open_public_port(int listener_fd, EdgeTunnel tunnel);
  void close_listener(int listener_fd);
  // fd: accepted on a public port of tunnel; owned here.
  void take_visitor(int fd, const EdgeTunnel& tunnel);
  // Calls done (in this thread) when nothing flows any more, and no port closes.
  void when_idle(std::function<void()> done);
  // … when no visitor waits for its data channel, and none can come any more.
  void when_nobody_waits(std::function<void()> done);

  // Letters from other workers.
  void take_channel(int fd, SlotId session);
  void give_channel(SlotId session, unsigned to_worker);

  // From unproven_conns.
  void on_channel(Conn& conn, SlotId session, const uint8_t* hello);
  void on_control_conn(Conn& conn, std::string prefix, uint64_t deadline_ms);
  void on_grpc_conn(Conn& conn, std::string_view prefix);

  void on_pair_end(Pair& pair) override;
  void on_pair_unready(Pair& pair) override;
  bool on_visitor_gone(Pair& pair) override;

  Worker& worker() { return worker_; }
  EdgeControlPort& control() { return control_; }
  // nullptr: --natrp-grpc off, or the worker ends.
  GrpcAgents* grpc() { return grpc_.get(); }
  TunnelsHere& tunnels() { return tunnels_; }
  // Resets a visitor that has no conn yet, and counts it as refused. It was counted by conns.enter(), and so was why
  // (ClientConns::refuse).
  void turn_away(int fd, uint32_t tunnel, ClientConns& conns);
  // Something has ended: wakes those that wait for the last of it.
  void check_idle();
  // All workers, this one among them.
  const Crew<EdgeWorker>& crew() const { return crew_; }

 private:
  struct Port {
    EdgeWorker* self = nullptr;
    int listener_fd = -1;
    EdgeTunnel tunnel;  // session empty: the control port
    std::unique_ptr<Acceptor> acceptor;
  };
  static void on_control_accept(void* port, int fd);
  static void on_visitor_accept(void* port, int fd);
  static void on_port_landed(void* port);
  void share_what_comes(Port& port);
  void add_port(int listener_fd, EdgeTunnel tunnel, Acceptor::OnAccept on_accept);

  Worker& worker_;
  EdgeControlPort& control_;
  const Crew<EdgeWorker>& crew_;
  IdleWaiters nobody_waits_waiters_;
  IdleWaiters idle_waiters_;  // declared before the members whose ends call check_idle()
  TunnelsHere tunnels_;
  Rendezvous rendezvous_;
  UnprovenConns unproven_;
  std::unique_ptr<GrpcAgents> grpc_;
  std::unordered_map<int, std::unique_ptr<Port>> ports_;  // by listener
  unsigned ports_closing_ = 0;                            // of these; visitors may still come by them
};

}  // namespace natrp
