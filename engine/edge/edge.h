// edge/edge.h
//
// Edge: the public side, put together: the workers, the control port, the sessions, the leases, the store. Its code
// is the control thread, which is the process's main thread.
//
// Life     listen() ──▶ start() ──▶ serving ──SIGTERM──▶ draining ──idle, deadline or a second SIGTERM──▶ stopped
//                                  serving ──SIGUSR2, and the successor's --check passes──▶ draining, handing over
//                                          ──nobody waits──▶ made way, the successor runs ──idle or deadline──▶ stopped
// Thread   the control thread, but for EdgeControlPort, which posts letters to it.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/pace.h"
#include "control/registry.h"
#include "control/status_info.h"
#include "control/tls_identity.h"
#include "edge/client_conns.h"
#include "edge/edge_leases.h"
#include "edge/edge_worker.h"
#include "edge/grpc_tunnels.h"
#include "edge/handover.h"
#include "edge/handshake_queue.h"
#include "edge/public_port.h"
#include "edge/registration.h"
#include "edge/session_ids.h"
#include "edge/store_watch.h"
#include "loop/ask.h"
#include "loop/owned.h"
#include "runtime/crew.h"
#include "runtime/options.h"
#include "runtime/process.h"
#include "runtime/start_trim.h"
#include "runtime/successor.h"
#include "store/store.h"

namespace natrp {

class Edge final : public EdgeControlPort {
 public:
  // listeners: those of public ports and of the control port that the edge before this one has handed on.
  explicit Edge(EdgeOptions options, std::vector<Fd> listeners = {});
  ~Edge();
  Edge(const Edge&) = delete;
  Edge& operator=(const Edge&) = delete;

  // Takes the addresses, and no more: a start that cannot have one of them (the admin server's, too) leaves no key and
  // no database behind. On failure, of start() as well, the sentence says what to do.
  Status listen();
  // Opens everything else, or nothing.
  Status start();
  // Says that it is ready, and serves until SIGTERM and the end of the drain. The process's exit code.
  int run(Succession succession = {});

  // For the admin server; any thread.
  std::vector<const Counters*> counters() const;
  const ConnTable& conns() const { return crew_.conns(); }
  size_t sessions_live() const { return sessions_live_.load(std::memory_order_relaxed); }
  // Asks the control thread; nullopt when it does not answer within two seconds, or when it is over.
  std::optional<std::vector<SessionInfo>> list_sessions(const std::atomic<bool>& over = kAnswersCome);
  unsigned workers() const { return options_.workers; }
  // For conns, of all workers together.
  uint64_t slots() const { return uint64_t{slots_per_worker_} * crew_.size(); }
  // The control thread has not run for some seconds, so no agent gets in.
  bool busy() const;
  bool draining() const { return draining_.load(std::memory_order_relaxed); }

  // For registrations.
  Loop& loop() { return *loop_; }
  Store& store() { return *store_; }
  Registry& registry() { return registry_; }
  uint64_t now_ms() const { return loop_->turn_ms(); }
  const std::string& public_address() const { return options_.public_address; }
  SlotId next_session_id() { return session_ids_.next(); }
  uint32_t next_tunnel_id() { return next_tunnel_++; }
  // Empty: the client may open one more session. Else why not.
  std::string why_no_session(const ClientRecord& client) const;
  // An agent of this client has come, perhaps before the watch has told of it: what it leases shall end with it.
  void meet(const ClientRecord& client);
  void open_session(const std::shared_ptr<EdgeSession>& session, Registration& registration);
  Registration* find_registration(SlotId session);
  LeasedPort lease_port(const ClientRecord& client, const std::string& tunnel, PortWish wish, SlotId session,
                        const EdgeTunnel& shared);
  // Whether lease_port() would give one: asked before another agent loses the tunnel for it.
  LeasedPort check_port(const ClientRecord& client, const std::string& tunnel, PortWish wish);
  void close_listener(int listener, Backlog backlog = Backlog::kReset) { ports_->close(listener, backlog); }
  // A public port that was closed is not left by all workers yet: visitors may be on their way to them.
  bool listeners_closing() const { return ports_->closing() > 0; }
  // More data channels of the session are ready than it may hold: closes them.
  void close_surplus(const EdgeSession& session);
  void leases_in_grace(SlotId session) { leases_->session_lost(session); }
  void session_over(SlotId session);
  // A session has begun or ended.
  void count_sessions();
  void forget(Registration& registration);
  void count(Counter counter, uint64_t by = 1) { control_counters_.add(counter, by); }
  ClientConnsTable& client_conns() { return client_conns_; }
  // One line a second, however many strangers try.
  void tell_unknown_token(const std::string& peer, const std::string& software);
  void tell_rejected(const std::string& peer);

  // For the tunnels of original natrp clients.
  const Crew<EdgeWorker>& crew() const { return crew_; }

  // From workers, any thread.
  void take_control_conn(int fd, std::string prefix, uint64_t deadline_ms) override;
  void want_channels(SlotId session, uint32_t count) override;
  void want_grpc_port(uint64_t client) override;
  void listener_landed(int listener_fd) override;

 private:
  using ClientsByName = std::map<std::string, ClientRecord>;
  // Ends the sessions and the workers, whatever they are at. What the admin server reads stays.
  void stop();
  Result<Fd> listen_control();
  Fd take_handed_control();
  Status open_state();
  void restore_leases(const std::vector<ClientRecord>& clients, const std::vector<LeaseRecord>& leases,
                      uint64_t listeners_most);
  static ClientsByName by_name(const std::vector<ClientRecord>& clients);
  void on_clients_changed(std::vector<ClientRecord> clients);
  // Its client is there still, with the same token, or its session ends.
  void update_or_refuse(Registration& registration);
  std::vector<ClientRecord> with_other_limits(const std::vector<ClientRecord>& clients) const;
  const ClientRecord* find_client(const std::string& name, int64_t id) const;
  void forget_removed_clients(ClientsByName now_there);
  void tell_changes(const ClientsByName& now_there) const;
  void honour_limits(const ClientRecord& client);
  void warn_of_useless_ports(const ClientRecord& client) const;
  // The client's registrations that hold a tunnel: first those that are closing, then the latest.
  std::vector<Registration*> holders(const ClientRecord& client);
  void accept_control_conn(int fd, std::string prefix, uint64_t deadline_ms);
  // Begins the handshakes that wait, up to handshakes_most_ under way. _soon: in a later turn, for a registration that
  // asks for it in the middle of something.
  void begin_handshakes_soon();
  void begin_handshakes();
  void begin_handshake(HandshakeQueue::Waiting agent);
  void on_signal(int signal);
  void begin_handover();
  void drain();
  void end_drained_sessions();
  bool over() const;
  void make_way();
  void on_tick();
  void lead();
  void tell_refused();
  void say_ready();

  EdgeOptions options_;
  std::vector<Fd> handed_listeners_;  // until listen() and start()
  Fd state_lock_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<TlsIdentity> identity_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Mailbox> mailbox_;
  Counters control_counters_;
  Crew<EdgeWorker> crew_;
  std::unique_ptr<PublicPorts> ports_;
  std::unique_ptr<EdgeLeases> leases_;
  Registry registry_;
  std::unique_ptr<GrpcTunnels> grpc_;  // nullptr: --natrp-grpc off
  std::vector<std::unique_ptr<Registration>> registrations_;  // with a session, or on the way to one
  HandshakeQueue handshakes_waiting_;
  bool handshakes_due_ = false;
  std::unordered_map<uint64_t, Registration*> by_session_;  // SlotId word
  std::unique_ptr<SignalWatch> signals_;
  std::unique_ptr<StoreWatch> store_watch_;
  ClientsByName clients_;  // as the store had them when it last changed
  OwnedTimer<&Edge::on_tick> tick_{*this};
  std::optional<StartTrim> start_trim_;
  Fd control_socket_;  // from listen() to start()
  int control_listener_ = -1;  // … from then on; ports_ owns it
  std::string bound_;  // where the control port listens, for the log
  ClientConnsTable client_conns_;
  SessionIds session_ids_;
  uint32_t next_tunnel_ = 1;
  Pace pauses_pace_{10 * kLogPaceMs};
  uint64_t pauses_told_ = 0;  // of accept
  Pace accepts_failed_pace_{10 * kLogPaceMs};
  uint64_t accepts_failed_told_ = 0;
  Pace unknown_pace_{kLogPaceMs};
  uint64_t unknown_untold_ = 0;  // tokens since the last line
  Pace rejected_pace_{kLogPaceMs};
  std::vector<SlotId> demanding_;  // sessions that want more channels than their agents have been told
  std::atomic<bool> draining_{false};
  std::atomic<size_t> sessions_live_{0};
  std::atomic<uint64_t> ticked_ms_{0};  // when on_tick() last ran
  uint32_t slots_per_worker_ = 0;
  uint64_t sessions_most_ = 0;
  uint64_t handshakes_most_ = 0;  // under way at a time
  bool stopped_ = false;
  uint64_t drain_deadline_ms_ = 0;
  unsigned workers_flowing_ = 0;
  unsigned workers_waiting_ = 0;  // a visitor of theirs waits for its data channel, or may still come
  bool leads_ = true;  // this edge has the addresses and the state folder, or will have; false once it has made way
  std::unique_ptr<Handover> handover_;  // from run() on
};

}  // namespace natrp
