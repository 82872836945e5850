#include "admin/metrics.h"

#include <map>
#include <nlohmann/json.hpp>

#include "base/log.h"

namespace natrp {
namespace {

const char* role_text(ConnRole role) {
  switch (role) {
    case ConnRole::kUnproven: return "unproven";
    case ConnRole::kVisitor: return "visitor";
    case ConnRole::kDataChannel: return "data channel";
    case ConnRole::kService: return "service";
  }
  return "unknown";
}

// Bytes that are no UTF-8 become U+FFFD: by default the library throws, and a peer's name would end the process.
std::string dumped(const nlohmann::json& json) {
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

void append_head(std::string& out, std::string_view name, std::string_view sentence, bool gauge) {
  out.append("# HELP ").append(name).append(" ").append(sentence).append("\n# TYPE ").append(name);
  out.append(gauge ? " gauge\n" : " counter\n");
}

void append_metric(std::string& out, std::string_view name, std::string_view sentence, bool gauge, uint64_t value) {
  append_head(out, name, sentence, gauge);
  out.append(name).append(" ").append(std::to_string(value)).append("\n");
}

std::string label(std::string_view name, std::string_view value) {
  std::string out(name);
  out += "=\"";
  for (const char c : value) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (c == '\\' || c == '"') out += '\\';
    out += c;
  }
  return out + "\"";
}

// By their labels. A client that was removed and added again has, for a moment, a session that ends beside a new one,
// and a scraper refuses a page with two values of one name: the later session's counts.
using CountsByLabels = std::map<std::string, TunnelCounts>;

CountsByLabels counts_by_labels(const std::vector<SessionInfo>& sessions) {
  CountsByLabels found;
  for (const SessionInfo& session : sessions) {
    for (const SessionInfo::Tunnel& tunnel : session.tunnels) {
      found[label("client", session.client) + "," + label("tunnel", tunnel.name)] = tunnel.counts;
    }
  }
  return found;
}

// One value of each tunnel. more: labels behind those of the tunnel.
void append_of_tunnels(std::string& out, std::string_view name, const CountsByLabels& tunnels,
                       uint64_t TunnelCounts::*value, std::string_view more = {}) {
  for (const auto& [labels, counts] : tunnels) {
    out.append(name).append("{").append(labels).append(more).append("} ");
    out.append(std::to_string(counts.*value)).append("\n");
  }
}

void append_tunnels(std::string& out, const CountsByLabels& tunnels) {
  struct Family {
    std::string_view name;
    std::string_view sentence;
    bool gauge;
    uint64_t TunnelCounts::*value;
  };
  static constexpr Family kFamilies[] = {
      {"natrp_tunnel_visitors_total", "visitors of a tunnel, since its lease began", false,
       &TunnelCounts::visitors_total},
      {"natrp_tunnel_visitors_refused_total", "of these, visitors that were refused", false,
       &TunnelCounts::visitors_refused},
      {"natrp_tunnel_visitors_live", "visitors of a tunnel now, with those that wait for a data channel", true,
       &TunnelCounts::visitors_live},
  };
  for (const Family& family : kFamilies) {
    append_head(out, family.name, family.sentence, family.gauge);
    append_of_tunnels(out, family.name, tunnels, family.value);
  }
  constexpr std::string_view kBytes = "natrp_tunnel_bytes_total";
  append_head(out, kBytes, "bytes carried for a tunnel: up to its service, down to its visitors", false);
  append_of_tunnels(out, kBytes, tunnels, &TunnelCounts::bytes_up, ",direction=\"up\"");
  append_of_tunnels(out, kBytes, tunnels, &TunnelCounts::bytes_down, ",direction=\"down\"");
}

}  // namespace

std::string prometheus_text(const std::vector<const Counters*>& sets, size_t sessions_live,
                            const std::vector<SessionInfo>& sessions) {
  std::string out;
  for (size_t i = 0; i < static_cast<size_t>(Counter::kCount); ++i) {
    const auto counter = static_cast<Counter>(i);
    uint64_t sum = 0;
    for (const Counters* set : sets) sum += set->get(counter);
    const CounterInfo& info = counter_info(counter);
    append_metric(out, info.name, info.sentence, info.gauge, sum);
  }
  append_metric(out, "natrp_sessions_live", "agents with a session, and original natrp clients with an open port",
                true, sessions_live);
  append_metric(out, "natrp_log_lines_lost_total", "lines of the log that standard error did not take", false,
                log_lines_lost());
  append_tunnels(out, counts_by_labels(sessions));
  return out;
}

std::string process_text(const std::string& version, int64_t started_s) {
  std::string out;
  append_head(out, "natrp_build_info", "1, with the version of this program", true);
  out.append("natrp_build_info{").append(label("version", version)).append("} 1\n");
  append_metric(out, "process_start_time_seconds", "when this process started, in seconds since 1970", true,
                static_cast<uint64_t>(started_s));
  return out;
}

std::string sessions_json(const std::vector<SessionInfo>& sessions) {
  auto list = nlohmann::json::array();
  for (const SessionInfo& session : sessions) {
    auto tunnels = nlohmann::json::array();
    for (const auto& tunnel : session.tunnels) {
      tunnels.push_back({{"name", tunnel.name},
                         {"port", tunnel.port},
                         {"id", tunnel.id},
                         {"visitors_live", tunnel.counts.visitors_live},
                         {"visitors_total", tunnel.counts.visitors_total},
                         {"visitors_refused", tunnel.counts.visitors_refused},
                         {"bytes_up", tunnel.counts.bytes_up},
                         {"bytes_down", tunnel.counts.bytes_down}});
    }
    list.push_back({{"client", session.client},
                    {"session", session.session},
                    {"software", session.software},
                    {"peer", session.peer},
                    {"visitors_live", session.visitors_live},
                    {"visitors_total", session.visitors_total},
                    {"tunnels", std::move(tunnels)}});
  }
  return dumped({{"sessions", std::move(list)}});
}

std::optional<std::vector<SessionInfo>> sessions_from_json(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  std::vector<SessionInfo> sessions;
  try {
    for (const auto& from : json.at("sessions")) {
      SessionInfo& session = sessions.emplace_back();
      session.client = from.at("client");
      session.session = from.at("session");
      session.software = from.at("software");
      session.peer = from.at("peer");
      session.visitors_live = from.at("visitors_live");
      session.visitors_total = from.at("visitors_total");
      for (const auto& one : from.at("tunnels")) {
        session.tunnels.push_back({.name = one.at("name"),
                                   .id = one.at("id"),
                                   .port = one.at("port"),
                                   .counts = {.visitors_total = one.at("visitors_total"),
                                              .visitors_live = one.at("visitors_live"),
                                              .visitors_refused = one.at("visitors_refused"),
                                              .bytes_up = one.at("bytes_up"),
                                              .bytes_down = one.at("bytes_down")}});
      }
    }
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
  return sessions;
}

std::string tunnels_json(const AgentStatus& status) {
  auto list = nlohmann::json::array();
  for (const TunnelStatus& tunnel : status.tunnels) {
    list.push_back({{"name", tunnel.name},
                    {"local", tunnel.local},
                    {"public_address", tunnel.public_address},
                    {"why_not", tunnel.why_not}});
  }
  return dumped({{"server", status.server},
                 {"client", status.client},
                 {"peer", status.peer},
                 {"draining", status.draining},
                 {"tunnels", std::move(list)}});
}

std::string conns_json(const ConnTable& conns, uint64_t now_ms) {
  auto list = nlohmann::json::array();
  conns.for_each([&](const ConnView& view) {
    list.push_back({{"id", view.id.word},
                    {"worker", view.id.shard()},
                    {"role", role_text(view.role)},
                    {"peer", view.peer.text()},
                    {"tunnel", view.tunnel},
                    {"bytes_received", view.bytes_received},
                    {"age_ms", now_ms > view.opened_ms ? now_ms - view.opened_ms : 0}});
  });
  return dumped({{"conns", std::move(list)}});
}

}  // namespace natrp
