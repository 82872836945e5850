#include "agent/agent.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "base/version.h"
#include "control/auth.h"
#include "loop/ask.h"

namespace natrp {
namespace {

constexpr uint32_t kTickMs = 250;
constexpr uint32_t kRegisterAgainMs = 3000;
// How long an agent that stops goes on dialling for visitors that wait at the edge: it says when there is none. As long
// as an edge that hands over waits for its own.
constexpr uint32_t kDrainAnswerMs = 3000;

// Who has the token is the client. A group that was given the file is its owner's choice.
void warn_of_open_secret(const std::string& file) {
  struct stat info;
  if (file.empty() || ::stat(file.c_str(), &info) != 0 || (info.st_mode & S_IROTH) == 0) return;
  log_warning("everybody on this host may read the file of the token: chmod o-r", {{"file", file}});
}

}  // namespace

Agent::Agent(AgentOptions options) : options_(std::move(options)), backoff_(std::random_device{}()) {}

Agent::~Agent() {
  signals_.reset();
  if (dial_ && dial_->running()) dial_->cancel();
  if (channel_) channel_->close("the agent stops");
  if (loop_) loop_->land_until([this] { return !channel_ && !(dial_ && dial_->running()); });
  crew_.stop();
  edge_resolver_.reset();
  service_names_.reset();
}

Status Agent::start() {
  warn_of_open_secret(options_.secret_file);
  if (!options_.ca_file.empty()) {
    auto ca = load_ca(options_.ca_file);
    if (!ca.ok()) return ca.error();
    ca_ = std::move(ca).value();
  }
  random_bytes(instance_);
  const uint64_t descriptors = raise_descriptor_limit();
  auto loop = make_loop(IoKind::kEpoll);
  if (!loop.ok()) return loop.error();
  loop_ = std::move(loop.value().loop);
  auto signals = open_signals();
  if (!signals.ok()) return signals.error();
  mailbox_ = std::make_unique<Mailbox>(*loop_);
  edge_resolver_ = std::make_unique<Resolver>(*mailbox_);
  dial_ = std::make_unique<Dial>(*loop_, on_dialled, this);
  const uint32_t slots_per_worker = conns_for_descriptors(descriptors, options_.workers);
  const auto make_role = [this](Worker& worker) { return std::make_unique<AgentWorker>(worker, *this); };
  if (Status started = crew_.start(options_, slots_per_worker, make_role); !started.ok()) return started;
  leasings_.resize(options_.tunnels.size());
  signals_ = std::make_unique<SignalWatch>(
      *loop_, std::move(signals).value(),
      [](void* self, int signal) { static_cast<Agent*>(self)->on_signal(signal); }, this);
  loop_->timers().arm(tick_timer_, kTickMs);
  start_trim_.emplace(*loop_);
  start_trim_->soon();
  log_info("agent started", {{"version", kVersion},
                             {"pid", static_cast<int>(::getpid())},
                             {"server", options_.server_text},
                             {"tunnels", static_cast<uint64_t>(options_.tunnels.size())},
                             {"io", crew_.worker(0).loop_name()},
                             {"workers", crew_.size()},
                             {"slots", uint64_t{slots_per_worker} * crew_.size()}});
  service_names_ = std::make_unique<ServiceNames>(*mailbox_, options_.tunnels, loop_->turn_ms(),
                                                  [this] { share_services(); });
  connect();
  // An agent is ready when it tries, not when it is connected: an edge that is away must not hold up a boot.
  notify_systemd(("READY=1\nSTATUS=connecting to the edge " + options_.server_text).c_str());
  return Done{};
}

// --- Towards the edge ---------------------------------------------------------------------------------------------

void Agent::connect() {
  Target target;
  target.host_port = options_.server;
  edge_resolver_->resolve(target, [this](Result<std::vector<Address>> found) {
    if (stopped_ || draining_) return;
    if (!found.ok()) return retry(Backoff::Cause::kNobodyThere, found.error().message);
    dial(std::move(found).value());
  });
}

void Agent::dial(std::vector<Address> addresses) {
  edge_addresses_ = std::move(addresses);
  dial_->start(edge_addresses_, kEdgeDialTimeoutMs, {.user_timeout = true});
}

void Agent::on_dialled(void* context, int fd, int error) {
  Agent& self = *static_cast<Agent*>(context);
  if (fd >= 0 && !self.stopped_ && !self.draining_) return self.on_connected(fd);
  if (fd >= 0) self.loop_->close(fd, CloseWith::kFin);
  if (self.stopped_ || self.draining_) return;
  self.retry(Backoff::Cause::kNobodyThere,
             "cannot reach the edge " + self.options_.server_text + ": " + std::strerror(error));
}

void Agent::on_connected(int fd) {
  Fd owned(fd);
  // Data channels go where the control channel went, not to another address of the same name.
  edge_addresses_ = {peer_address(fd)};
  ClientVerify verify;
  verify.host = options_.server.host;
  verify.ca = ca_;
  if (options_.pin) {
    verify.pin = *options_.pin;
    verify.pin_source = "--pin";
  } else if (!ca_) {
    verify.pin = options_.token.pin;
  }
  auto tls = TlsStream::client(verify);
  if (!tls.ok()) return retry(Backoff::Cause::kTurnedAway, tls.error().message);
  channel_ = std::make_unique<ControlChannel>(*loop_, std::move(owned), std::move(tls).value(),
                                              static_cast<ControlChannelEvents&>(*this));
}

void Agent::on_secure() {
  wire::Frame hello;
  hello.mutable_hello()->set_protocol_version(1);
  hello.mutable_hello()->set_software("natrp " + kVersion);
  hello.mutable_hello()->set_instance_id(instance_.data(), instance_.size());
  hello.mutable_hello()->set_chunks(options_.pump != PumpKind::kSplice);
  channel_->send(hello);
  wire::Frame auth;
  auth.mutable_auth()->set_secret(options_.token.secret.data(), options_.token.secret.size());
  channel_->send(auth);
}

void Agent::on_frame(const wire::Frame& frame) {
  switch (frame.body_case()) {
    case wire::Frame::kWelcome: return on_welcome(frame.welcome());
    case wire::Frame::kRefused: return on_refused(frame.refused());
    case wire::Frame::kLeased: return on_leased(frame.leased());
    case wire::Frame::kTunnelRefused: return on_tunnel_refused(frame.tunnel_refused());
    case wire::Frame::kChannelDemand: return on_demand(frame.channel_demand());
    case wire::Frame::kDrain:
      log_info("the edge is about to stop; what flows may finish, then this agent connects again", {});
      edge_drains_ = true;
      return;
    case wire::Frame::kBye: return channel_->close("the edge ended it: " + frame.bye().reason());
    default: channel_->close("the edge sent a message that an edge does not send");
  }
}

void Agent::on_welcome(const wire::Welcome& welcome) {
  if (session_) return channel_->close("the edge sent a second Welcome");
  session_ = std::make_shared<AgentSession>(SlotId{welcome.session_id()}, channel_->ticket_key(), edge_addresses_);
  session_since_ms_ = loop_->turn_ms();
  edge_drains_ = false;
  channel_->start_heartbeats();
  crew_.post_to_all([session = session_, services = service_names_->addresses()](AgentWorker& role) {
    role.opener().open_session(session, services);
  });
  log_info("session established", {{"client", welcome.client()}, {"edge", edge_addresses_.front().text()}});
  backoff_.succeeded();
  client_ = welcome.client();
  has_session_ = true;
  start_trim_->soon();
  for (uint32_t index = 0; index < options_.tunnels.size(); ++index) {
    if (!leasings_[index].given_up) register_tunnel(index);
  }
}

void Agent::register_tunnel(uint32_t index) {
  wire::Frame frame;
  wire::Register* wanted = frame.mutable_register_tunnel();
  wanted->set_tunnel_index(index);
  wanted->set_name(options_.tunnels[index].name);
  wanted->set_wanted_port(options_.tunnels[index].remote_port);
  // So that visitors find it where they know it, though the edge may have forgotten.
  wanted->set_had_port(leasings_[index].port);
  // Once: an agent that has taken the tunnel over since then is its replacement.
  wanted->set_replace(options_.on_conflict_replace && !leasings_[index].had);
  channel_->send(frame);
}

void Agent::on_leased(const wire::Leased& leased) {
  if (leased.tunnel_index() >= options_.tunnels.size()) return;
  Leasing& leasing = leasings_[leased.tunnel_index()];
  leasing.refusal.clear();
  leasing.had = true;
  const TunnelOptions& tunnel = options_.tunnels[leased.tunnel_index()];
  // What it says is printed, and goes to the service manager: another line would be another command.
  const std::string& named = leased.public_host();
  const bool is_host = named.size() <= kHostBytesMax && std::none_of(named.begin(), named.end(), [](char c) {
    return static_cast<unsigned char>(c) <= ' ' || c == 0x7f;
  });
  const std::string host = named.empty() || !is_host ? options_.server.host : named;
  leasing.port = static_cast<uint16_t>(leased.port());
  const std::string address = HostPort{host, leasing.port}.text();
  leasing.public_address = address;
  log_info("lease", {{"tunnel", tunnel.name}, {"public", address}, {"local", tunnel.local}});
  const std::string line = "public address: " + address + (options_.tunnels.size() > 1 ? " (" + tunnel.name + ")" : "");
  leasing.to_print = line + '\n';
  if (!print(leasing)) {
    const int error = standard_output_.error();
    log_warning("a public address could not be printed on standard output; it will be, once that can be written",
                {{"public", address}, {"why", error == EAGAIN ? "nobody reads it" : std::strerror(error)}});
  }
  notify_systemd(("STATUS=" + line).c_str());
}

// The one thing on standard output: scripts read it. Nothing here waits for them.
bool Agent::print(Leasing& leasing) {
  if (leasing.to_print.empty()) return true;
  if (!standard_output_.write(leasing.to_print)) return false;
  leasing.to_print.clear();
  return true;
}

bool Agent::is_the_end(const wire::Refused& refused) const { return refused.final() && !options_.on_refusal_retry; }

void Agent::on_refused(const wire::Refused& refused) {
  if (is_the_end(refused)) return stop(2, "the edge refused this agent: " + refused.message());
  const char* how = refused.final() ? "the edge refused this agent: " : "the edge refused this agent for now: ";
  log_warning(how + refused.message(), {});
}

void Agent::on_tunnel_refused(const wire::TunnelRefused& refused) {
  const uint32_t index = refused.tunnel_index();
  if (index >= options_.tunnels.size()) return;
  const std::string& message = refused.refused().message();
  Leasing& leasing = leasings_[index];
  leasing.public_address.clear();
  if (draining_ && !refused.refused().final()) return;
  if (!is_the_end(refused.refused())) {
    const uint32_t again_ms = refused.refused().final() ? kBackoffMaxMs : kRegisterAgainMs;
    const bool is_news = std::exchange(leasing.refusal, message) != message;
    const LogLevel news = refused.refused().final() ? LogLevel::kError : LogLevel::kWarning;
    log_line(is_news ? news : LogLevel::kDebug, "tunnel refused for now: " + message,
             {{"tunnel", options_.tunnels[index].name}, {"again_every_ms", again_ms}});
    leasing.again_ms = loop_->turn_ms() + again_ms;
    return;
  }
  leasing.given_up = true;
  leasing.refusal = message;
  if (std::all_of(leasings_.begin(), leasings_.end(), [](const Leasing& each) { return each.given_up; })) {
    return stop(2, "tunnel '" + options_.tunnels[index].name + "' was refused: " + message);
  }
  log_error("tunnel refused: " + message, {{"tunnel", options_.tunnels[index].name}});
}

void Agent::on_demand(const wire::ChannelDemand& demand) {
  const uint32_t count = crew_.size();
  const uint32_t ready = (std::min(demand.ready(), kReadyChannelsMax) + count - 1) / count;
  const uint32_t extra = std::min(demand.extra(), kParkedVisitorsMax);
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t share = extra / count + (i < extra % count ? 1 : 0);
    const uint32_t worker = (next_worker_ + i) % count;
    crew_.post(worker, [ready, share](AgentWorker& role) { role.opener().demand(ready, share); });
  }
  next_worker_ = (next_worker_ + extra) % count;
}

void Agent::end_session() {
  if (!session_) return;
  session_.reset();
  has_session_ = false;
  for (Leasing& leasing : leasings_) {
    leasing.public_address.clear();
    leasing.to_print.clear();
    leasing.again_ms = 0;
    if (!leasing.given_up) leasing.refusal.clear();
  }
  const auto ready = edge_drains_ || draining_ ? ChannelOpener::Ready::kPart : ChannelOpener::Ready::kEnd;
  crew_.post_to_all([ready](AgentWorker& role) { role.opener().close_session(ready); });
}

void Agent::on_closed(const std::string& why, bool fatal) {
  const bool had_session = session_ != nullptr;
  // An edge that says that it stops is well, and its successor is there at once: visitors wait for us.
  if (had_session && (edge_drains_ || loop_->turn_ms() - session_since_ms_ >= kBackoffResetMs)) backoff_.reset();
  end_session();
  channel_.reset();
  if (stopped_) return;
  if (draining_) return leave();
  if (fatal && !options_.on_refusal_retry) return stop(2, why);
  retry(Backoff::Cause::kTurnedAway, had_session ? "session lost: " + why : why, had_session);
}

void Agent::retry(Backoff::Cause cause, const std::string& why, bool had_session) {
  const uint32_t wait = backoff_.next_ms(cause);
  const bool is_news = backoff_.is_news(why) || had_session;
  log_line(is_news ? LogLevel::kWarning : LogLevel::kDebug, why,
           {{"retry_ms", wait}, {"failures", backoff_.in_a_row()}});
  notify_systemd(("STATUS=no session with the edge " + options_.server_text + ", trying again").c_str());
  loop_->timers().arm(retry_timer_, wait);
}

// --- Services -----------------------------------------------------------------------------------------------------

void Agent::share_services() {
  crew_.post_to_all(
      [services = service_names_->addresses()](AgentWorker& role) { role.opener().set_services(services); });
}

void Agent::service_failed(uint32_t tunnel_index, int error) {
  mailbox_->post([this, tunnel_index, error] {
    Failures& failures = failures_[tunnel_index];
    ++failures.count;
    failures.error = error;
  });
}

void Agent::dial_failed(int error) {
  mailbox_->post([this, error] {
    ++dials_.count;
    dials_.error = error;
    report_dials();
  });
}

// Every worker tries again at its own pace.
void Agent::report_dials() {
  if (dials_.count == 0 || !dials_pace_.due(loop_->turn_ms())) return;
  const Failures told = std::exchange(dials_, {});
  log_warning("data channels could not be opened, visitors may wait for them",
              {{"edge", options_.server_text}, {"reason", std::strerror(told.error)}, {"dials", told.count}});
}

// Once a tick and not once a visitor: a dead service under load must not flood the log and the control channel.
void Agent::report_failures() {
  for (const auto& [index, failures] : failures_) {
    const bool known = index < options_.tunnels.size();
    const bool unresolved = failures.error == kServiceUnresolved;
    const std::string reason =
        known ? options_.tunnels[index].local + ": " +
                    (unresolved ? "its name has no address yet" : std::strerror(failures.error))
              : "the edge sent visitors for tunnel number " + std::to_string(index) + ", which this agent has not";
    log_warning("service could not be reached, visitors were reset",
                {{"tunnel", known ? options_.tunnels[index].name : "?"},
                 {"reason", reason},
                 {"visitors", failures.count}});
    if (channel_ && session_) {
      wire::Frame frame;
      frame.mutable_service_failed()->set_tunnel_index(index);
      frame.mutable_service_failed()->set_reason(cut_text(reason, kSentenceBytesMax));
      frame.mutable_service_failed()->set_count(failures.count);
      channel_->send(frame);
    }
    service_names_->doubt(index);
  }
  failures_.clear();
}

// --- For the admin server -----------------------------------------------------------------------------------------

std::vector<const Counters*> Agent::counters() const {
  std::vector<const Counters*> sets;
  for (const auto& worker : crew_.workers()) sets.push_back(&worker->counters());
  return sets;
}

std::optional<AgentStatus> Agent::status(const std::atomic<bool>& over) {
  return ask(*mailbox_, over, [this] {
    AgentStatus status;
    status.server = options_.server_text;
    status.draining = draining_;
    if (session_) {
      status.client = client_;
      status.peer = edge_addresses_.front().text();
    }
    for (size_t i = 0; i < leasings_.size(); ++i) {
      const Leasing& leasing = leasings_[i];
      TunnelStatus tunnel{options_.tunnels[i].name, options_.tunnels[i].local, leasing.public_address, {}};
      if (!session_) {
        tunnel.why_not = "no session with the edge " + options_.server_text;
      } else if (leasing.public_address.empty()) {
        tunnel.why_not = leasing.refusal.empty() ? "the edge has not answered yet" : leasing.refusal;
      }
      status.tunnels.push_back(std::move(tunnel));
    }
    return status;
  });
}

// --- Time, signals, the end ---------------------------------------------------------------------------------------

void Agent::on_tick() {
  const uint64_t now = loop_->turn_ms();
  log_catch_up();
  standard_output_.finish();
  for (Leasing& leasing : leasings_) print(leasing);
  report_failures();
  report_dials();
  service_names_->tick(now);
  const bool may_register = session_ && !edge_drains_ && !draining_;
  for (uint32_t index = 0; may_register && index < leasings_.size(); ++index) {
    uint64_t& again_ms = leasings_[index].again_ms;
    if (again_ms != 0 && again_ms <= now) {
      again_ms = 0;
      register_tunnel(index);
    }
  }
  if (draining_ && !stopped_ && now >= drain_deadline_ms_) {
    log_warning("drain deadline: what still flows or comes is cut off", {});
    stopped_ = true;
  }
  loop_->timers().arm(tick_timer_, kTickMs);
}

void Agent::stop(int exit_code, const std::string& why) {
  if (stopped_) return;
  log_error(why, {});
  if (draining_) return;  // it ends as it was told to
  exit_code_ = exit_code;
  // What flows is none of the edge's refusal: it may finish.
  drain();
}

void Agent::on_signal(int signal) {
  if (signal == SIGUSR1 || signal == SIGUSR2) {
    return log_warning("SIGUSR1 and SIGUSR2 mean nothing to an agent: to replace it, start another with --on-conflict "
                       "replace",
                       {});
  }
  if (signal == SIGHUP) {
    return log_warning("SIGHUP reloads nothing: an agent reads its file when it starts, so restart it", {});
  }
  const bool again = std::exchange(told_to_stop_, true);
  if (draining_ && again) {
    log_warning("second signal: stopping at once", {});
    stopped_ = true;
    return;
  }
  if (draining_) return log_info("it stops already, and what flows may finish; a second signal cuts it off", {});
  drain();
}

void Agent::drain() {
  draining_ = true;
  drain_deadline_ms_ = loop_->turn_ms() + static_cast<uint64_t>(options_.drain_seconds) * 1000;
  log_info("draining: no new visitors, those that flow may finish", {{"seconds", options_.drain_seconds}});
  notify_systemd("STOPPING=1");
  loop_->timers().disarm(retry_timer_);
  if (!channel_) return leave();
  // Visitors that wait for a data channel are to have it: the edge ends the session when there is none.
  wire::Frame frame;
  if (session_) {
    frame.mutable_drain()->set_seconds(options_.drain_seconds);
    loop_->timers().arm(drain_timer_, kDrainAnswerMs);
    return channel_->send(frame);
  }
  frame.mutable_bye()->set_reason("the agent stops");
  channel_->send(frame);
  channel_->close("the agent stops");
}

void Agent::on_edge_silent() {
  if (channel_) channel_->close("the agent stops");
}

// No session any more: here is left what flows.
void Agent::leave() {
  loop_->timers().disarm(drain_timer_);
  workers_flowing_ = crew_.size();
  crew_.post_to_all([this](AgentWorker& role) {
    role.opener().close_session(ChannelOpener::Ready::kPart);
    role.when_idle([this] {
      mailbox_->post([this] {
        if (--workers_flowing_ == 0) stopped_ = true;
      });
    });
  });
}

int Agent::run() {
  while (!stopped_) loop_->run_once(-1);
  log_info("agent stopped", {});
  return exit_code_;
}

}  // namespace natrp
