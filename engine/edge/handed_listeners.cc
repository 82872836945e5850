#include "edge/handed_listeners.h"

#include <utility>

#include "base/limits.h"
#include "net/socket.h"

namespace natrp {

void HandedListeners::take(std::vector<Fd> listeners, const PortLeases& leases, uint64_t now_ms) {
  ends_ms_ = now_ms + kRendezvousTimeoutMs;
  for (Fd& fd : listeners) {
    const uint16_t port = local_address(fd.get()).port();
    const Lease* lease = leases.find(port);
    if (lease != nullptr) {
      listeners_[port] = Handed{std::move(fd), lease->client, lease->tunnel};
    } else {
      stop_listening(fd.get());
    }
  }
}

Fd HandedListeners::claim(const Address& address, const std::string& client, const std::string& tunnel) {
  const auto found = listeners_.extract(address.port());
  if (!found) return {};
  Handed& handed = found.mapped();
  const bool same = handed.client == client && handed.tunnel == tunnel &&
                    local_address(handed.fd.get()).text() == address.text();
  if (same) return std::move(handed.fd);
  stop_listening(handed.fd.get());
  return {};
}

std::vector<Fd> HandedListeners::take_all() {
  std::vector<Fd> listeners;
  for (auto& [port, handed] : listeners_) listeners.push_back(std::move(handed.fd));
  listeners_.clear();
  return listeners;
}

std::vector<TunnelPort> HandedListeners::expire(uint64_t now_ms) {
  std::vector<TunnelPort> ports;
  if (now_ms < ends_ms_) return ports;
  for (const auto& [port, handed] : listeners_) {
    stop_listening(handed.fd.get());
    ports.push_back({handed.client, handed.tunnel, port});
  }
  listeners_.clear();
  return ports;
}

}  // namespace natrp
