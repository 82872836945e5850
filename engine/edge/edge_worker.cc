#include "edge/edge_worker.h"

#include <algorithm>

#include "base/check.h"
#include "base/limits.h"
#include "net/socket.h"

namespace natrp {

EdgeWorker::EdgeWorker(Worker& worker, EdgeControlPort& control, bool grpc, const Crew<EdgeWorker>& crew)
    : worker_(worker),
      control_(control),
      crew_(crew),
      tunnels_(worker.index()),
      rendezvous_(*this),
      unproven_(*this, grpc) {
  if (grpc) grpc_ = std::make_unique<GrpcAgents>(*this);
}

EdgeWorker::~EdgeWorker() {
  nobody_waits_waiters_ = {};
  idle_waiters_ = {};
  for (auto& [fd, port] : ports_) {
    if (!port->acceptor->stopping()) port->acceptor->stop(nullptr, nullptr);
  }
  grpc_.reset();
  // Their ops land within a turn; acceptors must not be destroyed before.
  for (int turn = 0; turn < 20; ++turn) worker_.loop().run_once(1);
}

void EdgeWorker::open_session(std::shared_ptr<EdgeSession> session) { rendezvous_.open_session(std::move(session)); }

void EdgeWorker::close_session(SlotId session) { rendezvous_.close_session(session); }

// --- Listeners ----------------------------------------------------------------------------------------------------

void EdgeWorker::add_port(int listener_fd, EdgeTunnel tunnel, Acceptor::OnAccept on_accept) {
  auto port = std::make_unique<Port>();
  port->self = this;
  port->listener_fd = listener_fd;
  port->tunnel = std::move(tunnel);
  port->acceptor = std::make_unique<Acceptor>(worker_.loop(), worker_.counters(), listener_fd, on_accept, port.get());
  port->acceptor->start();
  ports_[listener_fd] = std::move(port);
}

void EdgeWorker::open_control_listener(int listener_fd) { add_port(listener_fd, {}, on_control_accept); }

void EdgeWorker::open_public_port(int listener_fd, EdgeTunnel tunnel) {
  tunnels_.hold(tunnel.id, tunnel.stats);
  add_port(listener_fd, std::move(tunnel), on_visitor_accept);
}

void EdgeWorker::close_listener(int listener_fd) {
  const auto at = ports_.find(listener_fd);
  if (at == ports_.end()) return control_.listener_landed(listener_fd);
  ++ports_closing_;
  at->second->acceptor->stop(on_port_landed, at->second.get());
}

void EdgeWorker::on_port_landed(void* context) {
  Port& port = *static_cast<Port*>(context);
  EdgeWorker& self = *port.self;
  const int fd = port.listener_fd;
  self.tunnels_.let_go(port.tunnel.id);
  self.ports_.erase(fd);
  --self.ports_closing_;
  self.control_.listener_landed(fd);
  self.check_idle();
}

void EdgeWorker::on_control_accept(void* context, int fd) {
  Port& port = *static_cast<Port*>(context);
  port.self->unproven_.add(fd);
  port.self->share_what_comes(port);
}

void EdgeWorker::on_visitor_accept(void* context, int fd) {
  Port& port = *static_cast<Port*>(context);
  port.self->take_visitor(fd, port.tunnel);
  port.self->share_what_comes(port);
}

// A worker with more conns than the others lets them accept first. Without this the kernel gives all visitors of an
// idle edge to one worker, until its slots or its processor are full.
void EdgeWorker::share_what_comes(Port& port) {
  const uint32_t own = worker_.conns().live();
  uint32_t least = own;
  for (const auto& each : crew_.workers()) least = std::min(least, each->conns().live());
  if (own > least + kConnsAhead + least / kConnsAheadShare) port.acceptor->step_back();
}

void EdgeWorker::take_visitor(int fd, const EdgeTunnel& tunnel) {
  if (!tunnel.session && !grpc_) return worker_.loop().close(fd, CloseWith::kReset);
  tunnels_.visitor_came(tunnel.id, tunnel.stats);
  if (tunnel.session) return rendezvous_.take_visitor(fd, tunnel);
  grpc_->take_visitor(fd, tunnel.grpc);
}

void EdgeWorker::turn_away(int fd, uint32_t tunnel, ClientConns& conns) {
  conns.leave();
  worker_.counters().add(Counter::kVisitorsRefused);
  tunnels_.visitor_refused(tunnel);
  tunnels_.visitor_over(tunnel);
  worker_.loop().close(fd, CloseWith::kReset);
}

// --- First bytes --------------------------------------------------------------------------------------------------

void EdgeWorker::on_control_conn(Conn& conn, std::string prefix, uint64_t deadline_ms) {
  control_.take_control_conn(worker_.let_go(conn), std::move(prefix), deadline_ms);
}

void EdgeWorker::on_grpc_conn(Conn& conn, std::string_view prefix) {
  if (grpc_) return grpc_->take_agent(conn, prefix);
  worker_.close(conn, CloseWith::kReset);
}

void EdgeWorker::on_channel(Conn& conn, SlotId id, const uint8_t* hello) {
  EdgeSession* session = rendezvous_.find_session(id);
  if (session == nullptr) {
    // The letter that opens a session is posted before its agent is welcomed: it may wait in the mailbox right now.
    worker_.mailbox().deliver();
    session = rendezvous_.find_session(id);
  }
  const auto fields = parse_hello({hello, kHelloBytes});
  if (session == nullptr || !fields.ok() || !session->checker.check(hello) ||
      !session->window.use(fields.value().counter)) {
    worker_.counters().add(Counter::kHelloRefused);
    return worker_.close(conn, CloseWith::kReset);
  }
  conn.set_peer(peer_address(conn.fd), ConnRole::kDataChannel);
  bound_receive_buffer(conn.fd);
  worker_.counters().add(Counter::kChannelsOpened);
  rendezvous_.take_channel(conn, id);
}

void EdgeWorker::take_channel(int fd, SlotId session) {
  Conn* conn = worker_.conns().claim(fd, peer_address(fd), ConnRole::kDataChannel, worker_.loop().turn_ms());
  if (conn == nullptr) {
    worker_.loop().close(fd, CloseWith::kFin);
    return rendezvous_.on_channel_refused(session);
  }
  rendezvous_.take_channel(*conn, session);
}

void EdgeWorker::give_channel(SlotId session, unsigned to_worker) { rendezvous_.give_channel(session, to_worker); }

// --- Pairs --------------------------------------------------------------------------------------------------------

void EdgeWorker::on_pair_end(Pair& pair) {
  rendezvous_.on_pair_end(pair);
  check_idle();
}

void EdgeWorker::on_pair_unready(Pair& pair) { rendezvous_.on_pair_unready(pair); }

bool EdgeWorker::on_visitor_gone(Pair& pair) {
  const bool may_return = rendezvous_.on_visitor_gone(pair);
  check_idle();
  return may_return;
}

void EdgeWorker::when_idle(std::function<void()> done) {
  if (grpc_) grpc_->drain();
  idle_waiters_.add(std::move(done));
  check_idle();
}

void EdgeWorker::when_nobody_waits(std::function<void()> done) {
  nobody_waits_waiters_.add(std::move(done));
  check_idle();
}

void EdgeWorker::check_idle() {
  if ((idle_waiters_.empty() && nobody_waits_waiters_.empty()) || ports_closing_ > 0 || rendezvous_.waits()) return;
  nobody_waits_waiters_.settle();
  if (idle_waiters_.empty() || worker_.pairs().with_visitor() > 0) return;
  if (grpc_ && !grpc_->idle()) return;
  idle_waiters_.settle();
}

}  // namespace natrp
