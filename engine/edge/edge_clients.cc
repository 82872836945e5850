// The edge's clients: what it means for their sessions, tunnels and ports when the operator changes them.
#include <algorithm>
#include <utility>

#include "base/log.h"
#include "edge/edge.h"

namespace natrp {
namespace {

bool have_same_limits(const ClientRecord& a, const ClientRecord& b) {
  return a.ports == b.ports && a.tunnels_max == b.tunnels_max && a.conns_max == b.conns_max;
}

}  // namespace

Edge::ClientsByName Edge::by_name(const std::vector<ClientRecord>& clients) {
  ClientsByName named;
  for (const ClientRecord& client : clients) named[client.name] = client;
  return named;
}

void Edge::meet(const ClientRecord& client) {
  if (find_client(client.name, client.id) == nullptr) store_watch_->look();
}

// nullptr: there is none of this name, or it is another one that was added under it.
const ClientRecord* Edge::find_client(const std::string& name, int64_t id) const {
  const auto at = clients_.find(name);
  return at != clients_.end() && at->second.id == id ? &at->second : nullptr;
}

void Edge::on_clients_changed(std::vector<ClientRecord> clients) {
  const std::vector<ClientRecord> changed = with_other_limits(clients);
  client_conns_.update(clients);
  leases_->set_clients(clients);
  auto now_there = by_name(clients);
  tell_changes(now_there);
  forget_removed_clients(std::move(now_there));
  for (size_t i = 0; i < registrations_.size(); ++i) {
    Registration& each = *registrations_[i];
    if (each.session().valid() && !each.closing()) update_or_refuse(each);
  }
  if (grpc_) grpc_->set_clients(std::move(clients));
  for (const ClientRecord& client : changed) honour_limits(client);
}

void Edge::update_or_refuse(Registration& registration) {
  const std::string& name = registration.client();
  const ClientRecord* now = find_client(name, registration.client_id());
  if (now == nullptr) {
    return registration.refuse(wire::Refused::CLIENT_REMOVED,
                               "client '" + name + "' was removed by the edge's operator; ask for a new token", true);
  }
  if (now->token_hash != registration.token_hash()) {
    return registration.refuse(wire::Refused::CLIENT_REMOVED,
                               "the edge's operator gave client '" + name +
                                   "' a new token: this agent has the old one, ask for the new one",
                               true);
  }
  registration.set_client(*now);
}

std::vector<ClientRecord> Edge::with_other_limits(const std::vector<ClientRecord>& clients) const {
  std::vector<ClientRecord> found;
  for (const ClientRecord& client : clients) {
    const ClientRecord* before = find_client(client.name, client.id);
    if (before != nullptr && !have_same_limits(*before, client)) found.push_back(client);
  }
  return found;
}

// A session that holds what its client may not have any more ends: its agent comes back for what is left to it, and
// is told by the usual rules of what is not. Visitors that flow are no part of that, they outlive sessions.
void Edge::honour_limits(const ClientRecord& client) {
  const auto policy = ports_of(client);
  if (!policy.ok()) return log_error("a client's ports cannot be read", {{"client", client.name}});
  const PortSet& ports = policy.value();
  const std::string ports_text = ports.empty() ? "any" : ports.format_short();
  log_info("a client may have other things than before", {{"client", client.name},
                                                          {"ports", ports_text},
                                                          {"tunnels_max", limit_text(client.tunnels_max)},
                                                          {"conns_max", limit_text(client.conns_max)}});
  warn_of_useless_ports(client);
  const std::string changed = "the edge's operator changed what client '" + client.name + "' may have: ";
  for (Registration* each : holders(client)) {
    const auto port = ports.empty() ? std::nullopt : each->port_outside(ports);
    if (!port) continue;
    each->refuse(wire::Refused::PORT_NOT_ALLOWED,
                 changed + "port " + std::to_string(*port) + " is not among its ports any more (" + ports_text + ")",
                 false);
  }
  for (Registration* each : holders(client)) {
    const size_t held = registry_.tunnels_held(client.name);
    if (client.tunnels_max == 0 || held <= client.tunnels_max) break;
    each->refuse(wire::Refused::TOO_MANY_TUNNELS,
                 changed + std::to_string(client.tunnels_max) +
                     (client.tunnels_max == 1 ? " tunnel" : " tunnels") + " at a time, and it has " +
                     std::to_string(held),
                 false);
  }
  leases_->take_away(client.name, ports);
}

// natrpctl writes what it is told: it does not know what this edge was started with.
void Edge::warn_of_useless_ports(const ClientRecord& client) const {
  const auto policy = ports_of(client);
  if (!policy.ok() || policy.value().empty()) return;
  if (policy.value().intersects(options_.ports)) return;
  log_warning("none of the client's ports is one of this edge's --ports: its agents will be refused",
              {{"client", client.name},
               {"ports", policy.value().format_short()},
               {"edge_ports", options_.ports.format_short()}});
}

std::vector<Registration*> Edge::holders(const ClientRecord& client) {
  std::vector<Registration*> found;
  for (auto at = registrations_.rbegin(); at != registrations_.rend(); ++at) {
    Registration& each = **at;
    if (each.client_id() == client.id && each.tunnels() != 0) found.push_back(&each);
  }
  // What a session that is going anyway gives up, no other has to.
  std::stable_partition(found.begin(), found.end(), [](const Registration* each) { return each->closing(); });
  return found;
}

// Who may connect is changed by another program, and this log is where an operator looks for it.
void Edge::tell_changes(const ClientsByName& now_there) const {
  for (const auto& [name, client] : now_there) {
    const auto before = clients_.find(name);
    if (before == clients_.end()) {
      log_info("a client was added", {{"client", name}});
      warn_of_useless_ports(client);
    } else if (before->second.id != client.id) {
      log_info("a client was removed and added again", {{"client", name}});
    } else if (before->second.token_hash != client.token_hash) {
      log_info("a client has a new token, and the former one opens no session any more", {{"client", name}});
    }
  }
  for (const auto& [name, client] : clients_) {
    if (now_there.count(name) == 0) log_info("a client was removed", {{"client", name}});
  }
}

// Their leases and what they had last: nobody's. One that was added again under its name is another client.
void Edge::forget_removed_clients(ClientsByName now_there) {
  for (const std::string& name : leases_->clients()) {
    const auto now = now_there.find(name);
    const auto before = clients_.find(name);
    if (now != now_there.end() && (before == clients_.end() || before->second.id == now->second.id)) continue;
    leases_->end_with_client(name);
  }
  clients_ = std::move(now_there);
  client_conns_.tidy();
}

}  // namespace natrp
