#include "edge/public_port.h"

#include <sys/socket.h>

#include <algorithm>

#include "base/check.h"
#include "edge/edge_worker.h"
#include "runtime/worker.h"

namespace natrp {

PublicPorts::PublicPorts(std::vector<Worker*> workers, std::vector<EdgeWorker*> roles)
    : workers_(std::move(workers)), roles_(std::move(roles)) {}

int PublicPorts::open(Fd listener, uint16_t port, const EdgeTunnel& tunnel) {
  const int fd = listener.get();
  open_[fd] = Listener{std::move(listener), port};
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->mailbox().post([role = roles_[i], fd, tunnel] { role->open_public_port(fd, tunnel); });
  }
  return fd;
}

int PublicPorts::open_control(Fd listener) {
  const int fd = listener.get();
  open_[fd] = Listener{std::move(listener)};
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->mailbox().post([role = roles_[i], fd] { role->open_control_listener(fd); });
  }
  return fd;
}

void PublicPorts::close(int listener_fd) {
  const auto at = open_.find(listener_fd);
  NATRP_CHECK(at != open_.end(), "an open port is closed once");
  ::shutdown(listener_fd, SHUT_RDWR);
  closing_[listener_fd] = Closing{std::move(at->second.fd), workers_.size()};
  open_.erase(at);
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->mailbox().post([role = roles_[i], listener_fd] { role->close_listener(listener_fd); });
  }
}

bool PublicPorts::is_open(uint16_t port) const {
  if (port == 0) return false;
  return std::any_of(open_.begin(), open_.end(), [&](const auto& each) { return each.second.port == port; });
}

void PublicPorts::landed(int listener_fd) {
  const auto at = closing_.find(listener_fd);
  if (at != closing_.end() && --at->second.workers_left == 0) closing_.erase(at);
}

}  // namespace natrp
