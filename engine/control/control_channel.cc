#include "control/control_channel.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace natrp {
namespace {

constexpr size_t kUnsentBytesMax = 1u << 20;
constexpr uint32_t kReceiveBytes = 16384;  // the plaintext of a TLS record, at most: RFC 8446 §5.1
constexpr std::string_view kTicketLabel = "EXPORTER-natrp-ticket-v1";

std::string seconds(uint64_t ms) {
  return ms % 1000 == 0 ? std::to_string(ms / 1000) + " s" : std::to_string(ms) + " ms";
}

}  // namespace

ControlChannel::ControlChannel(Loop& loop, Fd fd, TlsStream tls, ControlChannelEvents& events,
                               std::string_view prefix, ControlChannelTimes times)
    : loop_(loop),
      fd_(std::move(fd)),
      tls_(std::move(tls)),
      events_(events),
      times_(times),
      last_heard_ms_(loop.turn_ms()) {
  loop_.timers().arm(deadline_, times_.hello_timeout_ms);
  if (!prefix.empty()) {
    tls_.feed({reinterpret_cast<const uint8_t*>(prefix.data()), prefix.size()});
    loop_.timers().arm(kick_, 0);
  }
  flush();
  submit_receive();
}

ControlChannel::~ControlChannel() {
  NATRP_CHECK(!receive_.in_flight && !send_.in_flight,
              "a control channel is destroyed after its ops have landed");
  loop_.timers().disarm(deadline_);
  loop_.timers().disarm(kick_);
}

void ControlChannel::send(const wire::Frame& frame) {
  if (state_ != State::kOpen) return;
  std::string bytes;
  NATRP_CHECK(encode_frame(frame, bytes), "a control message fits into a frame");
  if (!secure_) {
    early_ += bytes;
    if (early_.size() > kUnsentBytesMax) lose("more than 1 MiB of control messages waited for TLS");
    return;
  }
  if (!tls_.write({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()})) return lose(tls_.error());
  flush();
}

void ControlChannel::close(std::string why) { end(std::move(why), false); }

void ControlChannel::start_heartbeats() {
  if (state_ != State::kOpen || heartbeats_) return;
  heartbeats_ = true;
  next_heartbeat_ms_ = loop_.turn_ms() + times_.heartbeat_ms;
  arm_heartbeat();
}

TicketKey ControlChannel::ticket_key() const { return tls_.export_key(kTicketLabel); }

void ControlChannel::submit_receive() {
  Op& op = receive_;
  op.kind = OpKind::kRecvBuffer;
  op.fd = fd_.get();
  op.len = kReceiveBytes;
  op.result = 0;
  loop_.submit(op);
}

// Invariant: outside of this handler, and until landing, the receive is in flight; so whatever starts the
// landing from elsewhere ends here, in the loop, and not inside a call of the owner's.
void ControlChannel::on_received() {
  const int32_t n = receive_.result;
  if (n > 0) {
    // The TLS library copies them.
    if (state_ == State::kOpen) tls_.feed({loop_.buffers().data(receive_.buffer), static_cast<size_t>(n)});
    loop_.buffers().release(receive_.buffer);
  }
  if (state_ != State::kLanding) {
    if (n > 0) {
      if (state_ == State::kOpen) process();
    } else if (n == 0) {
      lose(who() + " closed the connection");
    } else if (n == -ENOBUFS) {
      loop_.buffers().offer_more();  // a ring's: all on offer were filled in this turn
    } else if (n != -EINTR && n != -EAGAIN) {
      lose("the connection to " + who() + " was lost: " + std::strerror(-n));
    }
    if (state_ != State::kLanding) submit_receive();
  }
  finish_if_landed();
}

void ControlChannel::on_sent() {
  const int32_t n = send_.result;
  if (state_ != State::kLanding) {
    if (n > 0) {
      sent_ += static_cast<size_t>(n);
      flush();
    } else if (n == -EINTR || n == -EAGAIN) {
      flush();
    } else {
      lose("the connection to " + who() + " was lost: " + std::strerror(-n));
    }
  }
  finish_if_landed();
}

void ControlChannel::on_kick() {
  if (state_ == State::kOpen) process();
  finish_if_landed();
}

// What TLS has to say after new bytes, on both of its sides.
void ControlChannel::process() {
  if (!secure_ && tls_.handshake_done()) {
    secure_ = true;
    if (!early_.empty()) {
      tls_.write({reinterpret_cast<const uint8_t*>(early_.data()), early_.size()});
      early_ = std::string();
    }
    events_.on_secure();
  }
  if (state_ == State::kOpen && secure_) take_frames();
  if (state_ != State::kOpen) return;
  // The alert that names our reason is in the output already and goes out before the end.
  if (tls_.failed()) return end(tls_.error(), tls_.verification_failed());
  if (tls_.peer_closed()) return end(who() + " closed the control channel", false);
  flush();
}

void ControlChannel::take_frames() {
  uint8_t plain[4096];
  for (;;) {
    const size_t n = tls_.read(plain);
    if (n == 0) return;
    decoder_.feed({plain, n});
    for (;;) {
      Result<std::optional<wire::Frame>> next = decoder_.next();
      if (!next) {
        const std::string why = who() + " sent " + next.error().message;
        wire::Frame frame;
        frame.mutable_bye()->set_reason("received " + next.error().message);
        malformed_ = true;
        send(frame);
        return end(why, false);
      }
      if (!next.value()) break;
      last_heard_ms_ = loop_.turn_ms();
      handle(*next.value());
      if (state_ != State::kOpen) return;
    }
  }
}

void ControlChannel::handle(const wire::Frame& frame) {
  if (frame.has_heartbeat()) {
    wire::Frame answer;
    answer.mutable_heartbeat_ack()->set_sequence(frame.heartbeat().sequence());
    send(answer);
  } else if (!frame.has_heartbeat_ack()) {
    events_.on_frame(frame);
  }
}

void ControlChannel::flush() {
  if (state_ == State::kLanding || state_ == State::kClosed) return;
  tls_.take_output(waiting_);
  if (waiting_.size() + sending_.size() - sent_ > kUnsentBytesMax) {
    return lose(who() + " does not read: 1 MiB of control messages waits for it");
  }
  if (send_.in_flight) return;
  if (sent_ == sending_.size()) {
    // Memory of a burst is given back; an idle session keeps none.
    sending_ = std::exchange(waiting_, std::string());
    sent_ = 0;
  }
  if (!sending_.empty()) {
    Op& op = send_;
    op.kind = OpKind::kSend;
    op.fd = fd_.get();
    op.data = sending_.data() + sent_;
    op.len = static_cast<uint32_t>(sending_.size() - sent_);
    op.result = 0;
    return loop_.submit(op);
  }
  if (state_ == State::kFlushing) {
    state_ = State::kLingering;
    loop_.shutdown_write(fd_.get());
  }
}

void ControlChannel::arm_heartbeat() {
  const uint64_t dead_ms = last_heard_ms_ + uint64_t{times_.heartbeat_ms} * times_.heartbeat_misses;
  const uint64_t now_ms = loop_.turn_ms();
  const uint64_t at_ms = std::min(next_heartbeat_ms_, dead_ms);
  loop_.timers().arm(deadline_, at_ms > now_ms ? at_ms - now_ms : 0);
}

// The one deadline of the channel's state: the session's opening, the next heartbeat or the peer's death, the end.
void ControlChannel::on_deadline() {
  if (state_ != State::kOpen) {
    land();
  } else if (heartbeats_) {
    beat();
  } else {
    late_ = true;
    lose(secure_ ? "no session with " + who() + " was opened within " + seconds(times_.hello_timeout_ms)
                 : "the TLS handshake with " + who() + " was not done within " + seconds(times_.hello_timeout_ms));
  }
  finish_if_landed();
}

void ControlChannel::beat() {
  const uint64_t now_ms = loop_.turn_ms();
  const uint64_t silence_max_ms = uint64_t{times_.heartbeat_ms} * times_.heartbeat_misses;
  if (now_ms - last_heard_ms_ >= silence_max_ms) {
    return lose(who() + " was silent for " + seconds(silence_max_ms));
  }
  if (now_ms >= next_heartbeat_ms_) {
    next_heartbeat_ms_ = now_ms + times_.heartbeat_ms;
    wire::Frame frame;
    frame.mutable_heartbeat()->set_sequence(++heartbeat_sequence_);
    send(frame);
  }
  if (state_ == State::kOpen) arm_heartbeat();
}

void ControlChannel::end(std::string why, bool fatal) {
  if (state_ != State::kOpen) return;
  state_ = State::kFlushing;
  why_ = std::move(why);
  fatal_ = fatal;
  loop_.timers().arm(deadline_, times_.close_timeout_ms);
  tls_.write_end();
  flush();
}

void ControlChannel::lose(std::string why) {
  if (state_ == State::kOpen) why_ = std::move(why);
  land();
}

void ControlChannel::land() {
  if (state_ == State::kLanding || state_ == State::kClosed) return;
  state_ = State::kLanding;
  loop_.timers().disarm(deadline_);
  loop_.timers().disarm(kick_);
  ::shutdown(fd_.get(), SHUT_RDWR);
  loop_.cancel(receive_);
  loop_.cancel(send_);
}

// The last statement of every handler: the owner may delete the channel in on_closed.
void ControlChannel::finish_if_landed() {
  if (state_ != State::kLanding || receive_.in_flight || send_.in_flight) return;
  state_ = State::kClosed;
  loop_.close(fd_.release(), CloseWith::kFin);
  const std::string why = std::move(why_);
  events_.on_closed(why, fatal_);
}

}  // namespace natrp
