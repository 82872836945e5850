#include "net/conn.h"

#include <cstring>

namespace natrp {

void Conn::renew(uint64_t now_ms) {
  bytes_received.store(0, std::memory_order_relaxed);
  opened_ms.store(now_ms, std::memory_order_relaxed);
  tunnel.store(0, std::memory_order_relaxed);
}

void Conn::set_peer(const Address& peer, ConnRole role) {
  uint64_t high = 0;
  uint64_t low = 0;
  if (peer.family() == AF_INET) {
    low = reinterpret_cast<const sockaddr_in*>(peer.get())->sin_addr.s_addr;
  } else if (peer.family() == AF_INET6) {
    const auto& bytes = reinterpret_cast<const sockaddr_in6*>(peer.get())->sin6_addr;
    std::memcpy(&high, bytes.s6_addr, 8);
    std::memcpy(&low, bytes.s6_addr + 8, 8);
  }
  address_high.store(high, std::memory_order_relaxed);
  address_low.store(low, std::memory_order_relaxed);
  port_family_role.store((static_cast<uint32_t>(peer.port()) << 16) |
                             ((static_cast<uint32_t>(peer.family()) & 0xffu) << 8) | static_cast<uint32_t>(role),
                         std::memory_order_relaxed);
}

bool Conn::is_unix() const {
  return ((port_family_role.load(std::memory_order_relaxed) >> 8) & 0xffu) == AF_UNIX;
}

Address Conn::peer() const {
  const uint32_t word = port_family_role.load(std::memory_order_relaxed);
  const uint64_t high = address_high.load(std::memory_order_relaxed);
  const uint64_t low = address_low.load(std::memory_order_relaxed);
  const int family = static_cast<int>((word >> 8) & 0xffu);
  const auto port = static_cast<uint16_t>(word >> 16);
  if (family == AF_INET) {
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_addr.s_addr = static_cast<uint32_t>(low);
    v4.sin_port = htons(port);
    return Address::from_sockaddr(reinterpret_cast<sockaddr*>(&v4), sizeof v4);
  }
  if (family == AF_INET6) {
    sockaddr_in6 v6{};
    v6.sin6_family = AF_INET6;
    std::memcpy(v6.sin6_addr.s6_addr, &high, 8);
    std::memcpy(v6.sin6_addr.s6_addr + 8, &low, 8);
    v6.sin6_port = htons(port);
    return Address::from_sockaddr(reinterpret_cast<sockaddr*>(&v6), sizeof v6);
  }
  return {};
}

}  // namespace natrp
