// admin/admin_source.h
//
// AdminSource: what a daemon has to show on its admin server.
//
// Thread   all of it but end() is called in the threads of requests, while the daemon works.
#pragma once

#include <atomic>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "base/counters.h"
#include "control/status_info.h"
#include "net/conn_table.h"

namespace natrp {

class AdminSource {
 public:
  virtual ~AdminSource() = default;
  // One set for each of its threads.
  virtual std::vector<const Counters*> counters() const = 0;
  virtual const ConnTable& conns() const = 0;
  virtual size_t sessions_live() const = 0;
  // Those whose tunnels are counted, for labels of the metrics. Empty also where the control thread does not answer.
  virtual std::vector<SessionInfo> sessions() { return {}; }
  // Empty: visitors are served. Else what stands against it.
  virtual std::string why_not_healthy() = 0;
  // The page of the daemon's own, and what stands there now, as JSON. nullopt: its control thread is busy.
  virtual std::string list_path() const = 0;
  virtual std::optional<std::string> list() = 0;

  // The control thread waits for the last requests from here on: it answers no question of theirs, and none waits for
  // an answer.
  void end() { ending_ = true; }

 protected:
  const std::atomic<bool>& ending() const { return ending_; }

 private:
  std::atomic<bool> ending_{false};
};

}  // namespace natrp
