#include "net/conn_table.h"

#include <sys/mman.h>

#include <new>

#include "base/check.h"

namespace natrp {

ConnShard::ConnShard(uint8_t shard, uint32_t capacity) : capacity_(capacity), shard_(shard) {
  NATRP_CHECK(capacity > 0 && capacity <= SlotId::kIndexMax, "an index has 24 bits");
  void* memory = mmap(nullptr, static_cast<size_t>(capacity) * sizeof(Conn), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  NATRP_CHECK(memory != MAP_FAILED, "address space for the connection table");
  madvise(memory, static_cast<size_t>(capacity) * sizeof(Conn), MADV_NOHUGEPAGE);
  slots_ = static_cast<Conn*>(memory);
}

ConnShard::~ConnShard() { munmap(slots_, static_cast<size_t>(capacity_) * sizeof(Conn)); }

Conn* ConnShard::claim(int fd, const Address& peer, ConnRole role, uint64_t now_ms) {
  uint32_t index = free_;
  Conn* conn = nullptr;
  if (index != kNone) {
    conn = &slots_[index];
    free_ = conn->next_free;
  } else {
    index = touched_.load(std::memory_order_relaxed);
    if (index == capacity_) return nullptr;
    conn = new (&slots_[index]) Conn;
    conn->shard = shard_;
    touched_.store(index + 1, std::memory_order_release);
  }
  conn->fd = fd;
  conn->peer_reset = false;
  conn->bytes_received.store(0, std::memory_order_relaxed);
  conn->opened_ms.store(now_ms, std::memory_order_relaxed);
  conn->tunnel.store(0, std::memory_order_relaxed);
  conn->set_peer(peer, role);
  const uint32_t generation = conn->generation.load(std::memory_order_relaxed);
  NATRP_CHECK((generation & 1u) == 0, "a free slot has an even generation");
  conn->generation.store(generation + 1, std::memory_order_release);
  live_.store(live() + 1, std::memory_order_relaxed);
  return conn;
}

void ConnShard::release(Conn& conn) {
  const uint32_t generation = conn.generation.load(std::memory_order_relaxed);
  NATRP_CHECK((generation & 1u) == 1, "a slot is released once");
  conn.generation.store(generation + 1, std::memory_order_relaxed);
  // What claim() writes next must not be seen under the old generation.
  std::atomic_thread_fence(std::memory_order_release);
  conn.fd = -1;
  conn.next_free = free_;
  free_ = index_of(conn);
  live_.store(live() - 1, std::memory_order_relaxed);
}

Conn* ConnShard::find(SlotId id) {
  if (id.index() >= touched_.load(std::memory_order_relaxed)) return nullptr;
  Conn& conn = slots_[id.index()];
  return (id.generation() & 1u) == 1 && conn.generation.load(std::memory_order_relaxed) == id.generation() ? &conn
                                                                                                           : nullptr;
}

ConnShard& ConnTable::add_shard(uint32_t capacity) {
  shards_.push_back(std::make_unique<ConnShard>(static_cast<uint8_t>(shards_.size()), capacity));
  return *shards_.back();
}

bool ConnTable::read(uint32_t shard, uint32_t index, ConnView& out) const {
  const Conn& conn = shards_[shard]->slot(index);
  const uint32_t before = conn.generation.load(std::memory_order_acquire);
  if ((before & 1u) == 0) return false;
  out.id = SlotId::make(shard, index, before);
  out.peer = conn.peer();
  out.role = conn.role();
  out.bytes_received = conn.bytes_received.load(std::memory_order_relaxed);
  out.opened_ms = conn.opened_ms.load(std::memory_order_relaxed);
  out.tunnel = conn.tunnel.load(std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_acquire);
  return conn.generation.load(std::memory_order_relaxed) == before;
}

}  // namespace natrp
