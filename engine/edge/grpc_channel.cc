#include "edge/grpc_channel.h"

#include <poll.h>

#include <algorithm>

#include "base/check.h"
#include "base/limits.h"
#include "edge/grpc_agents.h"
#include "relay/teardown.h"

namespace natrp {
namespace {

// A buffer this small stays with its channel between two messages.
constexpr size_t kKeptBytes = 4096;
// A visitor that takes nothing of what its stream left behind gets this long.
constexpr uint32_t kUntakenMs = kGrpcEndingMs;
// The length of one send to a visitor. An op tells nothing before all of its bytes are queued: so this is what a
// visitor has to take within kUntakenMs, and by how much its stream's window is given back at a time. Each send of the
// whole length that was quick doubles the next one: a visitor that keeps up costs few sends.
constexpr uint32_t kSendBytesMax = kGrpcWindowBytesMax;
constexpr uint64_t kQuickSendMs = 100;
// After our FIN: a visitor that goes on to send gets this long before the close makes its bytes a RST.
constexpr uint32_t kFinMs = 1000;

void forget_bytes(std::vector<uint8_t>& bytes) {
  bytes.clear();
  if (bytes.capacity() > kKeptBytes) bytes.shrink_to_fit();
}

}  // namespace

GrpcChannel::GrpcChannel(GrpcAgents& all, GrpcAgent& agent, StreamId stream, GrpcClientHere& client)
    : all_(all), client_(client), agent_(&agent), stream_(stream) {
  write_.kind = OpKind::kSend;
}

void GrpcChannel::join(Conn& visitor) {
  NATRP_CHECK(visitor_ == nullptr && open(), "a ready channel gets one visitor");
  visitor_ = &visitor;
  all_.visitor_came(client_);
  all_.worker().counters().add(Counter::kPairsLive);
  read_.fd = write_.fd = visitor.fd;
  agent_->http2().join_stream(stream_);
  flush();
  arm_read();
}

void GrpcChannel::join_and_pump(Conn& visitor) {
  GrpcAgent* agent = agent_;
  join(visitor);
  agent->pump();
}

// --- The stream ---------------------------------------------------------------------------------------------------

void GrpcChannel::on_data(std::span<const uint8_t> bytes) {
  if (ended_) return;
  queued_.insert(queued_.end(), bytes.begin(), bytes.end());
  flush();
}

void GrpcChannel::on_end() {
  // The original has no half-close: what its agent does to a connection of its service, it does to both directions.
  if (visitor_ == nullptr) all_.lost(*this);
  end_stream(GrpcStatus::kOk, {});
  finish(false);
  step();
}

void GrpcChannel::on_writable() {
  if (visitor_ == nullptr || dead_ || eof_) return;
  read_visitor();
  step();
}

void GrpcChannel::on_closed(NatrpGrpcConnection::StreamEnd how) {
  using End = NatrpGrpcConnection::StreamEnd;
  if (visitor_ == nullptr) all_.lost(*this);
  agent_ = nullptr;
  // The original tells of its service's end by closing its whole connection: a lost or a cancelled stream is one. A
  // connection that broke may have had more to say.
  finish(how != End::kEnded && how != End::kCancelled && how != End::kLost);
  if (all_.stopping()) dead_ = true;
  step();
}

void GrpcChannel::end_stream(GrpcStatus status, std::string_view sentence) {
  if (!open()) return;
  ended_ = true;
  agent_->http2().end_stream(stream_, status, sentence);
}

void GrpcChannel::cut(GrpcStatus status, std::string_view sentence) {
  if (visitor_ == nullptr) all_.unready(*this);
  end_stream(status, sentence);
  finish(true);
  reset_ = dead_ = true;
  step();
}

// --- The visitor --------------------------------------------------------------------------------------------------

void GrpcChannel::on_read(Op& op) {
  if (dead_ || visitor_ == nullptr) return step_and_pump();
  if (op.kind == OpKind::kHangUp) {
    // Cancelled when the stream takes bytes again; else the visitor has reset its connection.
    if (op.result > 0) visitor_broke();
  } else if (op.result != -ECANCELED) {
    read_visitor();
  }
  step_and_pump();
}

void GrpcChannel::read_visitor() {
  Worker& worker = all_.worker();
  const std::span<uint8_t> scratch = all_.scratch();
  blocked_ = false;
  for (size_t budget = kBytesPerTurn; budget > 0;) {
    size_t room = scratch.size();
    if (open()) {
      room = std::min(room, agent_->http2().stream_writable(stream_));
      if (room == 0) {
        // It takes nothing of the one byte, and promises on_stream_writable().
        agent_->http2().write_stream(stream_, scratch.first(1));
        blocked_ = true;
        return;
      }
    }
    room = std::min(room, budget);
    const ssize_t got = worker.loop().try_recv(visitor_->fd, scratch.data(), room);
    if (got == -EAGAIN || got == -EINTR) return;
    if (got == 0) return visitor_left();
    if (got < 0) return visitor_broke();
    const auto bytes = static_cast<size_t>(got);
    budget -= bytes;
    if (!open()) continue;  // its stream is over: what it says now is for nobody
    const size_t taken = agent_->http2().write_stream(stream_, scratch.first(bytes));
    NATRP_CHECK(taken == bytes, "a stream takes what it said it would");
    visitor_->bytes_received.store(visitor_->bytes_received.load(std::memory_order_relaxed) + bytes,
                                   std::memory_order_relaxed);
    worker.counters().add(Counter::kBytesUp, bytes);
    if (bytes < room) return;
  }
}

void GrpcChannel::visitor_left() {
  eof_ = true;
  if (end_sent_) dead_ = true;  // both directions are over
  end_stream(GrpcStatus::kOk, {});
  finish(false);
}

void GrpcChannel::visitor_broke() {
  dead_ = true;
  end_stream(GrpcStatus::kCancelled, "the visitor broke its connection off");
}

void GrpcChannel::finish(bool reset) {
  if (visitor_ == nullptr || finishing_) return;
  finishing_ = true;
  reset_ = reset;
  blocked_ = false;
  all_.worker().loop().timers().arm(timer_, kUntakenMs);
}

void GrpcChannel::flush() {
  if (visitor_ == nullptr || dead_ || write_.in_flight) return;
  if (sending_.empty()) sending_.swap(queued_);
  if (sending_.empty()) return;
  write_.data = sending_.data() + sent_;
  write_.len = static_cast<uint32_t>(std::min<size_t>(sending_.size() - sent_, send_bytes_));
  send_began_ms_ = all_.worker().loop().turn_ms();
  all_.worker().loop().submit(write_);
}

void GrpcChannel::on_write(Op& op) {
  const bool whole = op.result >= 0 && static_cast<uint32_t>(op.result) == op.len;
  if (op.result > 0) {
    all_.worker().counters().add(Counter::kBytesDown, static_cast<uint64_t>(op.result));
    bytes_down_ += static_cast<uint64_t>(op.result);
    if (agent_ != nullptr) agent_->http2().consume_stream(stream_, static_cast<size_t>(op.result));
    if (finishing_ && !end_sent_) all_.worker().loop().timers().arm(timer_, kUntakenMs);
  }
  if (all_.worker().loop().turn_ms() - send_began_ms_ >= kQuickSendMs) {
    send_bytes_ = kSendBytesFirst;
  } else if (op.len == send_bytes_) {
    send_bytes_ = std::min(2 * send_bytes_, kSendBytesMax);
  }
  sent_ += op.len;
  if (!whole || sent_ == sending_.size()) {
    sent_ = 0;
    forget_bytes(sending_);
  }
  if (!whole && !dead_) visitor_broke();
  step_and_pump();
}

// FIN, or the RST that waits until the bytes before it are out (the rule is relay/teardown's).
void GrpcChannel::send_end() {
  Loop& loop = all_.worker().loop();
  end_sent_ = true;
  end_sent_ms_ = loop.turn_ms();
  if (reset_) {
    loop.timers().arm(timer_, kSweepMs);
  } else if (eof_) {
    dead_ = true;  // all it said was read, so that the close is a FIN behind its bytes
  } else {
    if (loop.shutdown_write(visitor_->fd) != 0) dead_ = true;
    loop.timers().arm(timer_, kFinMs);
  }
}

void GrpcChannel::on_timer() {
  Loop& loop = all_.worker().loop();
  if (!end_sent_) {
    reset_ = true;  // it took nothing for too long
  } else if (reset_must_wait(loop, visitor_->fd, loop.turn_ms() - end_sent_ms_)) {
    loop.timers().arm(timer_, reset_ ? kSweepMs : kFinMs);
    return;
  }
  dead_ = true;
  step_and_pump();
}

// --- What is next -------------------------------------------------------------------------------------------------

void GrpcChannel::arm_read() {
  Loop& loop = all_.worker().loop();
  if (read_.in_flight) {
    if (read_.kind == OpKind::kHangUp && !blocked_) loop.cancel(read_);
    return;
  }
  if (eof_ || (end_sent_ && reset_)) return;
  read_.kind = blocked_ ? OpKind::kHangUp : OpKind::kPoll;
  read_.len = POLLIN;
  loop.submit(read_);
}

void GrpcChannel::step() {
  Loop& loop = all_.worker().loop();
  if (visitor_ != nullptr) {
    if (!dead_) flush();
    if (!dead_ && finishing_ && !end_sent_ && !write_.in_flight && queued_.empty()) send_end();
    if (dead_) {
      loop.cancel(read_);
      loop.cancel(write_);
      if (!read_.in_flight && !write_.in_flight) close_visitor();
    } else {
      arm_read();
    }
  }
  if (visitor_ == nullptr && agent_ == nullptr) all_.over(*this);  // deletes this
}

void GrpcChannel::step_and_pump() {
  GrpcAgent* agent = agent_;
  step();
  if (agent != nullptr) agent->pump();
}

void GrpcChannel::close_visitor() {
  Worker& worker = all_.worker();
  worker.loop().timers().disarm(timer_);
  if (reset_) worker.counters().add(Counter::kResetsCarried);
  // One that was given up before its end may live (an error that says nothing of its peer, a stop): a FIN would make a
  // whole of what it got.
  worker.close(*visitor_, reset_ || !end_sent_ ? CloseWith::kReset : CloseWith::kFin);
  worker.counters().sub(Counter::kPairsLive);
  const uint64_t bytes_up = visitor_->bytes_received.load(std::memory_order_relaxed);
  visitor_ = nullptr;
  queued_ = {};
  sending_ = {};
  all_.visitor_gone(client_, bytes_up, bytes_down_);
}

}  // namespace natrp
