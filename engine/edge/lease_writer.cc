#include "edge/lease_writer.h"

#include <ctime>
#include <utility>

#include "base/log.h"

namespace natrp {

void LeaseWriter::remember(const std::string& client, const std::string& tunnel, uint16_t port) {
  std::erase_if(kept_, [&](const LeaseRecord& lease) {
    return lease.port == port || (lease.client == client && lease.tunnel == tunnel);
  });
  kept_.push_back({client, tunnel, port, time(nullptr)});
}

void LeaseWriter::write() {
  if (kept_.empty()) return;
  if (const Status written = store_.remember_leases(kept_); !written.ok()) {
    if (std::exchange(failing_, true)) return;
    return log_warning("leases cannot be written to the store; they hold, and are written as soon as that is possible",
                       {{"error", written.error().message}});
  }
  kept_.clear();
  if (std::exchange(failing_, false)) log_info("the leases are in the store again", {});
}

void LeaseWriter::finish() {
  if (kept_.empty()) return;
  if (const Status written = store_.remember_leases(kept_); !written.ok()) {
    log_error("leases are lost with the end of this edge: after the next start their tunnels may get other ports",
              {{"leases", uint64_t{kept_.size()}}, {"error", written.error().message}});
  }
  kept_.clear();
}

void LeaseWriter::forget_client(const std::string& client) {
  std::erase_if(kept_, [&](const LeaseRecord& lease) { return lease.client == client; });
}

}  // namespace natrp
