// base/slot_id.h
//
// SlotId: the name of a slot that can be reused: shard, index and generation in one word. Whatever outlives a slot
// (a message, a ticket, an admin listing) keeps the SlotId, never a pointer and never a file descriptor.
//
// A generation is odd while the slot is claimed and even while it is free, so a SlotId that was handed out is
// never found again after release. It wraps after 2^31 reuses of one slot.
#pragma once

#include <cstdint>

namespace natrp {

struct SlotId {
  uint64_t word = 0;

  static constexpr unsigned kShardBits = 8;
  static constexpr unsigned kIndexBits = 24;
  static constexpr uint32_t kIndexMax = (1u << kIndexBits) - 1;

  static constexpr SlotId make(uint32_t shard, uint32_t index, uint32_t generation) {
    return SlotId{(static_cast<uint64_t>(generation) << 32) | (static_cast<uint64_t>(shard) << kIndexBits) | index};
  }
  constexpr uint32_t shard() const { return static_cast<uint32_t>(word >> kIndexBits) & 0xffu; }
  constexpr uint32_t index() const { return static_cast<uint32_t>(word) & kIndexMax; }
  constexpr uint32_t generation() const { return static_cast<uint32_t>(word >> 32); }
  constexpr bool valid() const { return generation() != 0; }
  friend constexpr bool operator==(SlotId, SlotId) = default;
};

}  // namespace natrp
