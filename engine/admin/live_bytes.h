// admin/live_bytes.h
//
// LiveBytes: adds to what tunnels have counted the bytes of the visitors that are still there, from the connection
// table.
//
// Thread   any: those of requests meet at its lock, and nobody else waits for it.
// Never    tells less of a tunnel than it told before: a visitor that ends between the two looks is missing in both.
#pragma once

#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "control/status_info.h"
#include "net/conn_table.h"

namespace natrp {

class LiveBytes {
 public:
  // sessions: as counted before this call. A tunnel that is not among them is forgotten.
  void add_to(std::vector<SessionInfo>& sessions, const ConnTable& conns);

 private:
  struct Bytes {
    uint64_t up = 0;
    uint64_t down = 0;
  };
  std::mutex mutex_;
  std::unordered_map<uint32_t, Bytes> told_;  // by the tunnel's id
};

}  // namespace natrp
