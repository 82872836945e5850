#include "edge/edge.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/version.h"
#include "net/socket.h"
#include "store/state_dir.h"

namespace natrp {
namespace {

constexpr uint32_t kTickMs = 250;
constexpr uint32_t kBusyMs = 3000;  // without a tick: several times what a slow disk takes for the store
static_assert(kStoreWaitMs * 4 < static_cast<int>(kTickMs), "a store that another program holds leaves most of it");
// Tries, 20 ms apart, to listen where an edge was killed a moment ago.
constexpr unsigned kRestartTries = 50;

}  // namespace

Edge::Edge(EdgeOptions options, std::vector<Fd> listeners)
    : options_(std::move(options)), handed_listeners_(std::move(listeners)) {}

Edge::~Edge() { stop(); }

void Edge::stop() {
  signals_.reset();
  if (store_watch_) store_watch_->stop();
  handshakes_waiting_ = {};
  for (auto& registration : registrations_) registration->close("the edge stops");
  if (loop_) {
    loop_->land_until([this] { return registrations_.empty() && (!store_watch_ || store_watch_->landed()); });
  }
  crew_.stop();
  handover_.reset();
  if (leases_ && leads_) leases_->finish();
}

// --- Start --------------------------------------------------------------------------------------------------------

Status Edge::listen() {
  // A second edge of the same folder hears of the first, and not of its port.
  if (Status free = check_state_dir_is_free(options_.state_dir); !free.ok()) return free;
  // The control path is cold: epoll serves it, and costs no ring's memory.
  auto loop = make_loop(IoKind::kEpoll);
  if (!loop.ok()) return loop.error();
  loop_ = std::move(loop.value().loop);
  mailbox_ = std::make_unique<Mailbox>(*loop_);
  auto listener = listen_control();
  if (!listener.ok()) return listener.error();
  if (auto probe = listen_on(options_.public_bind.with_port(0), {}, 1); !probe.ok()) {
    return Error{"--public-bind: " + probe.error().message};
  }
  control_socket_ = std::move(listener).value();
  bound_ = local_address(control_socket_.get()).text();
  return Done{};
}

Status Edge::start() {
  auto signals = open_signals();
  if (!signals.ok()) return signals.error();
  if (Status opened = open_state(); !opened.ok()) return opened;
  const uint64_t descriptors = raise_descriptor_limit();
  slots_per_worker_ = conns_for_descriptors(descriptors, options_.workers);
  sessions_most_ = session_descriptors(descriptors);
  handshakes_most_ = std::min<uint64_t>(kHandshakesMax, sessions_most_);
  const auto make_role = [this](Worker& worker) {
    return std::make_unique<EdgeWorker>(worker, *this, options_.natrp_grpc, crew_);
  };
  if (Status started = crew_.start(options_, slots_per_worker_, make_role); !started.ok()) return started;
  // Behind what may fail: who hands over to us takes the lock for our word that we serve, and gives up what we would
  // need for another try (edge/handover).
  auto lock = lock_state_dir(options_.state_dir);
  if (!lock.ok()) return lock.error();
  state_lock_ = std::move(lock).value();
  store_watch_ = std::make_unique<StoreWatch>(*loop_, *store_, options_.state_dir, [this](auto clients) {
    on_clients_changed(std::move(clients));
  });
  auto clients = store_watch_->read();
  if (!clients.ok()) return clients.error();
  const auto leases = store_->list_leases();
  if (!leases.ok()) return leases.error();
  ports_ = std::make_unique<PublicPorts>(crew_);
  restore_leases(clients.value(), leases.value(), descriptors / 8);
  store_watch_->begin();
  if (options_.natrp_grpc) {
    log_warning("natrp-grpc is on: original natrp clients send their tokens and their visitors' bytes in the clear",
                {});
    grpc_ = std::make_unique<GrpcTunnels>(*this);
    grpc_->set_clients(std::move(clients).value());
  }
  store_->wait_at_most(kStoreWaitMs);  // from here on agents wait for what this thread waits for
  control_listener_ = ports_->open_control(std::move(control_socket_));
  signals_ = std::make_unique<SignalWatch>(
      *loop_, std::move(signals).value(),
      [](void* self, int signal) { static_cast<Edge*>(self)->on_signal(signal); }, this);
  loop_->timers().arm(tick_, kTickMs);
  ticked_ms_ = natrp::now_ms();
  start_trim_.emplace(*loop_);
  return Done{};
}

Result<Fd> Edge::listen_control() {
  if (Fd handed = take_handed_control(); handed.valid()) return handed;
  const SocketOptions control_options{.piggyback_acks = true};
  auto listener = listen_on(options_.bind, control_options, kListenBacklog);
  // An edge that was killed is gone before the kernel has ended its rings, and they hold its listeners: its restart
  // has to wait that moment, not to fail.
  for (unsigned tries = 0;
       !listener.ok() && listener.error().errno_value == EADDRINUSE && tries < kRestartTries; ++tries) {
    loop_->run_once(20);
    listener = listen_on(options_.bind, control_options, kListenBacklog);
  }
  return listener;
}

// Agents have come meanwhile, and wait in its backlog. Others that overlap are in the way of ours.
Fd Edge::take_handed_control() {
  Fd ours;
  std::vector<Fd> others;
  for (Fd& each : handed_listeners_) {
    const Address address = local_address(each.get());
    if (!overlap(address, options_.bind)) {
      others.push_back(std::move(each));
    } else if (address.text() == options_.bind.text()) {
      ours = std::move(each);
    } else {
      stop_listening(each.get());
    }
  }
  handed_listeners_ = std::move(others);
  return ours;
}

// Without the lock, as natrpctl does it beside any edge.
Status Edge::open_state() {
  if (Status made = make_private_state_dir(options_.state_dir); !made.ok()) return made;
  const bool lost_its_store = TlsIdentity::find_pin(options_.state_dir) && !Store::exists(options_.state_dir);
  auto identity = TlsIdentity::load_or_create(options_.state_dir);
  if (!identity.ok()) return identity.error();
  identity_ = std::make_unique<TlsIdentity>(std::move(identity).value());
  auto store = Store::open(options_.state_dir);
  if (!store.ok()) return store.error();
  store_ = std::make_unique<Store>(std::move(store).value());
  if (lost_its_store) {
    log_warning("the state folder has a key and no natrp.db: this edge knows no clients, and agents of former ones are "
                "refused, and end. Restore it from a backup if there were any",
                {{"state", options_.state_dir}});
  }
  return Done{};
}

void Edge::restore_leases(const std::vector<ClientRecord>& clients, const std::vector<LeaseRecord>& leases,
                          uint64_t listeners_most) {
  leases_ = std::make_unique<EdgeLeases>(options_, *loop_, *store_, *ports_, listeners_most);
  leases_->restore(clients, leases, handed_listeners_);
  leases_->take_listeners(std::move(handed_listeners_));
  leases_->set_clients(clients);
  for (const ClientRecord& client : clients) warn_of_useless_ports(client);
  forget_removed_clients(by_name(clients));
}

void Edge::say_ready() {
  log_info("edge ready", {{"version", kVersion},
                          {"pid", static_cast<int>(::getpid())},
                          {"bind", bound_},
                          {"ports", options_.ports.format_short()},
                          {"io", crew_.worker(0).loop_name()},
                          {"workers", options_.workers},
                          {"slots", slots()},
                          {"state", options_.state_dir},
                          {"pin", format_pin(identity_->pin())}});
  notify_systemd("READY=1");
  if (clients_.empty()) {
    log_info("no clients yet; add one with: natrpctl --state " + options_.state_dir + " client add NAME", {});
  }
}

// --- Sessions -----------------------------------------------------------------------------------------------------

void Edge::take_control_conn(int fd, std::string prefix, uint64_t deadline_ms) {
  mailbox_->post([this, fd, prefix = std::move(prefix), deadline_ms] { accept_control_conn(fd, prefix, deadline_ms); });
}

void Edge::accept_control_conn(int fd, std::string prefix, uint64_t deadline_ms) {
  HandshakeQueue::Waiting agent{Fd(fd), std::move(prefix), deadline_ms};
  // Nobody waits for a session that there cannot be. Each has a descriptor, and no more are meant for them.
  if (registrations_.size() + handshakes_waiting_.size() >= sessions_most_ + handshakes_most_) {
    return count(Counter::kHandshakesRefused);
  }
  handshakes_waiting_.add(std::move(agent));
  begin_handshakes();
}

void Edge::begin_handshakes_soon() {
  if (handshakes_waiting_.empty() || std::exchange(handshakes_due_, true)) return;
  mailbox_->post([this] {
    handshakes_due_ = false;
    begin_handshakes();
  });
}

void Edge::begin_handshakes() {
  control_counters_.add(Counter::kHelloTimeouts, handshakes_waiting_.expire(now_ms()));
  while (!handshakes_waiting_.empty() && registrations_.size() - by_session_.size() < handshakes_most_) {
    begin_handshake(handshakes_waiting_.take());
  }
}

void Edge::begin_handshake(HandshakeQueue::Waiting agent) {
  // Not on the listener: data channels come by it too, and must not have it.
  apply_options(agent.fd.get(), AF_INET, {.user_timeout = true});
  registrations_.push_back(std::make_unique<Registration>(*this, std::move(agent.fd), TlsStream::server(*identity_),
                                                          agent.prefix, agent.deadline_ms));
}

// A session needs no tunnel, and costs a descriptor and some 40 KB for as long as its agent lives: without a bound one
// token takes the whole edge.
std::string Edge::why_no_session(const ClientRecord& client) const {
  if (by_session_.size() >= sessions_most_) {
    return "this edge has " + std::to_string(by_session_.size()) +
           " sessions, as many as its descriptor limit allows; its operator can raise that";
  }
  if (client.tunnels_max == 0) return {};
  const uint64_t most = uint64_t{2} * client.tunnels_max + kSessionsSpare;
  if (registry_.sessions_of(client.name).size() < most) return {};
  return "client '" + client.name + "' has " + std::to_string(most) + " sessions, more than its " +
         std::to_string(client.tunnels_max) + " tunnels need: stop some of its agents";
}

void Edge::open_session(const std::shared_ptr<EdgeSession>& session, Registration& registration) {
  session_ids_.remember(session->id, session);
  by_session_[session->id.word] = &registration;
  count_sessions();
  begin_handshakes_soon();
  start_trim_->soon();
  crew_.post_to_all([session](EdgeWorker& role) { role.open_session(session); });
}

Registration* Edge::find_registration(SlotId session) {
  const auto at = by_session_.find(session.word);
  return at != by_session_.end() ? at->second : nullptr;
}

void Edge::count_sessions() {
  sessions_live_.store(by_session_.size() + (grpc_ ? grpc_->live() : 0), std::memory_order_relaxed);
}

void Edge::session_over(SlotId session) {
  registry_.close_session(session);
  leases_->session_lost(session);
  by_session_.erase(session.word);
  count_sessions();
  crew_.post_to_all([session](EdgeWorker& role) { role.close_session(session); });
}

void Edge::close_surplus(const EdgeSession& session) {
  const uint32_t most = session.ready_max.load(std::memory_order_relaxed);
  const uint32_t ready = session.sum(&EdgeSession::Place::ready);
  uint32_t left = ready > most ? ready - most : 0;
  for (size_t i = 0; i < crew_.size() && left > 0; ++i) {
    const uint32_t count = std::min(left, session.places[i].ready.load(std::memory_order_relaxed));
    left -= count;
    crew_.post(i, [id = session.id, count](EdgeWorker& role) { role.close_ready(id, count); });
  }
}

void Edge::tell_unknown_token(const std::string& peer, const std::string& software) {
  if (!unknown_pace_.due(now_ms())) {
    ++unknown_untold_;
    return;
  }
  log_warning("agent refused: unknown token",
              {{"peer", peer}, {"software", software}, {"others_before", std::exchange(unknown_untold_, 0)}});
}

// As where the state folder was lost or moved: its agents end, and nobody sees their logs here.
void Edge::tell_rejected(const std::string& peer) {
  if (!rejected_pace_.due(now_ms())) return;
  log_warning("an agent does not take this edge for its own, and left: it was given another key's pin, or another CA",
              {{"peer", peer}, {"pin", format_pin(identity_->pin())}});
}

void Edge::forget(Registration& registration) {
  const auto at = std::find_if(registrations_.begin(), registrations_.end(),
                               [&](const auto& each) { return each.get() == &registration; });
  NATRP_CHECK(at != registrations_.end(), "a registration is forgotten once");
  registrations_.erase(at);
  begin_handshakes_soon();
}

void Edge::want_channels(SlotId session, uint32_t count) {
  mailbox_->post([this, session, count] {
    Registration* registration = find_registration(session);
    if (registration == nullptr) return;
    registration->want_channels(count);
    demanding_.push_back(session);
    if (demanding_.size() > 1) return;
    // Behind the letters that are here already: one message asks for the channels of all their visitors.
    mailbox_->post([this] {
      for (const SlotId each : std::exchange(demanding_, {})) {
        if (Registration* wanting = find_registration(each)) wanting->adjust_demand();
      }
    });
  });
}

void Edge::want_grpc_port(uint64_t client) {
  mailbox_->post([this, client] { grpc_->want_port(client); });
}

void Edge::listener_landed(int listener_fd) {
  mailbox_->post([this, listener_fd] {
    ports_->landed(listener_fd);
    if (!listeners_closing()) end_drained_sessions();
  });
}

// --- Leases -------------------------------------------------------------------------------------------------------

LeasedPort Edge::check_port(const ClientRecord& client, const std::string& tunnel, PortWish wish) {
  return leases_->check(client, tunnel, wish);
}

LeasedPort Edge::lease_port(const ClientRecord& client, const std::string& tunnel, PortWish wish, SlotId session,
                            const EdgeTunnel& shared) {
  if (grpc_) grpc_->give_way(client.name, tunnel, session);
  return leases_->lease(client, tunnel, wish, session, shared);
}

// --- For the admin server -----------------------------------------------------------------------------------------

std::vector<const Counters*> Edge::counters() const {
  std::vector<const Counters*> sets{&control_counters_};
  for (const auto& worker : crew_.workers()) sets.push_back(&worker->counters());
  return sets;
}

// By its ticks, and not with a question: many may ask, and a thread that does not run would have all of it to answer.
bool Edge::busy() const { return natrp::now_ms() > ticked_ms_.load(std::memory_order_relaxed) + kBusyMs; }

std::optional<std::vector<SessionInfo>> Edge::list_sessions(const std::atomic<bool>& over) {
  return ask(*mailbox_, over, [this] {
    std::vector<SessionInfo> list;
    for (const auto& registration : registrations_) {
      if (registration->session().valid()) list.push_back(registration->info());
    }
    if (grpc_) grpc_->list_sessions(list);
    return list;
  });
}

// --- Time and signals ---------------------------------------------------------------------------------------------

void Edge::on_tick() {
  loop_->timers().arm(tick_, kTickMs);
  ticked_ms_.store(natrp::now_ms(), std::memory_order_relaxed);
  log_catch_up();
  begin_handshakes();
  if (leads_) lead();
  if (handover_) handover_->tick();
  end_drained_sessions();
  tell_refused();
  if (draining_ && !stopped_ && now_ms() >= drain_deadline_ms_) {
    log_warning("drain deadline: visitors that still flow are cut off", {{"workers", workers_flowing_}});
    stopped_ = true;
  }
}

// What only the edge does that has the addresses and the state folder, each tick.
void Edge::lead() {
  leases_->expire();
  for (auto& registration : registrations_) registration->tick();
  if (grpc_) grpc_->tick();
  store_watch_->look();
  leases_->write();
}

void Edge::tell_refused() {
  uint64_t pauses = 0;
  uint64_t failed = 0;
  for (const auto& worker : crew_.workers()) {
    pauses += worker->counters().get(Counter::kAcceptPauses);
    failed += worker->counters().get(Counter::kAcceptsFailed);
  }
  client_conns_.tell_refused(now_ms());
  if (pauses != pauses_told_ && pauses_pace_.due(now_ms())) {
    log_warning("no descriptor was left for agents and visitors that came, and they wait: raise the limit of open "
                "files",
                {{"pauses", pauses - std::exchange(pauses_told_, pauses)}});
  }
  if (failed != accepts_failed_told_ && accepts_failed_pace_.due(now_ms())) {
    log_error("the kernel refuses accept(2), and agents and visitors that came wait: SELinux, a seccomp profile or "
              "another security module may forbid it",
              {{"times", failed - std::exchange(accepts_failed_told_, failed)}});
  }
}

int Edge::run(Succession succession) {
  handover_ = std::make_unique<Handover>(*loop_, options_, std::move(succession));
  say_ready();
  start_trim_->soon();
  while (!over()) {
    loop_->run_once(-1);
    // Not in a handler: it runs the loop.
    if (handover_->is_due(workers_waiting_ == 0 || stopped_)) make_way();
  }
  stop();
  log_info("edge stopped", {{"pid", static_cast<int>(::getpid())}});
  return 0;
}

}  // namespace natrp
