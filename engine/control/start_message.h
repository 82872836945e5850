// control/start_message.h
//
// Start: the 64 bytes that the edge sends on a data channel when a visitor takes it; after them the bytes are
// the visitor's:
//   0 "NTRS" · 4 version 1 · 5 family 4, 6 or 0 · 6 visitor's port u16 BE · 8 tunnel index u32 BE ·
//   12 visitor's address, 16 bytes, IPv4 in the first 4 · 28 flags: 1, chunks follow (relay/chunks.h) ·
//   29 reserved, zero
//
// Thread   any; no state. Neither encode_start nor a parse_start that succeeds allocates.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <span>

#include "base/limits.h"
#include "base/result.h"

namespace natrp {

using StartBytes = std::array<uint8_t, kStartBytes>;

// What an agent needs of it. Who the visitor is, it checks and does not keep.
struct StartFields {
  uint32_t tunnel_index = 0;
  bool chunks = false;
};

// visitor: of family AF_INET or AF_INET6 (an IPv4 address inside IPv6 is written as IPv4); any other, or
// null, is written as unknown.
StartBytes encode_start(uint32_t tunnel_index, const sockaddr* visitor, bool chunks = false);
Result<StartFields> parse_start(std::span<const uint8_t> start);

}  // namespace natrp
