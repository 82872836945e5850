#include "edge/client_conns.h"

#include <algorithm>

#include "base/log.h"

namespace natrp {
namespace {

const char* sentence_of(VisitorRefusal why) {
  switch (why) {
    case VisitorRefusal::kLimit: return "visitors were refused: their client has as many as it may";
    case VisitorRefusal::kNoChannel: return "visitors were refused: no data channel came for them in time";
    case VisitorRefusal::kOther: break;
  }
  return "visitors were refused: the edge had no slot or no place to wait for them, or their session ended";
}

bool has_untold(const ClientConns& conns) {
  return std::any_of(conns.refused.begin(), conns.refused.end(),
                     [](const auto& count) { return count.load(std::memory_order_relaxed) != 0; });
}

void tell(ClientConns& conns) {
  for (size_t i = 0; i < kVisitorRefusals; ++i) {
    const uint32_t count = conns.refused[i].exchange(0, std::memory_order_relaxed);
    if (count == 0) continue;
    const auto why = static_cast<VisitorRefusal>(i);
    if (why == VisitorRefusal::kLimit) {
      const uint32_t max = conns.max.load(std::memory_order_relaxed);
      log_warning(sentence_of(why), {{"client", conns.client}, {"conns_max", max}, {"visitors", count}});
    } else {
      log_warning(sentence_of(why), {{"client", conns.client}, {"visitors", count}});
    }
  }
}

}  // namespace

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
  std::erase_if(by_client_, [](const auto& each) { return each.second.use_count() == 1 && !has_untold(*each.second); });
}

void ClientConnsTable::tell_refused(uint64_t now_ms) {
  const bool untold = std::any_of(by_client_.begin(), by_client_.end(),
                                  [](const auto& each) { return has_untold(*each.second); });
  if (!untold || !pace_.due(now_ms)) return;
  for (const auto& [id, conns] : by_client_) tell(*conns);
}

}  // namespace natrp
