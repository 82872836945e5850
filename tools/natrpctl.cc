// natrpctl: adds, changes, lists and removes the clients of an edge, through the files of its state folder. A running
// edge sees the change by itself. The sessions of a running edge it has from its admin server.

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <system_error>

#include "admin/admin_client.h"
#include "base/join_token.h"
#include "control/auth.h"
#include "control/tls_identity.h"
#include "runtime/options.h"
#include "store/state_dir.h"
#include "store/store.h"

namespace natrp {
namespace {

constexpr size_t kLastPortsShown = 8;

struct Tokens {
  std::string join;
  std::string plain;  // empty: none
  TokenHash join_hash{};
  std::optional<TokenHash> plain_hash;
};

std::string hex(std::span<const uint8_t> bytes) {
  std::string text;
  for (const uint8_t byte : bytes) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

Tokens make_tokens(const TlsIdentity& identity, bool plain) {
  Tokens tokens;
  JoinToken token{};
  random_bytes(token.secret);
  token.pin = identity.pin();
  tokens.join = format_join_token(token);
  tokens.join_hash = sha256(token.secret);
  if (plain) {
    std::array<uint8_t, 32> secret;
    random_bytes(secret);
    tokens.plain = hex(secret);
    // Of the text: the original client sends the word it was given, and nobody looks inside it.
    tokens.plain_hash = sha256({reinterpret_cast<const uint8_t*>(tokens.plain.data()), tokens.plain.size()});
  }
  return tokens;
}

// The last word is the join token, with a plain token and without: scripts take it.
void print_tokens(const Tokens& tokens) {
  if (!tokens.plain.empty()) {
    std::cout << "Its plain token, for agents of the original natrp only, sent in the clear by them:\n"
              << tokens.plain << '\n';
  }
  std::cout << "Its join token, shown this once:\n" << tokens.join << '\n';
}

std::string ports_text(const std::string& ports) { return ports.empty() ? "any" : ports; }

std::string limits_text(const ClientRecord& client) {
  return "ports " + ports_text(client.ports) + ", tunnels " + limit_text(client.tunnels_max) +
         ", visitors at once " + limit_text(client.conns_max);
}

Status add(const CtlOptions& options) {
  std::error_code unknown;  // a path that cannot be looked at cannot be made either: the next line says why
  const bool folder_was_there = std::filesystem::exists(options.state_dir, unknown);
  if (Status made = make_private_state_dir(options.state_dir); !made.ok()) return made;
  const auto identity = TlsIdentity::load_or_create(options.state_dir);
  if (!identity.ok()) return identity.error();
  auto store = Store::open(options.state_dir);
  if (!store.ok()) return store.error();
  const Tokens tokens = make_tokens(identity.value(), options.plain_token);
  ClientRecord client;
  client.name = options.name;
  client.token_hash = tokens.join_hash;
  client.plain_token_hash = tokens.plain_hash;
  client.ports = options.ports.value_or("");
  client.tunnels_max = options.tunnels_max.value_or(0);
  client.conns_max = options.conns_max.value_or(0);
  if (const auto added = store.value().add_client(client); !added.ok()) return added.error();
  std::cout << "Client '" << client.name << "' may open sessions: " << limits_text(client) << ".\n";
  print_tokens(tokens);
  if (!folder_was_there) {
    std::cerr << "natrpctl: there was no folder " << options.state_dir
              << ", so it was made: this client is known to an edge with --state " << options.state_dir << ".\n";
  }
  return Done{};
}

Status rotate(const CtlOptions& options) {
  auto store = Store::open(options.state_dir, Store::Missing::kRefuse);
  if (!store.ok()) return store.error();
  const auto client = store.value().find_by_name(options.name);
  if (!client.ok()) return client.error();
  const auto identity = TlsIdentity::load_or_create(options.state_dir);
  if (!identity.ok()) return identity.error();
  // A client that had a plain token gets another one; the old one never stays beside a new join token.
  const bool had_plain = client.value().has_value() && client.value()->plain_token_hash.has_value();
  const Tokens tokens = make_tokens(identity.value(), options.plain_token || had_plain);
  if (Status status = store.value().rotate(options.name, tokens.join_hash, tokens.plain_hash); !status.ok()) {
    return status;
  }
  std::cout << "The former token of client '" << options.name << "' opens no session any more.\n";
  print_tokens(tokens);
  return Done{};
}

Status set(const CtlOptions& options) {
  auto store = Store::open(options.state_dir, Store::Missing::kRefuse);
  if (!store.ok()) return store.error();
  const auto client =
      store.value().set_limits(options.name, {options.ports, options.tunnels_max, options.conns_max});
  if (!client.ok()) return client.error();
  std::cout << "Client '" << options.name << "' may have from now on: " << limits_text(client.value()) << ".\n";
  return Done{};
}

Status remove(const CtlOptions& options) {
  auto store = Store::open(options.state_dir, Store::Missing::kRefuse);
  if (!store.ok()) return store.error();
  if (Status status = store.value().remove_client(options.name); !status.ok()) return status;
  std::cout << "Client '" << options.name
            << "' is removed; a running edge ends its sessions and closes its ports.\n";
  return Done{};
}

using Row = std::vector<std::string>;

// Columns as wide as their widest cell.
void print_table(const std::vector<Row>& rows) {
  Row::size_type columns = rows.front().size();
  std::vector<size_t> widths(columns);
  for (const Row& row : rows) {
    for (size_t i = 0; i < columns; ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < columns; ++i) {
      line += row[i];
      if (i + 1 < columns) line += std::string(widths[i] - row[i].size() + 2, ' ');
    }
    std::cout << line << '\n';
  }
}

Status list(const CtlOptions& options) {
  auto store = Store::open(options.state_dir, Store::Missing::kRefuse);
  if (!store.ok()) return store.error();
  const auto clients = store.value().list_clients();
  if (!clients.ok()) return clients.error();
  const auto leases = store.value().list_leases();
  if (!leases.ok()) return leases.error();
  if (clients.value().empty()) {
    std::cout << "There are no clients: add one with `natrpctl client add NAME`.\n";
    return Done{};
  }
  std::vector<Row> rows = {{"NAME", "PORTS", "TUNNELS-MAX", "CONNS-MAX", "PLAIN-TOKEN", "LAST-PORTS"}};
  for (const ClientRecord& client : clients.value()) {
    // The youngest first: a client of a thousand tunnels has a line that can be read.
    std::string last;
    size_t of_it = 0;
    for (auto lease = leases.value().rbegin(); lease != leases.value().rend(); ++lease) {
      if (lease->client != client.name || ++of_it > kLastPortsShown) continue;
      last += (last.empty() ? "" : " ") + lease->tunnel + "=" + std::to_string(lease->port);
    }
    if (of_it > kLastPortsShown) last += " and " + std::to_string(of_it - kLastPortsShown) + " more";
    rows.push_back({client.name, ports_text(client.ports), limit_text(client.tunnels_max),
                    limit_text(client.conns_max), client.plain_token_hash.has_value() ? "yes" : "no",
                    last.empty() ? "-" : last});
  }
  print_table(rows);
  return Done{};
}

std::string bytes_text(uint64_t bytes) {
  if (bytes < 1000) return std::to_string(bytes) + " B";
  double count = static_cast<double>(bytes);
  size_t unit = 0;
  constexpr std::array kUnits = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
  for (; count >= 999.95; count /= 1000) ++unit;
  std::array<char, 16> text;
  std::snprintf(text.data(), text.size(), "%.1f %s", count, kUnits[unit]);
  return text.data();
}

Status list_sessions(const CtlOptions& options) {
  const auto sessions = ask_for_sessions(options.admin);
  if (!sessions.ok()) return sessions.error();
  if (sessions.value().empty()) {
    std::cout << "There are no sessions: no agent is connected.\n";
    return Done{};
  }
  std::vector<Row> rows = {
      {"CLIENT", "SESSION", "AGENT", "TUNNEL", "PORT", "VISITORS-NOW", "VISITORS", "REFUSED", "UP", "DOWN"}};
  for (const SessionInfo& session : sessions.value()) {
    const Row of_session = {session.client, std::to_string(session.session),
                            session.peer.empty() ? "several" : session.peer};
    for (const auto& tunnel : session.tunnels) {
      const TunnelCounts& counts = tunnel.counts;
      Row row = of_session;
      row.insert(row.end(), {tunnel.name, std::to_string(tunnel.port), std::to_string(counts.visitors_live),
                             std::to_string(counts.visitors_total), std::to_string(counts.visitors_refused),
                             bytes_text(counts.bytes_up), bytes_text(counts.bytes_down)});
      rows.push_back(std::move(row));
    }
    if (session.tunnels.empty()) {
      Row row = of_session;
      row.resize(rows.front().size(), "-");
      rows.push_back(std::move(row));
    }
  }
  print_table(rows);
  return Done{};
}

Status run(const CtlOptions& options) {
  switch (options.action) {
    case CtlAction::kClientAdd: return add(options);
    case CtlAction::kClientSet: return set(options);
    case CtlAction::kClientList: return list(options);
    case CtlAction::kClientRemove: return remove(options);
    case CtlAction::kTokenRotate: return rotate(options);
    case CtlAction::kSessionList: return list_sessions(options);
  }
  return Error{"natrpctl knows no such command"};
}

}  // namespace
}  // namespace natrp

int main(int argc, char** argv) {
  const auto outcome = natrp::parse_ctl_options(argc, argv);
  if (!outcome.run) return outcome.end.say();
  const natrp::Status status = natrp::run(outcome.options);
  if (!status.ok()) {
    std::cerr << "natrpctl: " << status.error().message << '\n';
    return 2;
  }
  // A token that did not reach its reader (a full disk) is lost: the caller has to know.
  std::cout.flush();
  if (!std::cout) {
    const auto action = outcome.options.action;
    const bool had_token = action == natrp::CtlAction::kClientAdd || action == natrp::CtlAction::kTokenRotate;
    std::cerr << "natrpctl: standard output could not be written, and what was to be printed is lost"
              << (had_token ? "; `natrpctl token rotate` makes another token" : "") << '\n';
    return 2;
  }
  return 0;
}
