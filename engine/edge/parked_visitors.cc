#include "edge/parked_visitors.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>

#include "base/limits.h"
#include "edge/edge_worker.h"
#include "runtime/worker.h"

namespace natrp {
namespace {

// How often a visitor that waits is looked at.
constexpr uint64_t kLookMs = 1000;

}  // namespace

ParkedVisitors::ParkedVisitors(EdgeWorker& edge, Leaves leaves)
    : edge_(edge), worker_(edge.worker()), leaves_(leaves) {}

uint64_t ParkedVisitors::deadline_ms() const { return worker_.loop().turn_ms() + kRendezvousTimeoutMs; }

ParkedVisitor* ParkedVisitors::park(ParkedQueue& queue, Conn& conn, uint64_t deadline_ms, uint32_t tunnel_index) {
  if (queue.size_ >= kParkedVisitorsMax) {
    refuse(queue, conn);
    return nullptr;
  }
  ParkedVisitor& parked = pool_.take(*this);
  parked.timer.handler = on_timer;
  parked.queue = &queue;
  parked.conn = &conn;
  parked.deadline_ms = deadline_ms;
  parked.tunnel_index = tunnel_index;
  queue.list_.push_back(parked);
  queue.parked_.store(++queue.size_);
  const uint64_t now = worker_.loop().turn_ms();
  worker_.loop().timers().arm(parked.timer, deadline_ms > now ? std::min(deadline_ms - now, kLookMs) : 0);
  return &parked;
}

Conn& ParkedVisitors::unpark(ParkedVisitor& parked) {
  worker_.loop().timers().disarm(parked.timer);
  parked.link.unlink();
  parked.queue->parked_.store(--parked.queue->size_);
  Conn& conn = *parked.conn;
  pool_.give_back(parked);
  return conn;
}

ParkedVisitor* ParkedVisitors::front_still_there(ParkedQueue& queue) {
  while (ParkedVisitor* parked = front(queue)) {
    if (!has_left(parked->conn->fd)) return parked;
    let_go(*parked);
  }
  return nullptr;
}

void ParkedVisitors::on_timer(Timer& timer) {
  auto& parked = *reinterpret_cast<ParkedVisitor*>(&timer);
  ParkedVisitors& self = *parked.all;
  const uint64_t now = self.worker_.loop().turn_ms();
  if (now >= parked.deadline_ms) {
    self.worker_.counters().add(Counter::kRendezvousTimeouts);
    ParkedQueue& queue = *parked.queue;
    self.refuse(queue, self.unpark(parked), VisitorRefusal::kNoChannel);
  } else if (self.has_left(parked.conn->fd)) {
    self.let_go(parked);
  } else {
    self.worker_.loop().timers().arm(timer, std::min(parked.deadline_ms - now, kLookMs));
  }
}

bool ParkedVisitors::has_left(int fd) const {
  // Linux says POLLHUP when both directions are over, and a reset is the end of both.
  pollfd ended{.fd = fd, .events = 0, .revents = 0};
  if (::poll(&ended, 1, 0) > 0) return true;
  if (leaves_ == Leaves::kByReset) return false;
  char byte;
  return ::recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

void ParkedVisitors::let_go(ParkedVisitor& parked) {
  worker_.counters().add(Counter::kVisitorsLeft);
  ParkedQueue& queue = *parked.queue;
  end(queue, unpark(parked));
}

void ParkedVisitors::refuse(ParkedQueue& queue, Conn& conn, VisitorRefusal why) {
  queue.conns_.refuse(why);
  edge_.tunnels().visitor_refused(conn.tunnel.load(std::memory_order_relaxed));
  worker_.counters().add(Counter::kVisitorsRefused);
  end(queue, conn);
}

void ParkedVisitors::refuse_all(ParkedQueue& queue) {
  while (ParkedVisitor* parked = front(queue)) refuse(queue, unpark(*parked));
}

void ParkedVisitors::end(ParkedQueue& queue, Conn& conn) {
  worker_.close(conn, CloseWith::kReset);
  edge_.tunnels().visitor_over(conn.tunnel.load(std::memory_order_relaxed));
  queue.conns_.leave();
  edge_.check_idle();
}

}  // namespace natrp
