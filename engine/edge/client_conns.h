// edge/client_conns.h
//
// ClientConns: a client's visitors, over all of its sessions and workers: how many it has, may have, and how many were
// refused, and why.
// ClientConnsTable: the ClientConns of each client, and the lines in the log about visitors that were refused.
//
// Thread   ClientConns: any. The control thread writes max whenever the operator changes it, and takes what is in
//          refused; workers call enter() for each visitor. All accesses are relaxed: no other data depends on their
//          order. The table: the control thread.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/pace.h"
#include "store/store.h"

namespace natrp {

enum class VisitorRefusal : uint8_t { kLimit, kNoChannel, kOther };
inline constexpr size_t kVisitorRefusals = 3;

struct ClientConns {
  explicit ClientConns(std::string client_name = {}) : client(std::move(client_name)) {}

  const std::string client;
  std::atomic<uint32_t> live{0};
  std::atomic<uint32_t> max{0};  // 0: no limit
  std::array<std::atomic<uint32_t>, kVisitorRefusals> refused{};  // by reason, and not told yet

  // Counts one more visitor, who leaves in the end. False: one too many, who leaves at once.
  bool enter() {
    const uint32_t before = live.fetch_add(1, std::memory_order_relaxed);
    const uint32_t most = max.load(std::memory_order_relaxed);
    if (most == 0 || before < most) return true;
    refuse(VisitorRefusal::kLimit);
    return false;
  }
  // For the log.
  void refuse(VisitorRefusal why) { refused[static_cast<size_t>(why)].fetch_add(1, std::memory_order_relaxed); }
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
  // A line for each client and reason. Once a second at most, so that a client at its limit under load does not flood
  // the log.
  void tell_refused(uint64_t now_ms);

 private:
  std::unordered_map<int64_t, std::shared_ptr<ClientConns>> by_client_;  // the store's id
  Pace pace_{kLogPaceMs};
};

}  // namespace natrp
