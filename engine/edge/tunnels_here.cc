#include "edge/tunnels_here.h"

namespace natrp {

void TunnelsHere::hold(uint32_t tunnel, const std::shared_ptr<TunnelStats>& stats) {
  if (!stats) return;
  Here& here = tunnels_[tunnel];
  if (!here.stats) here.stats = stats;
  ++here.users;
}

void TunnelsHere::let_go(uint32_t tunnel) {
  const auto at = tunnels_.find(tunnel);
  if (at != tunnels_.end() && --at->second.users == 0) tunnels_.erase(at);
}

void TunnelsHere::visitor_came(uint32_t tunnel, const std::shared_ptr<TunnelStats>& stats) {
  hold(tunnel, stats);
  if (stats) TunnelStats::Place::add(stats->places[worker_].visitors, 1);
}

void TunnelsHere::visitor_refused(uint32_t tunnel) {
  const auto at = tunnels_.find(tunnel);
  if (at != tunnels_.end()) TunnelStats::Place::add(at->second.stats->places[worker_].refused, 1);
}

void TunnelsHere::visitor_over(uint32_t tunnel, uint64_t bytes_up, uint64_t bytes_down) {
  const auto at = tunnels_.find(tunnel);
  if (at == tunnels_.end()) return;
  TunnelStats::Place& place = at->second.stats->places[worker_];
  TunnelStats::Place::add(place.bytes_up, bytes_up);
  TunnelStats::Place::add(place.bytes_down, bytes_down);
  TunnelStats::Place::add(place.over, 1);
  if (--at->second.users == 0) tunnels_.erase(at);
}

}  // namespace natrp
