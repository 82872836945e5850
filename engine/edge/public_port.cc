#include "edge/public_port.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/check.h"
#include "base/limits.h"
#include "edge/edge_worker.h"
#include "loop/loop.h"
#include "net/socket.h"
#include "runtime/crew.h"

namespace natrp {

int PublicPorts::open(Fd listener, uint16_t port, const EdgeTunnel& tunnel) {
  const int fd = listener.get();
  open_[fd] = Listener{std::move(listener), port, tunnel};
  crew_.post_to_all([fd, tunnel](EdgeWorker& role) { role.open_public_port(fd, tunnel); });
  return fd;
}

int PublicPorts::open_control(Fd listener) {
  const int fd = listener.get();
  open_[fd] = Listener{std::move(listener)};
  crew_.post_to_all([fd](EdgeWorker& role) { role.open_control_listener(fd); });
  return fd;
}

void PublicPorts::close(int listener_fd, Backlog backlog) {
  const auto at = open_.find(listener_fd);
  NATRP_CHECK(at != open_.end(), "an open port is closed once");
  if (backlog == Backlog::kServed) serve_backlog(listener_fd, at->second.tunnel);
  if (backlog != Backlog::kHandedOn) stop_listening(listener_fd);
  closing_[listener_fd] = Closing{std::move(at->second.fd), crew_.size(), backlog == Backlog::kHandedOn};
  open_.erase(at);
  crew_.post_to_all([listener_fd](EdgeWorker& role) { role.close_listener(listener_fd); });
}

void PublicPorts::end_handed_on() {
  for (auto& [fd, closing] : closing_) {
    if (std::exchange(closing.handed_on, false)) stop_listening(fd);
  }
  handed_on_.clear();
}

// The listener does not block (net/socket). At most one backlog, so that visitors who keep coming do not keep us.
void PublicPorts::serve_backlog(int listener_fd, const EdgeTunnel& tunnel) {
  size_t next = 0;
  for (int left = kListenBacklog; left > 0; --left) {
    const int fd = ::accept4(listener_fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && accept_may_go_on(errno)) continue;
    if (fd < 0) return;
    crew_.post(next, [fd, tunnel](EdgeWorker& role) { role.take_visitor(fd, tunnel); });
    next = (next + 1) % crew_.size();
  }
}

bool PublicPorts::is_open(uint16_t port) const {
  if (port == 0) return false;
  return std::any_of(open_.begin(), open_.end(), [&](const auto& each) { return each.second.port == port; });
}

void PublicPorts::landed(int listener_fd) {
  const auto at = closing_.find(listener_fd);
  if (at == closing_.end() || --at->second.workers_left > 0) return;
  if (at->second.handed_on) handed_on_.push_back(std::move(at->second.fd));
  closing_.erase(at);
}

}  // namespace natrp
