// edge/client_conns.h
//
// ClientConns: a client's visitors, over all of its sessions and workers: how many it has, may have, and was refused.
// ClientConnsTable: the ClientConns of each client, and the lines in the log about visitors that were refused.
//
// Thread   ClientConns: any. The control thread writes max whenever the operator changes it, and takes what is in
//          refused; workers call enter() for each visitor. All accesses are relaxed: no other data depends on their
//          order. The table: the control thread.
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

  // Counts one more visitor, who leaves in the end. False: one too many, who leaves at once.
  bool enter() {
    const uint32_t before = live.fetch_add(1, std::memory_order_relaxed);
    const uint32_t most = max.load(std::memory_order_relaxed);
    if (most == 0 || before < most) return true;
    refused.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  void leave() { live.fetch_sub(1, std::memory_order_relaxed); }
};

class ClientConnsTable {
 public:
  // The client's, with its conns_max: one object for all of its sessions, as long as one of them holds it.
  std::shared_ptr<ClientConns> of(const ClientRecord& client);
  // The store has changed: its limits hold from now on, also for clients that are connected.
  void update(const std::vector<ClientRecord>& clients);
  // Forgets the clients without a session.
  void tidy();
  // Once a second at most, so that a client at its limit under load does not flood the log. What all workers have
  // counted since the start: visitors refused for whatever reason, and how many of them because no data channel came in
  // time.
  void tell_refused(uint64_t now_ms, uint64_t refused, uint64_t timed_out);

 private:
  std::unordered_map<int64_t, std::shared_ptr<ClientConns>> by_client_;  // the store's id
  uint64_t refused_told_ = 0;
  uint64_t timed_out_told_ = 0;
  Pace pace_{kLogPaceMs};
};

}  // namespace natrp
