#include "control/start_message.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <string>

namespace natrp {
namespace {

constexpr uint8_t kVersion = 1;
constexpr size_t kPortAt = 6;
constexpr size_t kAddressAt = 12;
constexpr size_t kFlagsAt = 28;
constexpr size_t kReservedAt = 29;
constexpr uint8_t kChunks = 1;

bool is_zero(std::span<const uint8_t> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
}

}  // namespace

StartBytes encode_start(uint32_t tunnel_index, const sockaddr* visitor, bool chunks) {
  StartBytes out{};
  std::memcpy(out.data(), "NTRS", 4);
  out[4] = kVersion;
  if (chunks) out[kFlagsAt] = kChunks;
  const uint32_t index = htonl(tunnel_index);
  std::memcpy(out.data() + 8, &index, sizeof index);
  if (visitor == nullptr) return out;
  if (visitor->sa_family == AF_INET) {
    sockaddr_in v4;
    std::memcpy(&v4, visitor, sizeof v4);
    out[5] = 4;
    std::memcpy(out.data() + 6, &v4.sin_port, 2);
    std::memcpy(out.data() + kAddressAt, &v4.sin_addr, 4);
  } else if (visitor->sa_family == AF_INET6) {
    sockaddr_in6 v6;
    std::memcpy(&v6, visitor, sizeof v6);
    std::memcpy(out.data() + 6, &v6.sin6_port, 2);
    // A listener on :: shows IPv4 visitors as ::ffff:a.b.c.d.
    const bool mapped = IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr);
    out[5] = mapped ? 4 : 6;
    std::memcpy(out.data() + kAddressAt, v6.sin6_addr.s6_addr + (mapped ? 12 : 0), mapped ? 4 : 16);
  }
  return out;
}

Result<StartFields> parse_start(std::span<const uint8_t> start) {
  if (start.size() != kStartBytes) return Error{"a Start has 64 bytes"};
  if (std::memcmp(start.data(), "NTRS", 4) != 0) {
    return Error{"the edge sent something else than a Start on a data channel: the two do not speak the same protocol"};
  }
  if (start[4] != kVersion) {
    return Error{"the edge sent a Start of version " + std::to_string(start[4]) +
                 ", this agent speaks version 1: update it"};
  }
  if (!is_zero(start.subspan(kReservedAt))) return Error{"a reserved byte of a Start is not zero"};
  if (start[5] != 0 && start[5] != 4 && start[5] != 6) {
    return Error{"a Start names the address family " + std::to_string(start[5]) + "; 4, 6 and 0 are known"};
  }
  const auto address = start.subspan(kAddressAt, kFlagsAt - kAddressAt);
  if ((start[5] == 0 && !(is_zero(start.subspan(kPortAt, 2)) && is_zero(address))) ||
      (start[5] == 4 && !is_zero(address.subspan(4)))) {
    return Error{"a Start has bytes where its address family has none"};
  }
  if ((start[kFlagsAt] & ~kChunks) != 0) return Error{"a Start has a flag that this agent does not know: update it"};
  StartFields fields;
  fields.chunks = start[kFlagsAt] == kChunks;
  uint32_t index;
  std::memcpy(&index, start.data() + 8, sizeof index);
  fields.tunnel_index = ntohl(index);
  return fields;
}

}  // namespace natrp
