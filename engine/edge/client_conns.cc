#include "edge/client_conns.h"

#include <algorithm>

#include "base/log.h"

namespace natrp {

std::shared_ptr<ClientConns> ClientConnsTable::of(const ClientRecord& client) {
  auto& conns = by_client_[client.id];
  if (!conns) conns = std::make_shared<ClientConns>(client.name);
  conns->max.store(client.conns_max, std::memory_order_relaxed);
  return conns;
}

void ClientConnsTable::update(const std::vector<ClientRecord>& clients) {
  for (const ClientRecord& client : clients) {
    const auto at = by_client_.find(client.id);
    if (at != by_client_.end()) at->second->max.store(client.conns_max, std::memory_order_relaxed);
  }
}

// Only this thread makes copies, so a last one stays the last.
void ClientConnsTable::tidy() {
  std::erase_if(by_client_, [](const auto& each) {
    return each.second.use_count() == 1 && each.second->refused.load(std::memory_order_relaxed) == 0;
  });
}

void ClientConnsTable::tell_refused(uint64_t now_ms, uint64_t refused, uint64_t timed_out) {
  if (refused <= refused_told_ || !pace_.due(now_ms)) return;
  uint64_t by_limit = 0;
  for (const auto& [id, conns] : by_client_) {
    const uint32_t count = conns->refused.exchange(0, std::memory_order_relaxed);
    if (count == 0) continue;
    by_limit += count;
    log_warning("visitors were refused: their client has as many as it may",
                {{"client", conns->client},
                 {"conns_max", conns->max.load(std::memory_order_relaxed)},
                 {"visitors", count}});
  }
  // Workers count while we read: a visitor first in its client's `refused` and then in all `refused`, a late one first
  // in `timed_out` and then in `refused`. So no sum may be taken for exact, and none becomes negative here.
  const uint64_t untold = std::max(refused - refused_told_, by_limit);
  const uint64_t late = std::min(timed_out - timed_out_told_, untold - by_limit);
  const uint64_t others = untold - by_limit - late;
  if (late > 0) log_warning("visitors were refused: no data channel came for them in time", {{"visitors", late}});
  if (others > 0) {
    log_warning("visitors were refused: the edge had no slot or no place to wait for them, or their session ended",
                {{"visitors", others}});
  }
  refused_told_ += untold;
  timed_out_told_ += late;
}

}  // namespace natrp
