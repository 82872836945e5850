// edge/edge_info.h
//
// What the edge tells about its sessions: plain values, for the admin server.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace natrp {

struct SessionInfo {
  struct Tunnel {
    std::string name;
    uint32_t id = 0;
    uint16_t port = 0;
  };
  std::string client;
  std::string software;
  std::string peer;  // the address of its control channel; empty: it has several
  uint32_t session = 0;
  uint32_t visitors_live = 0;
  uint64_t visitors_total = 0;
  std::vector<Tunnel> tunnels;
};

}  // namespace natrp
