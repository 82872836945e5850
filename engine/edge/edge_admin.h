// edge/edge_admin.h
//
// EdgeAdmin: what an edge shows on its admin server: its sessions.
#pragma once

#include "admin/admin_source.h"
#include "admin/live_bytes.h"
#include "admin/metrics.h"
#include "edge/edge.h"

namespace natrp {

class EdgeAdmin final : public AdminSource {
 public:
  // edge outlives this.
  explicit EdgeAdmin(Edge& edge) : edge_(edge) {}

  std::vector<const Counters*> counters() const override { return edge_.counters(); }
  const ConnTable& conns() const override { return edge_.conns(); }
  size_t sessions_live() const override { return edge_.sessions_live(); }
  std::string why_not_healthy() override {
    if (edge_.draining()) return "draining";
    return edge_.busy() ? "the control thread is busy" : "";
  }
  std::string list_path() const override { return kSessionsPath; }
  std::optional<std::string> list() override {
    const auto sessions = list_sessions();
    return sessions ? std::optional(sessions_json(*sessions)) : std::nullopt;
  }
  std::vector<SessionInfo> sessions() override {
    // No scrape waits for a thread that does not run.
    return edge_.busy() ? std::vector<SessionInfo>() : list_sessions().value_or(std::vector<SessionInfo>());
  }

 private:
  std::optional<std::vector<SessionInfo>> list_sessions() {
    auto sessions = edge_.list_sessions(ending());
    if (sessions) live_bytes_.add_to(*sessions, edge_.conns());
    return sessions;
  }

  Edge& edge_;
  LiveBytes live_bytes_;
};

}  // namespace natrp
