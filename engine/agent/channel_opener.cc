#include "agent/channel_opener.h"

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "control/start_message.h"
#include "net/socket.h"

namespace natrp {
namespace {

// After a dial of the edge failed, or a channel that it closed without a visitor, the next ones wait: the session
// will notice a dead edge, and one that has no room closes the next, too. Twice as long each time.
constexpr uint32_t kRefillPauseMs = 200;
constexpr uint32_t kRefillPauseMostMs = 10'000;
// What is missing of the upper half is dialled so late, less what came back meanwhile.
constexpr uint32_t kTopUpMs = 100;
constexpr uint32_t kDialsPerTurn = 4;
// A Start that was sent before the session ended is here by then, one lost packet included.
constexpr uint32_t kPartingMs = 3000;
// Beside as many as are wanted, at most; docs/protocol.md, section 9.
constexpr uint32_t kSurplusKept = 8;

}  // namespace

ChannelOpener::ChannelOpener(Worker& worker, AgentControlPort& control, std::function<void()> on_nobody_comes)
    : worker_(worker), control_(control), on_nobody_comes_(std::move(on_nobody_comes)) {}

ChannelOpener::~ChannelOpener() {
  ending_ = true;
  close_session(Ready::kEnd);
  end_parting();
  worker_.loop().timers().disarm(parting_timer_);
  channels_.for_each([this](Channel& channel) {
    if (channel.state == State::kDiallingService) channel.dial->cancel();
    if (channel.state == State::kAwaitingAddress) drop(channel);
  });
  worker_.loop().land_until([this] { return channels_.taken() == 0; });
}

void ChannelOpener::open_session(std::shared_ptr<AgentSession> session,
                                 std::shared_ptr<const ServiceAddresses> services) {
  session_ = std::move(session);
  ++session_tag_;
  ready_wanted_ = 0;
  refill_pause_ms_ = kRefillPauseMs;
  set_services(std::move(services));
}

void ChannelOpener::set_services(std::shared_ptr<const ServiceAddresses> services) {
  services_ = std::move(services);
  channels_.for_each([this](Channel& channel) {
    if (channel.state == State::kAwaitingAddress) dial_service(channel);
  });
}

void ChannelOpener::close_session(Ready ready) {
  session_.reset();
  ended_in_peace_ = ready == Ready::kPart;
  ready_wanted_ = 0;
  to_dial_ = 0;
  worker_.loop().timers().disarm(refill_timer_);
  worker_.loop().timers().disarm(top_up_timer_);
  channels_.for_each([this, ready](Channel& channel) {
    switch (channel.state) {
      case State::kDiallingEdge: channel.dial->cancel(); break;
      case State::kReady: ready == Ready::kEnd ? worker_.loop().cancel(channel.op) : part(channel); break;
      case State::kParting:
      case State::kAwaitingAddress:
      case State::kDiallingService: break;
    }
  });
}

void ChannelOpener::part(Channel& channel) {
  no_longer_ready(channel);
  channel.state = State::kParting;
  ++parting_;
  worker_.loop().timers().arm(parting_timer_, kPartingMs);
}

void ChannelOpener::end_parting() {
  channels_.for_each([this](Channel& channel) {
    if (channel.state == State::kParting) worker_.loop().cancel(channel.op);
  });
}

void ChannelOpener::demand(uint32_t ready, uint32_t extra) {
  if (!session_) return;
  const bool more = ready > ready_wanted_;
  ready_wanted_ = ready;
  // The edge has none ready for these visitors, so those of ours that came back are not there yet. Some may be getting
  // their FREE or a Start through at this moment: it costs a few channels more until they have had their Start.
  held_up_ = std::min(held_up_ + extra, unused_carried_);
  // Extra ones are dialled beside those that are under way for earlier visitors.
  dial_extra(extra);
  if (more) hold_back_no_longer();
  if (more && !refill_timer_.armed()) dial_up_to(ready_wanted_);
  refill();
}

// Visitors come: the edge has use for channels again.
void ChannelOpener::hold_back_no_longer() {
  if (refill_pause_ms_ > 2 * kRefillPauseMs) worker_.loop().timers().disarm(refill_timer_);
  refill_pause_ms_ = kRefillPauseMs;
}

void ChannelOpener::hold_back() {
  if (refill_timer_.armed()) return;
  worker_.loop().timers().arm(refill_timer_, refill_pause_ms_);
  refill_pause_ms_ = std::min(2 * refill_pause_ms_, kRefillPauseMostMs);
}

void ChannelOpener::dial_extra(uint32_t count) {
  to_dial_ += count;
  if (!dials_next_turn_) dial_some();
}

// A dial takes some 30 µs on the spot, and for hundreds in one turn every visitor of this worker would wait. Those that
// fill up what is ready are few, and a letter for the rest of them would be an allocation.
void ChannelOpener::dial_some() {
  dials_next_turn_ = false;
  for (uint32_t i = 0; i < kDialsPerTurn && to_dial_ > 0; ++i) {
    --to_dial_;
    dial_one();
  }
  if (to_dial_ == 0) return;
  dials_next_turn_ = true;
  worker_.mailbox().post([this] { dial_some(); });
}

void ChannelOpener::dial_up_to(uint32_t count) {
  while (at_hand() < count) dial_one();
}

void ChannelOpener::refill() {
  if (!session_ || refill_timer_.armed()) return;
  // Channels of short visitors come back sooner than new ones are dialled. The upper half of what is wanted waits for
  // them for a moment.
  dial_up_to((ready_wanted_ + 1) / 2);
  if (at_hand() < ready_wanted_ && !top_up_timer_.armed()) {
    returned_ = 0;
    worker_.loop().timers().arm(top_up_timer_, kTopUpMs);
  }
}

void ChannelOpener::top_up() {
  if (!session_ || refill_timer_.armed()) return;
  // As many again will come back in the next moment.
  if (returned_ < ready_wanted_) dial_up_to(ready_wanted_ - returned_);
  refill();
}

void ChannelOpener::no_longer_unused(const Channel& channel) {
  --unused_;
  if (!channel.carried) return;
  --unused_carried_;
  held_up_ = std::min(held_up_, unused_carried_);
}

void ChannelOpener::no_longer_ready(const Channel& channel) {
  no_longer_unused(channel);
  worker_.counters().sub(Counter::kChannelsReady);
}

bool ChannelOpener::wants_back(uint8_t tag) const {
  // Some more than are wanted: where one is wanted, the next was dialled when it got its visitor.
  return session_ && tag == session_tag_ && at_hand() < ready_wanted_ + std::min(ready_wanted_, kSurplusKept);
}

void ChannelOpener::take_back(Conn& conn, uint8_t tag) {
  const bool its_session = tag == session_tag_ && (session_ || ended_in_peace_);
  if (!its_session) return worker_.close(conn, CloseWith::kFin);
  Channel& channel = channels_.take(*this);
  ++unused_;
  ++unused_carried_;
  ++returned_;
  channel.session = session_;
  channel.state = State::kReady;
  channel.carried = true;
  channel.conn = &conn;
  channel.got = 0;
  conn.renew(worker_.loop().turn_ms());
  worker_.counters().add(Counter::kChannelsReady);
  worker_.counters().add(Counter::kChannelsReturned);
  if (!session_) part(channel);
  receive_start(channel);
}

void ChannelOpener::dial_one() {
  Channel& channel = channels_.take(*this);
  ++unused_;
  channel.session = session_;
  channel.carried = false;
  channel.state = State::kDiallingEdge;
  channel.dial->start(session_->edge, kEdgeDialTimeoutMs, {.piggyback_acks = true});
}

void ChannelOpener::on_dialled(void* context, int fd, int error) {
  auto& channel = *static_cast<Channel*>(context);
  if (channel.state == State::kDiallingEdge) return channel.self->on_edge_dialled(channel, fd, error);
  channel.self->on_service_dialled(channel, fd, error);
}

// --- Towards the edge ---------------------------------------------------------------------------------------------

void ChannelOpener::on_edge_dialled(Channel& channel, int fd, int error) {
  const bool over = channel.session != session_;
  if (fd >= 0 && !over) {
    channel.conn = worker_.conns().claim(fd, channel.session->edge.front(), ConnRole::kDataChannel,
                                         worker_.loop().turn_ms());
  }
  if (fd < 0 || over || channel.conn == nullptr) {
    if (fd >= 0) worker_.loop().close(fd, CloseWith::kFin);
    no_longer_unused(channel);
    free_channel(channel);
    if (over) return;
    tell_failed_dial(fd < 0 ? error : EMFILE);
    return hold_back();
  }
  const uint64_t counter = channel.session->next_counter.fetch_add(1, std::memory_order_relaxed);
  channel.session->sealer.seal(channel.session->id, counter, channel.bytes.data());
  channel.state = State::kReady;
  worker_.counters().add(Counter::kChannelsReady);
  // The socket is new and empty: 64 bytes always fit, so no op is needed.
  const ssize_t sent = worker_.loop().try_send(fd, channel.bytes.data(), kHelloBytes);
  if (sent != static_cast<ssize_t>(kHelloBytes)) {
    tell_failed_dial(sent < 0 ? static_cast<int>(-sent) : EAGAIN);
    worker_.loop().timers().arm(refill_timer_, kRefillPauseMs);
    return drop(channel);
  }
  channel.got = 0;
  bound_receive_buffer(fd);
  worker_.counters().add(Counter::kChannelsOpened);
  receive_start(channel);
}

void ChannelOpener::tell_failed_dial(int error) {
  worker_.counters().add(Counter::kDialsFailed);
  control_.dial_failed(error);
}

void ChannelOpener::receive_start(Channel& channel) {
  channel.op.kind = OpKind::kRecv;
  channel.op.fd = channel.conn->fd;
  channel.op.data = channel.bytes.data() + channel.got;
  channel.op.len = static_cast<uint32_t>(kStartBytes) - channel.got;
  worker_.loop().submit(channel.op);
}

void ChannelOpener::on_op(Op& op) {
  auto& channel = *reinterpret_cast<Channel*>(&op);
  ChannelOpener& self = *channel.self;
  if (op.result > 0) {
    channel.got += static_cast<uint32_t>(op.result);
    if (channel.got == kStartBytes) return self.on_start(channel);
  }
  // A part of a Start may have been faster than the cancel: nobody would cancel another receive.
  const bool goes_on = op.result > 0 || op.result == -EAGAIN || op.result == -EINTR;
  if (goes_on && !op.cancelled) return self.receive_start(channel);
  // The edge closed it, or the session is over. One that came back behind the end of its session has none.
  if (channel.state == State::kReady && channel.session == self.session_) {
    self.worker_.counters().add(Counter::kChannelsLost);
    // One that carried a visitor may end for that visitor's sake: no reason to hold the others up.
    const uint64_t since_ms = channel.conn->opened_ms.load(std::memory_order_relaxed);
    if (self.worker_.loop().turn_ms() - since_ms > kRefillPauseMostMs) self.refill_pause_ms_ = kRefillPauseMs;
    if (!channel.carried) self.hold_back();
  }
  self.drop(channel);
  self.refill();
}

// --- Towards the service ------------------------------------------------------------------------------------------

void ChannelOpener::on_start(Channel& channel) {
  if (channel.state == State::kParting) {
    --parting_;
  } else {
    no_longer_ready(channel);
  }
  hold_back_no_longer();
  worker_.counters().add(Counter::kVisitors);
  channel.state = State::kAwaitingAddress;
  ++with_visitor_;
  const auto start = parse_start(channel.bytes);
  // Spliced bytes cannot be taken out of chunks; Hello has said so.
  const bool speaks = start.ok() && !(start.value().chunks && worker_.relay().kind == PumpKind::kSplice);
  if (!speaks || ending_) {
    drop(channel);
    return refill();
  }
  channel.tunnel_index = start.value().tunnel_index;
  channel.chunks = start.value().chunks;
  channel.conn->tunnel.store(channel.tunnel_index, std::memory_order_relaxed);
  dial_service(channel);
  refill();
}

void ChannelOpener::dial_service(Channel& channel) {
  const bool known = channel.tunnel_index < services_->services.size();
  if (!known) return fail_service(channel, kServiceUnresolved);
  const ServiceAddresses::Service& service = services_->services[channel.tunnel_index];
  if (service.addresses.empty()) {
    if (!service.awaited) fail_service(channel, kServiceUnresolved);
    return;
  }
  channel.state = State::kDiallingService;
  channel.dial->start(service.addresses, kServiceDialTimeoutMs, {.keepalive = Keepalive::kSlow});
}

void ChannelOpener::on_service_dialled(Channel& channel, int fd, int error) {
  if (fd < 0) return fail_service(channel, error);
  if (ending_) {
    worker_.loop().close(fd, CloseWith::kReset);
    return drop(channel);
  }
  Conn* service = worker_.conns().claim(fd, peer_address(fd), ConnRole::kService, worker_.loop().turn_ms());
  Pair* pair = nullptr;
  if (service != nullptr) {
    pair = worker_.pairs().start(*channel.conn, *service, channel.tunnel_index, channel.chunks);
  }
  if (pair == nullptr) {
    worker_.loop().close(fd, CloseWith::kReset);
    if (service != nullptr) worker_.conns().release(*service);
    return fail_service(channel, EMFILE);
  }
  pair->tag = channel.session == session_ ? session_tag_ : session_tag_ - 1;
  // Connected and reset already: what it said before still flows, and its end is no clean one.
  service->peer_reset = error != 0;
  service->tunnel.store(channel.tunnel_index, std::memory_order_relaxed);
  free_channel(channel);
}

void ChannelOpener::fail_service(Channel& channel, int error) {
  worker_.counters().add(Counter::kServiceFailures);
  control_.service_failed(channel.tunnel_index, error);
  drop(channel);
  refill();
}

void ChannelOpener::drop(Channel& channel) {
  if (channel.state == State::kReady) no_longer_ready(channel);
  // A reset, because a Start may be on its way: behind a FIN, its visitor would take the end of our channel for that of
  // an empty answer. But one that carried a visitor may still have bytes for it under way, which a reset would throw
  // away. Behind a FIN they arrive, and a Start that crosses it ends in a reset all the same: END was due
  // (relay/chunks.h).
  const bool reset = channel.has_visitor() || !channel.carried;
  worker_.close(*channel.conn, reset ? CloseWith::kReset : CloseWith::kFin);
  free_channel(channel);
}

void ChannelOpener::free_channel(Channel& channel) {
  const bool was_parting = channel.state == State::kParting;
  const bool had_visitor = channel.has_visitor();
  channel.conn = nullptr;
  channel.session.reset();
  channels_.give_back(channel);
  if (had_visitor) --with_visitor_;
  if (was_parting) --parting_;
  if ((had_visitor || was_parting) && visitors_coming() == 0) on_nobody_comes_();
}

}  // namespace natrp
