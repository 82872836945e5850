#include "control/port_lease.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace natrp {
namespace {

LeaseAnswer refuse(LeaseRefusal refusal, std::string sentence) {
  LeaseAnswer answer;
  answer.refusal = refusal;
  answer.sentence = std::move(sentence);
  return answer;
}

LeaseAnswer give(uint16_t port) {
  LeaseAnswer answer;
  answer.port = port;
  return answer;
}

// FNV-1a. Where the search for a free port begins: an edge that lost its store still gives most tunnels the
// ports they had, and a port just left is not the next one given.
uint64_t hash_owner(const std::string& client, const std::string& tunnel) {
  uint64_t hash = 0xcbf29ce484222325u;
  const auto add = [&hash](unsigned char byte) { hash = (hash ^ byte) * 0x100000001b3u; };
  for (const char c : client) add(static_cast<unsigned char>(c));
  add(0);
  for (const char c : tunnel) add(static_cast<unsigned char>(c));
  return hash;
}

}  // namespace

void PortLeases::restore(const std::string& client, const std::string& tunnel, uint16_t port, uint64_t now_ms) {
  if (!range_.contains(port)) return;
  remember(client, tunnel, port);
  put(port, Lease{client, tunnel, {}, LeaseState::kReserved, 0});
  begin_grace(port, leases_.at(port), now_ms);
}

void PortLeases::remember(const std::string& client, const std::string& tunnel, uint16_t port) {
  if (!range_.contains(port)) return;
  const Owner owner{client, tunnel};
  // The last word of two about one port, or one tunnel, counts.
  if (leases_.contains(port)) drop(port);
  if (const auto other = port_of_.find(owner); other != port_of_.end()) drop(other->second);
  make_sticky(owner, port);
}

void PortLeases::make_sticky(const Owner& owner, uint16_t port) {
  if (const auto former = sticky_port_of_.find(owner); former != sticky_port_of_.end())
    sticky_.erase(former->second);
  if (const auto other = sticky_.find(port); other != sticky_.end())
    sticky_port_of_.erase(other->second.owner);
  sticky_[port] = Sticky{owner, ++order_};
  sticky_port_of_[owner] = port;
}

void PortLeases::put(uint16_t port, Lease lease) {
  port_of_[{lease.client, lease.tunnel}] = port;
  ++count_of_[lease.client];
  of_sessions_.insert({lease.session.word, port});
  leases_[port] = std::move(lease);
}

TunnelPort PortLeases::drop(uint16_t port) {
  const auto at = leases_.find(port);
  NATRP_CHECK(at != leases_.end(), "a lease that is dropped exists");
  const Lease& lease = at->second;
  TunnelPort dropped{lease.client, lease.tunnel, port};
  port_of_.erase({lease.client, lease.tunnel});
  if (--count_of_[lease.client] == 0) count_of_.erase(lease.client);
  of_sessions_.erase({lease.session.word, port});
  leases_.erase(at);
  return dropped;
}

template <typename Which>
std::vector<TunnelPort> PortLeases::drop_all(Which which) {
  std::vector<uint16_t> ports;
  for (const auto& [port, lease] : leases_) {
    if (which(port, lease)) ports.push_back(port);
  }
  std::vector<TunnelPort> dropped;
  for (const uint16_t port : ports) dropped.push_back(drop(port));
  return dropped;
}

void PortLeases::begin_grace(uint16_t port, Lease& lease, uint64_t now_ms) {
  lease.state = LeaseState::kGrace;
  lease.grace_ends_ms = now_ms + grace_ms_;
  of_sessions_.erase({lease.session.word, port});
  first_grace_ends_ms_ = std::min(first_grace_ends_ms_, lease.grace_ends_ms);
}

bool PortLeases::allowed(const LeaseRequest& request, uint16_t port) const {
  return range_.contains(port) && (request.policy.empty() || request.policy.contains(port));
}

LeaseAnswer PortLeases::ask(const LeaseRequest& request, uint64_t now_ms) {
  end_graces(now_ms);
  return request.wish.wanted != 0 ? reserve_wanted(request) : choose_any(request);
}

LeaseAnswer PortLeases::reserve(const LeaseRequest& request, uint64_t now_ms) {
  LeaseAnswer answer = ask(request, now_ms);
  if (!answer.ok()) return answer;

  const Owner owner{request.client, request.tunnel};
  if (const auto own = port_of_.find(owner); own != port_of_.end()) {
    const uint16_t former = own->second;
    if (former != answer.port) answer.released = former;
    drop(former);
  }
  put(answer.port, Lease{request.client, request.tunnel, request.session, LeaseState::kReserved, 0});
  return answer;
}

LeaseAnswer PortLeases::reserve_wanted(const LeaseRequest& request) const {
  const std::string port = std::to_string(request.wish.wanted);
  if (!range_.contains(request.wish.wanted)) {
    return refuse(LeaseRefusal::kPortNotAllowed, "port " + port +
                                                     " is not one of this edge's public ports (" +
                                                     range_.format_short() + "): ask for one of them, or for any");
  }
  if (!allowed(request, request.wish.wanted)) {
    if (!request.policy.intersects(range_)) return none_allowed(request);
    return refuse(LeaseRefusal::kPortNotAllowed, "client '" + request.client + "' may not have port " + port +
                                                     ": its ports are " + request.policy.format_short());
  }
  const Lease* lease = find(request.wish.wanted);
  if (lease == nullptr || (lease->client == request.client && lease->tunnel == request.tunnel)) {
    return give(request.wish.wanted);
  }
  // Another client's name is not this client's business.
  const std::string who = lease->client == request.client
                              ? "tunnel '" + lease->tunnel + "' of the same client"
                              : std::string("another client");
  const std::string how = lease->state == LeaseState::kGrace ? " is kept for " : " is in use by ";
  return refuse(LeaseRefusal::kPortInUse, "port " + port + how + who + ": ask for another port, or for any");
}

bool PortLeases::is_free_for(const LeaseRequest& request, uint16_t port) const {
  return allowed(request, port) && !leases_.contains(port) && !taken_until_ms_.contains(port);
}

uint16_t PortLeases::best_of(const PortSet& ports, const LeaseRequest& request) const {
  if (ports.empty()) return 0;
  const size_t count = ports.size();
  uint16_t port = ports.nth(hash_owner(request.client, request.tunnel) % count);
  const Sticky* oldest = nullptr;
  uint16_t oldest_port = 0;
  for (size_t looked_at = 0; looked_at < count; ++looked_at, port = ports.next(port)) {
    if (!is_free_for(request, port)) continue;
    const auto sticky = sticky_.find(port);
    if (sticky == sticky_.end()) return port;
    if (oldest == nullptr || sticky->second.order < oldest->order) {
      oldest = &sticky->second;
      oldest_port = port;
    }
  }
  return oldest_port;
}

// If it is free; else 0.
uint16_t PortLeases::last_port_of(const LeaseRequest& request) const {
  const auto remembered = sticky_port_of_.find({request.client, request.tunnel});
  const bool is_nobodys = !sticky_.contains(request.wish.had);
  const uint16_t last = remembered != sticky_port_of_.end() ? remembered->second : is_nobodys ? request.wish.had : 0;
  return last != 0 && is_free_for(request, last) ? last : 0;
}

LeaseAnswer PortLeases::choose_any(const LeaseRequest& request) const {
  const Owner owner{request.client, request.tunnel};
  if (const auto own = port_of_.find(owner); own != port_of_.end() && allowed(request, own->second)) {
    return give(own->second);
  }
  const uint16_t last = last_port_of(request);
  if (request.policy.empty() && !unnamed_.contains(last)) {
    if (const uint16_t port = best_of(unnamed_, request); port != 0) return give(port);
  }
  if (last != 0) return give(last);
  // A policy that names few ports is walked itself; either way each port is looked at once.
  const PortSet& walked =
      !request.policy.empty() && request.policy.size() < range_.size() ? request.policy : range_;
  const uint16_t port = best_of(walked, request);
  return port != 0 ? give(port) : exhausted(request);
}

LeaseAnswer PortLeases::none_allowed(const LeaseRequest& request) const {
  return refuse(LeaseRefusal::kNoneAllowed,
                "none of the ports of client '" + request.client + "' (" + request.policy.format_short() +
                    ") is one of this edge's public ports (" + range_.format_short() +
                    "): the operator has to widen one of them");
}

LeaseAnswer PortLeases::exhausted(const LeaseRequest& request) const {
  size_t permitted = 0;
  size_t leased = 0;
  size_t kept = 0;
  size_t taken = 0;
  uint16_t port = 0;
  for (size_t left = range_.size(); left > 0; --left) {
    port = range_.next(port);
    if (!allowed(request, port)) continue;
    ++permitted;
    if (const Lease* lease = find(port); lease != nullptr) {
      ++(lease->state == LeaseState::kGrace ? kept : leased);
    } else if (taken_until_ms_.contains(port)) {
      ++taken;
    }
  }
  if (permitted == 0) return none_allowed(request);
  const std::string remedy = request.policy.empty()
                                 ? "widen --ports or remove clients"
                                 : "let it have others (natrpctl client set " + request.client + " --ports PORTS)";
  return refuse(LeaseRefusal::kRangeExhausted,
                "no public port is free: of the " + std::to_string(permitted) + " that client '" +
                    request.client + "' may have, " + std::to_string(leased) + " are leased, " +
                    std::to_string(kept) + " are kept for agents that may come back and " + std::to_string(taken) +
                    " are in use by other programs; the operator can " + remedy);
}

bool PortLeases::mark_live(uint16_t port, SlotId session) {
  const auto lease = leases_.find(port);
  if (lease == leases_.end() || !(lease->second.session == session)) return false;
  if (lease->second.state != LeaseState::kReserved) return false;
  lease->second.state = LeaseState::kLive;
  taken_until_ms_.erase(port);
  make_sticky({lease->second.client, lease->second.tunnel}, port);
  return true;
}

void PortLeases::suspend(uint16_t port, SlotId session, uint64_t now_ms) {
  const auto lease = leases_.find(port);
  if (lease == leases_.end() || !(lease->second.session == session)) return;
  begin_grace(port, lease->second, now_ms);
}

void PortLeases::mark_taken(uint16_t port, SlotId session, uint64_t now_ms) {
  taken_until_ms_[port] = now_ms + kTakenMs;
  const Lease* lease = find(port);
  if (lease != nullptr && lease->session == session) drop(port);
}

std::vector<TunnelPort> PortLeases::session_lost(SlotId session, uint64_t now_ms) {
  std::vector<TunnelPort> lost;
  for (auto at = of_sessions_.lower_bound({session.word, 0});
       at != of_sessions_.end() && at->first == session.word; ++at) {
    const Lease& lease = leases_.at(at->second);
    lost.push_back({lease.client, lease.tunnel, at->second});
  }
  for (const TunnelPort& its : lost) begin_grace(its.port, leases_.at(its.port), now_ms);
  end_graces(now_ms);
  return lost;
}

std::vector<TunnelPort> PortLeases::remove_client(const std::string& client) {
  auto dropped = drop_all([&](uint16_t, const Lease& lease) { return lease.client == client; });
  std::erase_if(sticky_, [&](const auto& entry) { return entry.second.owner.first == client; });
  std::erase_if(sticky_port_of_, [&](const auto& entry) { return entry.first.first == client; });
  return dropped;
}

std::vector<TunnelPort> PortLeases::take_away(const std::string& client, const PortSet& policy) {
  if (policy.empty()) return {};
  return drop_all([&](uint16_t port, const Lease& lease) { return lease.client == client && !policy.contains(port); });
}

std::set<std::string> PortLeases::clients() const {
  std::set<std::string> names;
  for (const auto& [port, lease] : leases_) names.insert(lease.client);
  for (const auto& [owner, port] : sticky_port_of_) names.insert(owner.first);
  return names;
}

std::vector<TunnelPort> PortLeases::make_room(const std::string& client, const std::string& tunnel, uint32_t most) {
  const auto count = count_of_.find(client);
  if (count == count_of_.end()) return {};
  size_t others = count->second - port_of_.count({client, tunnel});
  if (others < most) return {};
  std::vector<std::pair<uint64_t, uint16_t>> in_grace;
  for (auto at = port_of_.lower_bound({client, ""}); at != port_of_.end() && at->first.first == client; ++at) {
    const Lease& lease = leases_.at(at->second);
    if (lease.tunnel == tunnel || lease.state != LeaseState::kGrace) continue;
    in_grace.emplace_back(lease.grace_ends_ms, at->second);
  }
  std::sort(in_grace.begin(), in_grace.end());
  std::vector<TunnelPort> dropped;
  for (const auto& [ends_ms, port] : in_grace) {
    if (others-- < most) break;
    dropped.push_back(drop(port));
  }
  return dropped;
}

std::vector<TunnelPort> PortLeases::expire(uint64_t now_ms) {
  end_graces(now_ms);
  return std::exchange(expired_, {});
}

void PortLeases::end_graces(uint64_t now_ms) {
  std::erase_if(taken_until_ms_, [&](const auto& entry) { return entry.second <= now_ms; });
  if (now_ms < first_grace_ends_ms_) return;
  first_grace_ends_ms_ = UINT64_MAX;
  const auto ended = drop_all([&](uint16_t, const Lease& lease) {
    if (lease.state != LeaseState::kGrace) return false;
    if (lease.grace_ends_ms <= now_ms) return true;
    first_grace_ends_ms_ = std::min(first_grace_ends_ms_, lease.grace_ends_ms);
    return false;
  });
  expired_.insert(expired_.end(), ended.begin(), ended.end());
}

const Lease* PortLeases::find(uint16_t port) const {
  const auto lease = leases_.find(port);
  return lease == leases_.end() ? nullptr : &lease->second;
}

}  // namespace natrp
