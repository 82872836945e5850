// net/conn_table.h
//
// ConnTable: every live conn of the process. A generational slot map of one shard per worker: fixed capacity, memory
// mapped at start and touched only when a slot is first used.
//
// Thread safety   claim(), release() and find(): the worker that owns the shard. for_each(): any thread, wait-free,
//                 while the owner writes.
// Invariants
// (1) A generation is odd exactly while its slot is claimed. It changes in claim() and release() only.
// (2) find(id) returns a conn only if id's generation is the slot's: a stale id is answered with nullptr.
// (3) Slots are never unmapped, so a reader of a slot that was released meanwhile reads old bytes, never a fault; it
//     sees that the generation moved and drops them.
// Memory order    The owner bumps the generation to odd with release after the fields are written, and to even
//                 before they are reused; a reader loads it with acquire, copies, and loads it again behind an
//                 acquire fence (a seqlock whose writer never waits).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "net/conn.h"

namespace natrp {

class ConnShard {
 public:
  ConnShard(uint8_t shard, uint32_t capacity);
  ~ConnShard();
  ConnShard(const ConnShard&) = delete;
  ConnShard& operator=(const ConnShard&) = delete;

  // A slot for fd, which stays the caller's: whoever closes fd releases the slot. nullptr: all are claimed.
  Conn* claim(int fd, const Address& peer, ConnRole role, uint64_t now_ms);
  void release(Conn& conn);
  Conn* find(SlotId id);
  Conn& at(uint32_t index) { return slots_[index]; }
  uint32_t index_of(const Conn& conn) const { return static_cast<uint32_t>(&conn - slots_); }
  SlotId id_of(const Conn& conn) const { return conn.id(index_of(conn)); }
  // Claimed ones. Any thread.
  uint32_t live() const { return live_.load(std::memory_order_relaxed); }
  uint32_t capacity() const { return capacity_; }
  // Slots that were ever used: readers look no further.
  uint32_t touched() const { return touched_.load(std::memory_order_acquire); }
  const Conn& slot(uint32_t index) const { return slots_[index]; }

 private:
  static constexpr uint32_t kNone = ~0u;
  Conn* slots_ = nullptr;
  const uint32_t capacity_;
  const uint8_t shard_;
  std::atomic<uint32_t> touched_{0};
  uint32_t free_ = kNone;  // a stack: the slot that was used last is the warmest
  std::atomic<uint32_t> live_{0};
};

// What a reader gets: of one owner of the slot, and not of two. Its numbers may be of moments that are close together,
// and its peer that of a stranger who becomes an agent's channel meanwhile.
struct ConnView {
  SlotId id;
  ConnRole role;
  Address peer;
  uint64_t bytes_received;
  uint64_t opened_ms;
  uint32_t tunnel;
};

class ConnTable {
 public:
  // Called before the workers start, and never after.
  ConnShard& add_shard(uint32_t capacity);
  ConnShard& shard(size_t index) { return *shards_[index]; }

  // f(const ConnView&) for each conn that was live when its slot was looked at.
  template <typename F>
  void for_each(F&& f) const {
    for (size_t s = 0; s < shards_.size(); ++s) {
      const uint32_t end = shards_[s]->touched();
      for (uint32_t i = 0; i < end; ++i) {
        ConnView view;
        if (read(static_cast<uint32_t>(s), i, view)) f(view);
      }
    }
  }

 private:
  // False: no conn is there, or it went while it was read.
  bool read(uint32_t shard, uint32_t index, ConnView& out) const;
  std::vector<std::unique_ptr<ConnShard>> shards_;
};

}  // namespace natrp
