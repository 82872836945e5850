// edge/lease_writer.h
//
// LeaseWriter: brings the leases that the edge gives into the store, so that they outlive the edge. Those of a moment
// are written together: each write waits for the disk, and an agent has up to 256 tunnels. Another program may hold the
// store's write lock for as long as it likes (a backup, an open sqlite3 shell): they are kept until it is free.
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
  // Nothing is kept: these are, no two of one tunnel or port.
  void keep(std::vector<LeaseRecord> leases) { kept_ = std::move(leases); }
  // What is kept, all of it together.
  void write();
  // The last write was refused.
  bool failing() const { return failing_; }
  // The same for the last time: what cannot be written is lost, and the log says so.
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
