// admin/metrics.h
//
// The numbers of a daemon as text: Prometheus exposition format and JSON.
//
// Thread   any: reads the workers' counters and the connection table while they are written.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/counters.h"
#include "control/status_info.h"
#include "net/conn_table.h"

namespace natrp {

inline constexpr const char* kSessionsPath = "/api/v1/sessions";

// One line HELP, one TYPE, one value for each counter, summed over sets; what is the process's; and of each tunnel what
// it counts, with the tunnel in labels.
std::string prometheus_text(const std::vector<const Counters*>& sets, size_t sessions_live,
                            const std::vector<SessionInfo>& sessions);
// Which program this is, and since when it runs: seconds of the wall clock.
std::string process_text(const std::string& version, int64_t started_s);
// Of an edge, of an agent.
std::string sessions_json(const std::vector<SessionInfo>& sessions);
std::string tunnels_json(const AgentStatus& status);
// What sessions_json() wrote, perhaps that of another version; nullopt: it did not write this.
std::optional<std::vector<SessionInfo>> sessions_from_json(const std::string& text);
// Every live conn: id, role, peer, bytes received, age.
std::string conns_json(const ConnTable& conns, uint64_t now_ms);

}  // namespace natrp
