#include "admin/live_bytes.h"

#include <algorithm>

namespace natrp {

void LiveBytes::add_to(std::vector<SessionInfo>& sessions, const ConnTable& conns) {
  std::unordered_map<uint32_t, Bytes> live;
  conns.for_each([&](const ConnView& view) {
    if (view.tunnel == 0 || view.bytes_received == 0) return;
    if (view.role == ConnRole::kVisitor) live[view.tunnel].up += view.bytes_received;
    if (view.role == ConnRole::kDataChannel) live[view.tunnel].down += view.bytes_received;
  });
  std::unordered_map<uint32_t, Bytes> telling;
  const std::lock_guard lock(mutex_);
  for (SessionInfo& session : sessions) {
    for (SessionInfo::Tunnel& tunnel : session.tunnels) {
      const Bytes here = live[tunnel.id];
      const Bytes told = told_[tunnel.id];
      TunnelCounts& counts = tunnel.counts;
      counts.bytes_up = std::max(counts.bytes_up + here.up, told.up);
      counts.bytes_down = std::max(counts.bytes_down + here.down, told.down);
      telling[tunnel.id] = {counts.bytes_up, counts.bytes_down};
    }
  }
  told_ = std::move(telling);
}

}  // namespace natrp
