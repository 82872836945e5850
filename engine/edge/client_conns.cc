#include "edge/client_conns.h"

#include <algorithm>

#include "base/log.h"

namespace natrp {
namespace {

constexpr uint64_t kTellMs = 1000;

}  // namespace

std::shared_ptr<ClientConns> ClientConnsTable::of(const ClientRecord& client) {
  auto& conns = by_client_[client.id];
  if (!conns) conns = std::make_shared<ClientConns>(client.name);
  conns->max.store(client.conns_max, std::memory_order_relaxed);
  return conns;
}

// Only this thread makes copies, so a last one stays the last.
void ClientConnsTable::tidy() {
  std::erase_if(by_client_, [](const auto& each) { return each.second.use_count() == 1; });
}

void ClientConnsTable::tell_refused(uint64_t now_ms, uint64_t refused_by_all) {
  if (refused_by_all <= told_ || now_ms < tell_again_ms_) return;
  tell_again_ms_ = now_ms + kTellMs;
  uint64_t by_limit = 0;
  for (const auto& [id, conns] : by_client_) {
    const uint32_t refused = conns->refused.exchange(0, std::memory_order_relaxed);
    if (refused == 0) continue;
    by_limit += refused;
    log_warning("visitors were refused: their client has as many as it may",
                {{"client", conns->client},
                 {"conns_max", conns->max.load(std::memory_order_relaxed)},
                 {"visitors", refused}});
  }
  // A worker counts a visitor a moment after its client does.
  const uint64_t refused = std::max(refused_by_all - told_, by_limit);
  if (refused > by_limit) {
    log_warning("visitors were refused: the edge had no slot, no session or no place to wait for them",
                {{"visitors", refused - by_limit}});
  }
  told_ += refused;
}

}  // namespace natrp
