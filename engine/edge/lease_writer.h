// edge/lease_writer.h
//
// LeaseWriter: brings the leases that the edge gives into the store, so that they outlive the edge. Leases that are
// given at about the same time are written together: each write waits for the disk, and an agent has up to 256 tunnels.
// While another program holds the store's write lock (a backup, an open sqlite3 shell), leases are kept here until it
// is free.
//
// Life     of a lease: given ──▶ kept ──write──▶ written
//                                  └─tunnel or port given anew, client gone──▶ dropped
// Thread   the control thread. A write waits once for another writer, kStoreWaitMs at most.
// Never    keeps two leases of one tunnel or of one port, so the ports bound it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "store/store.h"

namespace natrp {

class LeaseWriter {
 public:
  // store outlives this.
  explicit LeaseWriter(Store& store) : store_(store) {}

  void remember(const std::string& client, const std::string& tunnel, uint16_t port);
  // Only when nothing is kept. leases: no two of one tunnel or port.
  void keep(std::vector<LeaseRecord> leases) { kept_ = std::move(leases); }
  // Writes all that is kept, in one transaction.
  void write();
  // The last write was refused.
  bool failing() const { return failing_; }
  // Writes for the last time: what cannot be written is lost, and the log says so.
  void finish();
  // The client was removed; another may have its name.
  void forget_client(const std::string& client);
  size_t kept() const { return kept_.size(); }

 private:
  Store& store_;
  std::vector<LeaseRecord> kept_;  // in the order in which they were given
  bool failing_ = false;           // the log has said so
};

}  // namespace natrp
