// edge/tunnels_here.h
//
// TunnelsHere: in one worker, where what visitors did is counted for their tunnel, found by the tunnel's id, which each
// visitor's conn has (Conn::tunnel).
//
// Thread   its worker's.
// Memory   a record for each tunnel that has a port or a visitor here; none is made for a visitor of an open port.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>

#include "edge/tunnel_stats.h"

namespace natrp {

class TunnelsHere {
 public:
  explicit TunnelsHere(unsigned worker) : worker_(worker) {}
  TunnelsHere(const TunnelsHere&) = delete;
  TunnelsHere& operator=(const TunnelsHere&) = delete;

  // A port of the tunnel is open here, or a visitor of it has moved here: until let_go(). stats may be null: then
  // nothing is counted.
  void hold(uint32_t tunnel, const std::shared_ptr<TunnelStats>& stats);
  void let_go(uint32_t tunnel);

  // A visitor has come. It is over once, here or in the worker that it has moved to.
  void visitor_came(uint32_t tunnel, const std::shared_ptr<TunnelStats>& stats);
  // It is refused. visitor_over() follows.
  void visitor_refused(uint32_t tunnel);
  // Its conns, if it had any, are closed, or count anew.
  void visitor_over(uint32_t tunnel, uint64_t bytes_up = 0, uint64_t bytes_down = 0);

  // For tests.
  size_t size() const { return tunnels_.size(); }

 private:
  struct Here {
    std::shared_ptr<TunnelStats> stats;
    uint32_t users = 0;  // ports and visitors
  };
  const unsigned worker_;
  std::unordered_map<uint32_t, Here> tunnels_;  // by id
};

}  // namespace natrp
