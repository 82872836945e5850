#include "edge/edge_leases.h"

#include <algorithm>
#include <cerrno>
#include <unordered_map>

#include "base/check.h"
#include "base/limits.h"
#include "base/log.h"
#include "net/socket.h"

namespace natrp {
namespace {

// How often a wanted `any` port may turn out to be another process's before the agent is told.
constexpr unsigned kBindTries = 64;

Result<LeaseRequest> request_of(const ClientRecord& client, const std::string& tunnel, PortWish wish,
                                SlotId session) {
  LeaseRequest request{client.name, tunnel, session, wish, {}};
  auto policy = ports_of(client);
  if (!policy.ok()) return Error{"the client's ports cannot be read"};
  request.policy = std::move(policy).value();
  return request;
}

LeasedPort refusal_of(const LeaseAnswer& answer) {
  const auto refused = [&answer](wire::Refused::Code code, bool final = false) {
    return LeasedPort{0, -1, code, answer.sentence, final};
  };
  switch (answer.refusal) {
    case LeaseRefusal::kPortNotAllowed: return refused(wire::Refused::PORT_NOT_ALLOWED, true);
    case LeaseRefusal::kNoneAllowed: return refused(wire::Refused::PORT_NOT_ALLOWED);
    case LeaseRefusal::kPortInUse: return refused(wire::Refused::PORT_IN_USE);
    case LeaseRefusal::kRangeExhausted:
    case LeaseRefusal::kNone: break;
  }
  return refused(wire::Refused::RANGE_EXHAUSTED);
}

// Only a port in use is its port's fault. No descriptor, no right, no address: another port would fare no better.
LeasedPort refusal_of(uint16_t port, const Error& error) {
  const auto code = error.errno_value == EADDRINUSE ? wire::Refused::PORT_IN_USE : wire::Refused::INTERNAL;
  return {0, -1, code, "port " + std::to_string(port) + ": " + error.message, false};
}

void log_each(const std::string& what, const std::vector<TunnelPort>& ports) {
  for (const TunnelPort& its : ports) {
    log_info(what, {{"client", its.client}, {"tunnel", its.tunnel}, {"port", static_cast<int>(its.port)}});
  }
}

}  // namespace

Result<PortSet> ports_of(const ClientRecord& client) {
  if (client.ports.empty()) return PortSet();
  return PortSet::parse(client.ports);
}

bool may_have(const ClientRecord& client, uint16_t port) {
  const auto ports = ports_of(client);
  return !ports.ok() || ports.value().empty() || ports.value().contains(port);
}

EdgeLeases::EdgeLeases(const EdgeOptions& options, Loop& loop, Store& store, PublicPorts& ports,
                       uint64_t listeners_most)
    : options_(options),
      loop_(loop),
      ports_(ports),
      listeners_most_(listeners_most),
      leases_(options.ports, static_cast<uint64_t>(options.grace_seconds) * 1000),
      writer_(store),
      refreshed_ms_(loop.turn_ms()) {}

EdgeLeases::~EdgeLeases() { loop_.timers().disarm(write_soon_); }

void EdgeLeases::restore(const std::vector<ClientRecord>& clients, const std::vector<LeaseRecord>& records,
                         const std::vector<Fd>& handed) {
  // The store has a lease for each tunnel that a client ever had. Kept for their tunnels are those that were live or in
  // grace when the last edge ended: their times are at most two hours (kLeaseFreshS) and the grace older than the
  // youngest, or their listeners were handed on. A client never had more of them at once than its tunnels_max: where
  // there are more, those that were handed on are kept, and the youngest. Of all others, and of ports that a client may
  // not have any more, it is only remembered that they were their tunnels' last ports, as the edge before did.
  std::set<uint16_t> listening;
  for (const Fd& listener : handed) listening.insert(local_address(listener.get()).port());
  // One that was handed on was live a moment ago, whatever its time says: it was written within the hour.
  std::vector<LeaseRecord> in_order = records;
  std::stable_partition(in_order.begin(), in_order.end(),
                        [&](const LeaseRecord& lease) { return !listening.contains(lease.port); });
  // A time to come was written by a clock that was wrong.
  int64_t youngest_s = 0;
  for (const LeaseRecord& lease : records) {
    if (lease.updated_s <= time(nullptr)) youngest_s = std::max(youngest_s, lease.updated_s);
  }
  const int64_t live_since_s = youngest_s - 2 * kLeaseFreshS - int64_t{options_.grace_seconds};
  struct Limits {
    PortSet ports;
    uint32_t most = 0;
    uint32_t left = 0;
  };
  std::unordered_map<std::string, Limits> limits;
  for (const ClientRecord& client : clients) {
    const auto ports = ports_of(client);
    limits[client.name] = {ports.ok() ? ports.value() : PortSet(), client.tunnels_max};
  }
  const auto allowed = [&](const LeaseRecord& lease) {
    const bool was_live = lease.updated_s >= live_since_s || listening.contains(lease.port);
    const PortSet& ports = limits[lease.client].ports;
    return was_live && (ports.empty() || ports.contains(lease.port));
  };
  for (const LeaseRecord& lease : records) limits[lease.client].left += allowed(lease) ? 1 : 0;
  std::vector<uint16_t> outside;
  for (const LeaseRecord& lease : in_order) {
    Limits& of = limits[lease.client];
    const bool kept = allowed(lease) && (of.left-- <= of.most || of.most == 0);
    if (kept && !options_.ports.contains(lease.port)) outside.push_back(lease.port);
    if (kept) {
      leases_.restore(lease.client, lease.tunnel, lease.port, now_ms());
    } else {
      leases_.remember(lease.client, lease.tunnel, lease.port);
    }
  }
  if (outside.empty()) return;
  log_warning("ports that tunnels had are outside of --ports now, and an agent that asks for one by number will end",
              {{"tunnels", static_cast<uint64_t>(outside.size())}, {"port", static_cast<int>(outside.front())}});
}

void EdgeLeases::take_listeners(std::vector<Fd> listeners) {
  handed_.take(std::move(listeners), leases_, now_ms());
}

void EdgeLeases::set_clients(const std::vector<ClientRecord>& clients) {
  std::string all;
  for (const ClientRecord& client : clients) {
    const auto ports = ports_of(client);
    if (ports.ok() && !ports.value().empty()) all += (all.empty() ? "" : ",") + client.ports;
  }
  leases_.set_named(all.empty() ? PortSet() : PortSet::parse(all).value());
}

Result<Fd> EdgeLeases::listen(uint16_t port) const {
  return listen_on(address_of(port), {.keepalive = Keepalive::kSlow}, kListenBacklog);
}

LeasedPort EdgeLeases::check(const ClientRecord& client, const std::string& tunnel, PortWish wish) {
  auto request = request_of(client, tunnel, wish, {});
  if (!request.ok()) return {0, -1, wire::Refused::INTERNAL, request.error().message, false};
  tell_free();
  const LeaseAnswer answer = leases_.ask(request.value(), now_ms());
  if (!answer.ok()) return refusal_of(answer);
  const Lease* lease = leases_.find(answer.port);
  if ((lease == nullptr || lease->state != LeaseState::kLive) && !handed_.has(answer.port)) {
    if (auto probe = listen(answer.port); !probe.ok()) return refusal_of(answer.port, probe.error());
  }
  LeasedPort out;
  out.port = answer.port;
  return out;
}

LeasedPort EdgeLeases::lease(const ClientRecord& client, const std::string& tunnel, PortWish wish, SlotId session,
                             const EdgeTunnel& shared) {
  auto request = request_of(client, tunnel, wish, session);
  if (!request.ok()) return {0, -1, wire::Refused::INTERNAL, request.error().message, false};
  if (ports_.count() >= listeners_most_) {
    // Else one client without a --tunnels-max takes the descriptors of all visitors.
    const std::string sentence = "this edge has " + std::to_string(ports_.count()) +
                                 " ports open, as many as its descriptor limit allows; its operator can raise that";
    return {0, -1, wire::Refused::INTERNAL, sentence, false};
  }
  tell_free();
  if (client.tunnels_max != 0) log_each("lease free", leases_.make_room(client.name, tunnel, client.tunnels_max));
  LeasedPort out;
  for (unsigned attempt = 0; attempt < kBindTries; ++attempt) {
    const LeaseAnswer answer = leases_.reserve(request.value(), now_ms());
    if (!answer.ok()) return refusal_of(answer);
    NATRP_CHECK(!ports_.is_open(answer.released), "who had the tunnel before has closed its port");
    Fd handed = handed_.claim(address_of(answer.port), client.name, tunnel);
    auto listener = handed.valid() ? Result<Fd>(std::move(handed)) : listen(answer.port);
    if (listener.ok()) {
      leases_.mark_live(answer.port, session);
      writer_.remember(client.name, tunnel, answer.port);
      if (!writer_.failing() && !write_soon_.armed()) loop_.timers().arm(write_soon_, kLeaseWriteMs);
      out.port = answer.port;
      out.listener = ports_.open(std::move(listener).value(), answer.port, shared);
      return out;
    }
    out = refusal_of(answer.port, listener.error());
    if (out.code == wire::Refused::INTERNAL) {
      leases_.suspend(answer.port, session, now_ms());
      return out;
    }
    leases_.mark_taken(answer.port, session, now_ms());
    if (wish.wanted != 0) return out;
  }
  return out;
}

void EdgeLeases::write() {
  writer_.write();
  if (writer_.kept() > 0 || now_ms() - refreshed_ms_ < uint64_t{kLeaseFreshS} * 1000) return;
  refreshed_ms_ = now_ms();
  std::vector<LeaseRecord> live;
  for (const auto& [port, lease] : leases_.all()) {
    if (lease.state == LeaseState::kLive) live.push_back({lease.client, lease.tunnel, port, time(nullptr)});
  }
  writer_.keep(std::move(live));
  writer_.write();
}

void EdgeLeases::session_lost(SlotId session) {
  for (const TunnelPort& lost : leases_.session_lost(session, now_ms())) {
    log_info("lease in grace", {{"client", lost.client},
                                {"tunnel", lost.tunnel},
                                {"port", static_cast<int>(lost.port)},
                                {"seconds", options_.grace_seconds}});
  }
  tell_free();
}

void EdgeLeases::take_away(const std::string& client, const PortSet& ports) {
  log_each("lease free", leases_.take_away(client, ports));
}

void EdgeLeases::end_with_client(const std::string& client) {
  writer_.forget_client(client);
  log_each("lease ended with its client", leases_.remove_client(client));
}

void EdgeLeases::expire() {
  log_each("port was handed on, and its tunnel has not come: it closes", handed_.expire(now_ms()));
  tell_free();
}

// Before somebody else has one of them: the log's last line of a port says what it is.
void EdgeLeases::tell_free() {
  log_each("lease free", leases_.expire(now_ms()));
}

}  // namespace natrp
