// control/status_info.h
//
// What a daemon tells about itself: plain values, for its admin server.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace natrp {

struct TunnelCounts {
  uint64_t visitors_total = 0;
  uint64_t visitors_live = 0;
  uint64_t visitors_refused = 0;
  uint64_t bytes_up = 0;  // towards the service
  uint64_t bytes_down = 0;
};

struct SessionInfo {
  struct Tunnel {
    std::string name;
    uint32_t id = 0;
    uint16_t port = 0;
    TunnelCounts counts{};
  };
  std::string client;
  std::string software;
  std::string peer;  // the address of its control channel; empty: it has several
  uint32_t session = 0;
  uint32_t visitors_live = 0;
  uint64_t visitors_total = 0;
  std::vector<Tunnel> tunnels;
};

struct TunnelStatus {
  std::string name;
  std::string local;
  std::string public_address;  // empty: it has none
  std::string why_not;         // it has none; else empty
};

struct AgentStatus {
  std::string server;  // as the operator wrote it
  std::string client;  // empty: there is no session
  std::string peer;    // the edge that the session is with
  bool draining = false;
  std::vector<TunnelStatus> tunnels;
};

}  // namespace natrp
