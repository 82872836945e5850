// net/conn.h
//
// Conn: one socket that holds a slot of the connection table.
//
// Life     free ──claim──▶ open (unproven, waiting or relayed) ──relay/teardown or its owner──▶ free, generation + 1
// Thread   the owning worker writes; any thread reads the atomic fields through ConnTable::for_each.
// Memory   one cache line. What only the owner needs has no atomic.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/slot_id.h"
#include "net/address.h"

namespace natrp {

enum class ConnRole : uint8_t { kUnproven, kVisitor, kDataChannel, kService };

struct alignas(64) Conn {
  std::atomic<uint32_t> generation{0};      // odd: claimed
  int32_t fd = -1;
  std::atomic<uint64_t> bytes_received{0};  // taken from this socket and passed on
  std::atomic<uint64_t> opened_ms{0};       // CLOCK_MONOTONIC
  std::atomic<uint64_t> address_high{0};    // the peer's address; IPv4 in the low half
  std::atomic<uint64_t> address_low{0};
  std::atomic<uint32_t> port_family_role{0};
  std::atomic<uint32_t> tunnel{0};          // edge: tunnel id; agent: tunnel index
  uint32_t next_free = 0;
  uint8_t shard = 0;
  bool peer_reset = false;                  // a write to it failed with a reset: its end of stream is no clean end

  SlotId id(uint32_t index) const {
    return SlotId::make(shard, index, generation.load(std::memory_order_relaxed));
  }
  void set_peer(const Address& peer, ConnRole role);
  // Of a data channel that is free again: clears what listings show of its last visitor.
  void renew(uint64_t now_ms);
  Address peer() const;
  bool is_unix() const;
  ConnRole role() const {
    return static_cast<ConnRole>(port_family_role.load(std::memory_order_relaxed) & 0xffu);
  }
};
static_assert(sizeof(Conn) == 64, "a slot is one cache line");

}  // namespace natrp
