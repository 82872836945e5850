// edge/client_conns.h
//
// ClientConns: a client's visitors, over all of its sessions and workers: how many it has, may have, and was refused.
// ClientConnsTable: who has which, and the lines in the log about those that were refused.
//
// Thread   ClientConns: any. The control thread writes max whenever the operator changes it and takes refused, workers
//          ask for each visitor: all of it relaxed, nothing else hangs on it. The table: the control thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/pace.h"
#include "store/store.h"

namespace natrp {

struct ClientConns {
  explicit ClientConns(std::string client_name = {}) : client(std::move(client_name)) {}

  const std::string client;
  std::atomic<uint32_t> live{0};
  std::atomic<uint32_t> max{0};      // 0: no limit
  std::atomic<uint32_t> refused{0};  // by max, and not told yet

  // Counts one more; who counted it takes it out of live when it goes. False: one too many, so at once.
  bool enter() {
    const uint32_t before = live.fetch_add(1, std::memory_order_relaxed);
    const uint32_t most = max.load(std::memory_order_relaxed);
    if (most == 0 || before < most) return true;
    refused.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
};

class ClientConnsTable {
 public:
  // The same for all sessions of a client while one of them has it, and with its conns_max.
  std::shared_ptr<ClientConns> of(const ClientRecord& client);
  // The store has changed: the limits that it has now are for those who are there already, too.
  void update(const std::vector<ClientRecord>& clients);
  // Forgets those that no session has any more.
  void tidy();
  // Once a second at most, so that a client at its limit under load does not flood the log. What all workers have
  // counted since the start: refused for whatever reason, and those among them for which no data channel came in time.
  void tell_refused(uint64_t now_ms, uint64_t refused, uint64_t timed_out);

 private:
  std::unordered_map<int64_t, std::shared_ptr<ClientConns>> by_client_;  // the store's id
  uint64_t refused_told_ = 0;
  uint64_t timed_out_told_ = 0;
  Pace pace_{kLogPaceMs};
};

}  // namespace natrp
