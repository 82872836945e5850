// agent/agent_admin.h
//
// AgentAdmin: what an agent shows on its admin server: its tunnels. It is well when all of them have a public port.
#pragma once

#include "admin/admin_source.h"
#include "admin/metrics.h"
#include "agent/agent.h"

namespace natrp {

class AgentAdmin final : public AdminSource {
 public:
  // agent outlives this.
  explicit AgentAdmin(Agent& agent) : agent_(agent) {}

  std::vector<const Counters*> counters() const override { return agent_.counters(); }
  const ConnTable& conns() const override { return agent_.conns(); }
  size_t sessions_live() const override { return agent_.has_session() ? 1 : 0; }
  std::string why_not_healthy() override {
    const auto status = agent_.status(ending());
    if (!status) return "the control thread is busy or stopping";
    if (status->draining) return "draining";
    for (const TunnelStatus& tunnel : status->tunnels) {
      if (!tunnel.why_not.empty()) return "tunnel '" + tunnel.name + "': " + tunnel.why_not;
    }
    return {};
  }
  std::string list_path() const override { return "/api/v1/tunnels"; }
  std::optional<std::string> list() override {
    const auto status = agent_.status(ending());
    return status ? std::optional(tunnels_json(*status)) : std::nullopt;
  }

 private:
  Agent& agent_;
};

}  // namespace natrp
