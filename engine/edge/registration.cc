#include "edge/registration.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/log.h"
#include "base/names.h"
#include "control/auth.h"
#include "control/frame_codec.h"
#include "edge/edge.h"
#include "net/socket.h"

namespace natrp {
namespace {

constexpr uint32_t kProtocolVersion = 1;
constexpr uint32_t kContestStepMs = 100;
constexpr uint32_t kContestLooks = kSessionSilentMs / kContestStepMs;

// What the agent had is a hint: none where it is no port.
PortWish wish_of(const wire::Register& wanted) {
  return {.wanted = static_cast<uint16_t>(wanted.wanted_port()),
          .had = static_cast<uint16_t>(wanted.had_port() <= 65535 ? wanted.had_port() : 0)};
}

ControlChannelTimes times_until(uint64_t deadline_ms, uint64_t now_ms) {
  ControlChannelTimes times;
  times.hello_timeout_ms = deadline_ms > now_ms ? static_cast<uint32_t>(deadline_ms - now_ms) : 0;
  return times;
}

}  // namespace

Registration::Registration(Edge& edge, Fd fd, TlsStream tls, std::string_view prefix, uint64_t deadline_ms)
    : edge_(edge),
      peer_(peer_address(fd.get()).text()),
      channel_(edge.loop(), std::move(fd), std::move(tls), *this, prefix, times_until(deadline_ms, edge.now_ms())) {}

Registration::~Registration() {
  while (!contests_.empty()) end_contest(contests_.begin()->first);
}

// --- Messages -----------------------------------------------------------------------------------------------------

void Registration::on_frame(const wire::Frame& frame) {
  switch (frame.body_case()) {
    case wire::Frame::kHello: return on_hello(frame.hello());
    case wire::Frame::kAuth: return on_auth(frame.auth());
    case wire::Frame::kRegisterTunnel: return on_register(frame.register_tunnel());
    case wire::Frame::kServiceFailed: return on_service_failed(frame.service_failed());
    case wire::Frame::kDrain: return on_drain();
    case wire::Frame::kBye: return channel_.close("its agent left: " + cut_text(frame.bye().reason(), 200));
    default: return protocol_error("a message that an agent does not send");
  }
}

void Registration::protocol_error(const std::string& what) {
  garbage_ = !session_;
  refuse(wire::Refused::PROTOCOL, "the edge does not understand this agent: " + what, false);
}

void Registration::on_hello(const wire::Hello& hello) {
  if (session_ || !instance_.empty()) return protocol_error("a second Hello");
  if (hello.protocol_version() != kProtocolVersion) {
    return refuse(wire::Refused::PROTOCOL,
                  "the agent speaks protocol " + std::to_string(hello.protocol_version()) + ", this edge speaks " +
                      std::to_string(kProtocolVersion) + ": install the same version on both sides",
                  true);
  }
  if (hello.instance_id().size() != 16) return protocol_error("an instance id that has not 16 bytes");
  instance_ = hello.instance_id();
  chunks_ = hello.chunks();
  software_ = cut_text(hello.software(), 64);
}

void Registration::on_auth(const wire::Auth& auth) {
  if (session_ || instance_.empty()) return protocol_error("Auth before Hello, or twice");
  if (edge_.draining()) {
    return refuse(wire::Refused::DRAINING, "the edge is about to stop; it will be back", false);
  }
  const auto& secret = auth.secret();
  const Sha256 hash = sha256({reinterpret_cast<const uint8_t*>(secret.data()), secret.size()});
  auto found = edge_.store().find_by_token_hash(hash);  // a reader: no writer makes it wait
  if (!found.ok()) {
    log_error("the store cannot be read, an agent was turned away", {{"error", found.error().message}});
    return refuse(wire::Refused::INTERNAL, "the edge cannot read its store now; its log says why", false);
  }
  if (!found.value()) {
    edge_.tell_unknown_token(peer_, software_);
    return refuse(wire::Refused::BAD_TOKEN,
                  "this edge does not know the token: it was rotated, its client was removed, or it is of another "
                  "edge; ask the edge's operator for a new one (natrpctl client add, or natrpctl token rotate)",
                  true);
  }
  client_ = *found.value();
  edge_.meet(client_);
  if (const std::string why = edge_.why_no_session(client_); !why.empty()) {
    log_warning("agent refused: " + why, {{"client", client_.name}, {"peer", peer_}, {"software", software_}});
    return refuse(wire::Refused::TOO_MANY_SESSIONS, why, false);
  }
  session_ = std::make_shared<EdgeSession>(edge_.next_session_id(), channel_.ticket_key(), edge_.workers(),
                                           edge_.client_conns().of(client_), chunks_);
  edge_.registry().open_session(session_->id, client_.name, instance_, edge_.now_ms());
  edge_.open_session(session_, *this);
  wire::Frame frame;
  frame.mutable_welcome()->set_session_id(session_->id.word);
  frame.mutable_welcome()->set_client(client_.name);
  frame.mutable_welcome()->set_heartbeat_ms(kHeartbeatMs);
  channel_.send(frame);
  channel_.start_heartbeats();
  log_info("session opened", {{"client", client_.name},
                              {"peer", peer_},
                              {"software", software_},
                              {"session", session_->id.index()}});
}

// --- Services that fail -------------------------------------------------------------------------------------------

void Registration::on_service_failed(const wire::ServiceFailed& failed) {
  if (!session_) return protocol_error("ServiceFailed before Auth");
  if (failed.tunnel_index() >= kTunnelsPerSessionMax) return protocol_error("ServiceFailed of an impossible tunnel");
  const auto at = tunnels_.find(failed.tunnel_index());
  if (at == tunnels_.end()) return;  // another session took it over meanwhile
  // No more visitors can have been turned away than came.
  const uint64_t came = session_->visitors.load(std::memory_order_relaxed);
  const auto count = static_cast<uint32_t>(std::min<uint64_t>(failed.count(), came - failures_));
  if (count == 0) return;
  failures_ += count;
  edge_.count(Counter::kServiceFailures, count);
  at->second.failures_untold += count;
  at->second.failure = cut_text(failed.reason(), 200);
  tell_failures();
}

void Registration::tell_failures() {
  const auto most = std::max_element(tunnels_.begin(), tunnels_.end(), [](const auto& a, const auto& b) {
    return a.second.failures_untold < b.second.failures_untold;
  });
  if (most == tunnels_.end() || most->second.failures_untold == 0 || !failures_pace_.due(edge_.now_ms())) return;
  Tunnel& tunnel = most->second;
  log_warning("service could not be reached, visitors were reset",
              {{"client", client_.name},
               {"tunnel", tunnel.name},
               {"reason", tunnel.failure},
               {"visitors", std::exchange(tunnel.failures_untold, 0)}});
}

// --- Tunnels ------------------------------------------------------------------------------------------------------

void Registration::on_register(const wire::Register& wanted) {
  if (!session_) return protocol_error("Register before Auth");
  const uint32_t index = wanted.tunnel_index();
  if (index >= kTunnelsPerSessionMax) {
    return refuse_wrong_tunnel(wanted, wire::Refused::TOO_MANY_TUNNELS,
                               "a session has at most " + std::to_string(kTunnelsPerSessionMax) +
                                   " tunnels: run another agent for the others");
  }
  if (const Status named = check_name("tunnel", wanted.name()); !named.ok()) {
    return refuse_wrong_tunnel(wanted, wire::Refused::PROTOCOL, named.error().message);
  }
  if (wanted.wanted_port() > 65535) {
    return refuse_wrong_tunnel(
        wanted, wire::Refused::PORT_NOT_ALLOWED,
        std::to_string(wanted.wanted_port()) + " is no port: ask for one below 65536, or for any");
  }
  if (const auto at = tunnels_.find(index); at != tunnels_.end() && at->second.name == wanted.name()) {
    return send_leased(index, at->second);
  }
  const auto contest = contests_.find(index);
  if (contest != contests_.end() && contest->second->wanted.name() == wanted.name()) return;
  if (tunnels_.count(index) != 0 || contest != contests_.end()) {
    return refuse_wrong_tunnel(wanted, wire::Refused::PROTOCOL,
                               "this agent asked for another tunnel as number " + std::to_string(index) +
                                   " before: a number is one tunnel");
  }
  if (const auto other = index_of(wanted.name())) {
    return refuse_wrong_tunnel(wanted, wire::Refused::PROTOCOL,
                               "this agent asked for tunnel '" + wanted.name() + "' before, as number " +
                                   std::to_string(*other) +
                                   ": a name is one tunnel, give the other a name of its own");
  }
  if (edge_.draining()) return refuse_tunnel(index, wire::Refused::DRAINING, "the edge is about to stop", false);
  if (agent_drains_) return refuse_tunnel(index, wire::Refused::DRAINING, "this agent is about to stop", false);
  if (take_tunnel(wanted, nullptr)) lease_tunnel(wanted);
}

std::optional<uint16_t> Registration::port_outside(const PortSet& ports) const {
  for (const auto& [index, tunnel] : tunnels_) {
    if (!ports.contains(tunnel.port)) return tunnel.port;
  }
  return std::nullopt;
}

// What the session has under the name, or contends for: nothing has two ports.
std::optional<uint32_t> Registration::index_of(const std::string& name) const {
  for (const auto& [index, tunnel] : tunnels_) {
    if (tunnel.name == name) return index;
  }
  for (const auto& [index, contest] : contests_) {
    if (contest->wanted.name() == name) return index;
  }
  return std::nullopt;
}

// True: the tunnel is this session's now. False: refused, or a contest decides later.
bool Registration::take_tunnel(const wire::Register& wanted, Contest* contest) {
  Registry& registry = edge_.registry();
  const SlotId holder = registry.holder(client_.name, wanted.name());
  if (holder.valid() && !(holder == session_->id) && !may_have_port(wanted)) return false;
  // nullptr also where the holder cannot be asked: it is an original client.
  Registration* rival = holder.valid() ? edge_.find_registration(holder) : nullptr;
  if (rival != nullptr) hear_rival(*rival, contest);
  const TakeoverAnswer answer =
      registry.take_tunnel(session_->id, wanted.name(), client_.tunnels_max, wanted.replace(), edge_.now_ms());
  if (answer.ok()) {
    if (answer.loser.valid() && rival != nullptr) rival->lose_tunnel(wanted.name(), answer.takeover);
    return true;
  }
  if (answer.takeover == Takeover::kTooMany) {
    tell_and_refuse(wanted, wire::Refused::TOO_MANY_TUNNELS, answer.sentence, !answer.may_change);
  } else if (rival == nullptr || !await_rival(wanted, *rival, contest)) {
    // Where that agent is, is for the edge's operator alone.
    tell_refusal(wanted.name(), answer.sentence + (rival != nullptr ? "; it is at " + rival->peer_ : ""));
    refuse_tunnel(wanted.tunnel_index(), wire::Refused::CONFLICT, answer.sentence, true);
  }
  return false;
}

// No session loses its tunnel to one that could not have the port.
bool Registration::may_have_port(const wire::Register& wanted) {
  const auto possible = edge_.check_port(client_, wanted.name(), wish_of(wanted));
  if (possible.port != 0) return true;
  tell_and_refuse(wanted, possible.code, possible.sentence, possible.final);
  return false;
}

// Tells the registry when the rival was last heard. A living agent is silent between two heartbeats, so its silence
// means something only after it was asked.
void Registration::hear_rival(Registration& rival, Contest* contest) {
  const uint64_t now = edge_.now_ms();
  const SlotId holder = rival.session();
  if (contest != nullptr && !(contest->rival == holder)) {
    // Another newcomer was faster, and has it now. It was not asked yet.
    rival.probe();
    contest->rival = holder;
    contest->began_ms = now;
    contest->looks = 0;
  }
  const bool asked = contest != nullptr && contest->looks >= kContestLooks;
  edge_.registry().heard(holder, rival.closing() || asked ? rival.last_heard_ms() : now);
}

// Asks the rival, or goes on waiting for its answer. False: it has answered.
bool Registration::await_rival(const wire::Register& wanted, Registration& rival, Contest* contest) {
  if (contest == nullptr) {
    rival.probe();
    auto made = std::make_unique<Contest>();
    made->self = this;
    made->wanted = wanted;
    made->rival = rival.session();
    made->began_ms = edge_.now_ms();
    made->timer.handler = on_contest;
    contest = made.get();
    contests_[wanted.tunnel_index()] = std::move(made);
  } else if (rival.last_heard_ms() >= contest->began_ms) {
    return false;
  }
  edge_.loop().timers().arm(contest->timer, kContestStepMs);
  return true;
}

void Registration::on_contest(Timer& timer) {
  auto& contest = *reinterpret_cast<Contest*>(&timer);
  Registration& self = *contest.self;
  const wire::Register wanted = contest.wanted;
  ++contest.looks;
  if (self.channel_.closing() || self.edge_.draining()) return self.end_contest(wanted.tunnel_index());
  const bool taken = self.take_tunnel(wanted, &contest);
  if (!taken && contest.timer.armed()) return;  // the holder still has time to answer
  self.end_contest(wanted.tunnel_index());
  if (taken) self.lease_tunnel(wanted);
}

void Registration::end_contest(uint32_t index) {
  const auto at = contests_.find(index);
  if (at == contests_.end()) return;
  edge_.loop().timers().disarm(at->second->timer);
  contests_.erase(at);
}

void Registration::lease_tunnel(const wire::Register& wanted) {
  Tunnel tunnel;
  tunnel.name = wanted.name();
  tunnel.id = edge_.next_tunnel_id();
  tunnel.stats = std::make_shared<TunnelStats>(edge_.workers());
  const EdgeTunnel shared{tunnel.id, wanted.tunnel_index(), session_, nullptr, tunnel.stats};
  const auto leased = edge_.lease_port(client_, tunnel.name, wish_of(wanted), session_->id, shared);
  if (leased.port == 0) {
    edge_.registry().give_up_tunnel(session_->id, tunnel.name);
    return tell_and_refuse(wanted, leased.code, leased.sentence, leased.final);
  }
  refusals_told_.erase(tunnel.name);
  tunnel.port = leased.port;
  tunnel.listener = leased.listener;
  log_info("lease live", {{"client", client_.name}, {"tunnel", tunnel.name}, {"port", static_cast<int>(tunnel.port)}});
  const auto [at, added] = tunnels_.emplace(wanted.tunnel_index(), std::move(tunnel));
  send_leased(wanted.tunnel_index(), at->second);
  adjust_demand();
}

void Registration::send_leased(uint32_t index, const Tunnel& tunnel) {
  wire::Frame frame;
  wire::Leased* leased = frame.mutable_leased();
  leased->set_tunnel_index(index);
  leased->set_tunnel_id(tunnel.id);
  leased->set_port(tunnel.port);
  leased->set_public_host(edge_.public_address());
  channel_.send(frame);
}

// Once for each reason: an agent that is refused for now asks again every 3 s.
void Registration::tell_refusal(const std::string& tunnel, const std::string& sentence) {
  // An agent may ask for ever new tunnels: the lines of a session are bounded.
  const bool is_news = refusals_left_ > 0 && std::exchange(refusals_told_[tunnel], sentence) != sentence;
  if (is_news) --refusals_left_;
  log_line(is_news ? LogLevel::kWarning : LogLevel::kDebug, "tunnel refused: " + sentence,
           {{"client", client_.name}, {"tunnel", tunnel}});
}

void Registration::tell_and_refuse(const wire::Register& wanted, wire::Refused::Code code,
                                   const std::string& sentence, bool final) {
  tell_refusal(wanted.name(), sentence);
  refuse_tunnel(wanted.tunnel_index(), code, sentence, final);
}

// For a tunnel that cannot be registered, whatever other agents do. Its name may be no name.
void Registration::refuse_wrong_tunnel(const wire::Register& wanted, wire::Refused::Code code,
                                       const std::string& sentence) {
  tell_refusal("number " + std::to_string(wanted.tunnel_index()), sentence);
  refuse_tunnel(wanted.tunnel_index(), code, sentence, true);
}

void Registration::refuse_tunnel(uint32_t index, wire::Refused::Code code, const std::string& message, bool final) {
  wire::Frame frame;
  frame.mutable_tunnel_refused()->set_tunnel_index(index);
  wire::Refused* refused = frame.mutable_tunnel_refused()->mutable_refused();
  refused->set_code(code);
  refused->set_message(cut_text(message, kSentenceBytesMax));
  refused->set_final(final);
  channel_.send(frame);
}

void Registration::lose_tunnel(const std::string& name, Takeover how) {
  for (auto at = tunnels_.begin(); at != tunnels_.end(); ++at) {
    if (at->second.name != name) continue;
    const uint32_t index = at->first;
    // An agent that was silent would not serve them.
    edge_.close_listener(at->second.listener, how == Takeover::kReplaced ? Backlog::kServed : Backlog::kReset);
    tunnels_.erase(at);
    log_info("tunnel taken over by another session", {{"client", client_.name}, {"tunnel", name}});
    const std::string by = how == Takeover::kSameInstance
                               ? "a newer session of this agent has tunnel '" + name + "'"
                               : "another agent of client '" + client_.name + "' has tunnel '" + name +
                                     "' now: this one was silent for too long";
    if (how == Takeover::kReplaced) {
      refuse_tunnel(index, wire::Refused::REPLACED,
                    "another agent of client '" + client_.name + "' took tunnel '" + name +
                        "' over (--on-conflict replace); give this one another --name",
                    true);
    } else if (tunnels_.empty()) {
      close(by);
    } else {
      // Not final: who took it over may be gone by the time this agent asks again.
      refuse_tunnel(index, wire::Refused::CONFLICT, by, false);
    }
    return;
  }
}

// --- Demand for data channels -------------------------------------------------------------------------------------

void Registration::tick() {
  if (!session_ || channel_.closing()) return;
  tell_failures();
  const uint64_t visitors = session_->visitors.load(std::memory_order_relaxed);
  // Fast up, slow down: a burst is served from what was dialled for the burst before it.
  const auto sample = static_cast<double>(visitors - visitors_before_);
  visitors_before_ = visitors;
  visitors_per_tick_ = sample > visitors_per_tick_ ? sample : visitors_per_tick_ * 0.9 + sample * 0.1;
  extra_told_ -= (extra_told_ + 9) / 10;
  share_ready_max();
  edge_.close_surplus(*session_);
  adjust_demand();
}

void Registration::adjust_demand() {
  // Also where no tunnel is left: visitors may wait (a drain), and the agent may hold fewer channels.
  if (!session_ || channel_.closing()) return;
  const uint32_t ready = ready_wanted();
  const bool lower_much = ready + ready / 2 < ready_told_;
  if (extra_ == 0 && (ready == ready_told_ || (ready < ready_told_ && !lower_much))) return;
  wire::Frame frame;
  frame.mutable_channel_demand()->set_ready(std::max(ready, extra_ > 0 ? ready_told_ : 0u));
  frame.mutable_channel_demand()->set_extra(extra_);
  ready_told_ = frame.channel_demand().ready();
  extra_told_ = std::min(extra_told_ + extra_, kParkedVisitorsMax);
  share_ready_max();
  extra_ = 0;
  channel_.send(frame);
}

uint32_t Registration::ready_wanted() const {
  // Where slots are few, most of them are for visitors (Rendezvous::may_be_ready).
  const auto most = static_cast<uint32_t>(std::clamp<uint64_t>(edge_.slots() / 4, 1, kReadyChannelsMax));
  const auto floor = static_cast<uint32_t>(std::min<size_t>(tunnels_.size() * kReadyChannelsMin, most));
  // A quarter of a second's visitors may come while a channel is being dialled on a slow line.
  return std::clamp(static_cast<uint32_t>(std::ceil(visitors_per_tick_)) + extra_, floor, most);
}

SessionInfo Registration::info() const {
  SessionInfo info;
  info.client = client_.name;
  info.software = software_;
  info.peer = peer_;
  info.session = session_->id.index();
  info.visitors_live = session_->visitors_live();
  info.visitors_total = session_->visitors.load(std::memory_order_relaxed);
  for (const auto& [index, tunnel] : tunnels_) {
    info.tunnels.push_back({tunnel.name, tunnel.id, tunnel.port, tunnel.stats->sum()});
  }
  return info;
}

// What was asked for waiting visitors may come after they have left.
void Registration::share_ready_max() {
  session_->ready_max.store(kReadyChannelsHeld + extra_told_, std::memory_order_relaxed);
}

// --- The end ------------------------------------------------------------------------------------------------------

void Registration::refuse(wire::Refused::Code code, const std::string& message, bool final) {
  wire::Frame frame;
  frame.mutable_refused()->set_code(code);
  frame.mutable_refused()->set_message(cut_text(message, kSentenceBytesMax));
  frame.mutable_refused()->set_final(final);
  channel_.send(frame);
  channel_.close(message);
  // The agent may be back before this channel has landed. Its client's tunnels are counted anew then, and one that is
  // still held here would be taken over whatever the limit.
  give_up_tunnels(Backlog::kReset);
}

void Registration::give_up_tunnels(Backlog backlog) {
  for (const auto& [index, tunnel] : tunnels_) edge_.registry().give_up_tunnel(session_->id, tunnel.name);
  close_ports(backlog);
}

void Registration::close_ports(Backlog backlog) {
  for (auto& [index, tunnel] : tunnels_) edge_.close_listener(tunnel.listener, backlog);
  tunnels_.clear();
}

void Registration::end_contests(const std::string& why) {
  while (!contests_.empty()) {
    const uint32_t index = contests_.begin()->first;
    refuse_tunnel(index, wire::Refused::DRAINING, why, false);
    end_contest(index);
  }
}

void Registration::drain(uint32_t seconds, Backlog backlog) {
  end_contests("the edge is about to stop");
  close_ports(backlog);
  wire::Frame frame;
  frame.mutable_drain()->set_seconds(seconds);
  channel_.send(frame);
}

// Another agent of the client may have the tunnels from now on. The session goes on for visitors that wait.
void Registration::on_drain() {
  if (!session_) return protocol_error("Drain before Auth");
  if (std::exchange(agent_drains_, true)) return;
  log_info("an agent is about to stop: no new visitors", {{"client", client_.name}, {"session", session_->id.index()}});
  end_contests("this agent is about to stop");
  edge_.leases_in_grace(session_->id);
  give_up_tunnels(Backlog::kServed);
  end_if_drained();
}

void Registration::end_if_drained() {
  if (!agent_drains_ || channel_.closing()) return;
  // A visitor is with its worker, and counted there, before the listener by which it came has landed.
  if (edge_.listeners_closing() || session_->sum(&EdgeSession::Place::parked) > 0) return;
  close("the agent stops, and no visitor waits");
}

void Registration::close(const std::string& why) {
  wire::Frame frame;
  frame.mutable_bye()->set_reason(cut_text(why, kSentenceBytesMax));
  channel_.send(frame);
  channel_.close(why);
}

void Registration::probe() {
  wire::Frame frame;
  frame.mutable_heartbeat()->set_sequence(0);
  channel_.send(frame);
}

void Registration::on_closed(const std::string& why, bool) {
  while (!contests_.empty()) end_contest(contests_.begin()->first);
  close_ports(Backlog::kReset);
  if (session_) {
    log_info("session ended", {{"client", client_.name}, {"session", session_->id.index()}, {"why", why}});
    edge_.session_over(session_->id);
  } else {
    if (channel_.late()) edge_.count(Counter::kHelloTimeouts);
    if (garbage_ || channel_.malformed() || channel_.tls_failed()) edge_.count(Counter::kGarbageRefused);
    if (channel_.rejected()) edge_.tell_rejected(peer_);
    log_debug("control channel ended before it was a session", {{"peer", peer_}, {"why", why}});
  }
  edge_.forget(*this);  // deletes this
}

}  // namespace natrp
