#include "edge/grpc_agent.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>

#include "base/limits.h"
#include "base/log.h"
#include "edge/grpc_agents.h"
#include "edge/grpc_channel.h"

namespace natrp {
namespace {

using StreamEnd = NatrpGrpcConnection::StreamEnd;

constexpr size_t kOutputBytes = 64u << 10;
// After our FIN, for its own. A close before it would turn bytes that it still sends into a RST, and the RST would
// overtake our last bytes. And where it does not hear us any more, for its end.
constexpr uint64_t kClosingMs = 2000;

}  // namespace

GrpcAgent::GrpcAgent(GrpcAgents& all, Conn& conn)
    : all_(all), conn_(conn), http2_(*this, all.worker().loop().turn_ms()) {
  read_.kind = OpKind::kPoll;
  read_.len = POLLIN;
  writable_.kind = OpKind::kPoll;
  writable_.len = POLLOUT;
  read_.fd = writable_.fd = conn.fd;
}

GrpcAgent::~GrpcAgent() {
  for (GrpcClientHere* client : shown_) all_.agent_gone(*client);
}

void GrpcAgent::start(std::string_view first_bytes) {
  http2_.feed({reinterpret_cast<const uint8_t*>(first_bytes.data()), first_bytes.size()});
  pump();
}

void GrpcAgent::tick() {
  const uint64_t now = all_.worker().loop().turn_ms();
  if (state_ == State::kServing) http2_.on_tick(now);
  const bool waits_for_its_end = state_ == State::kClosing || state_ == State::kUnheard;
  if (waits_for_its_end && now - closing_since_ms_ >= kClosingMs) {
    http2_over(StreamEnd::kBroken);
    state_ = State::kBroken;
  }
  pump();
}

void GrpcAgent::stop() {
  http2_over(StreamEnd::kBroken);
  state_ = State::kBroken;
  step();
}

// --- The socket ---------------------------------------------------------------------------------------------------

void GrpcAgent::pump() {
  if (state_ == State::kServing && !writable_.in_flight) send();
  step();
}

// Not as an op: the kernel tells of a reset once. An op that is told of it may tell us behind a read, which has found a
// clean end; and one of the ring that had sent a part is told, and tells of the part.
void GrpcAgent::send() {
  Loop& loop = all_.worker().loop();
  for (size_t sent = 0; sent < all_.worker().relay().bytes_per_turn;) {
    if (unsent_.empty()) unsent_ = next_output();
    if (unsent_.empty()) {
      if (http2_.finished()) begin_closing();
      return;
    }
    const ssize_t took = loop.try_send(conn_.fd, unsent_.data(), unsent_.size());
    if (took == -EAGAIN || took == -EINTR) break;
    if (took < 0) return unheard(static_cast<int>(-took));
    unanswered_bytes_ = 0;
    unsent_ = unsent_.subspan(static_cast<size_t>(took));
    sent += static_cast<size_t>(took);
  }
  loop.submit(writable_);
}

std::span<const uint8_t> GrpcAgent::next_output() {
  if (!http2_.wants_output()) return {};
  if (!output_) output_ = std::make_unique_for_overwrite<uint8_t[]>(kOutputBytes);
  return {output_.get(), http2_.pull({output_.get(), kOutputBytes})};
}

// What it has sent may be in our socket still. The read will see a clean end behind it: EPIPE says that it is one, as
// the reset came behind its FIN (tcp_reset()).
void GrpcAgent::unheard(int error) {
  was_reset_ = error != EPIPE;
  state_ = State::kUnheard;
  closing_since_ms_ = all_.worker().loop().turn_ms();
}

void GrpcAgent::http2_over(StreamEnd how) {
  if (state_ != State::kServing && state_ != State::kUnheard) return;
  http2_.lost(how);
  log_debug("connection of an original client ended", {{"why", http2_.end_reason()}});
}

void GrpcAgent::begin_closing() {
  http2_over(StreamEnd::kLost);
  state_ = State::kClosing;
  closing_since_ms_ = all_.worker().loop().turn_ms();
  if (all_.worker().loop().shutdown_write(conn_.fd) != 0) state_ = State::kBroken;
}

void GrpcAgent::step() {
  Worker& worker = all_.worker();
  if (state_ == State::kBroken) {
    worker.loop().cancel(read_);
    worker.loop().cancel(writable_);
    if (read_.in_flight || writable_.in_flight) return;
    worker.close(conn_, CloseWith::kFin);
    return all_.over(*this);  // deletes this
  }
  const bool answers_pile_up = writable_.in_flight && unanswered_bytes_ >= kGrpcAnswerableBytes;
  if (!read_.in_flight && !answers_pile_up) worker.loop().submit(read_);
}

void GrpcAgent::on_read() {
  if (state_ != State::kBroken) read();
  pump();
}

void GrpcAgent::read() {
  Loop& loop = all_.worker().loop();
  const std::span<uint8_t> scratch = all_.scratch();
  for (size_t bytes = 0; bytes < kBytesPerTurn;) {
    const ssize_t got = loop.try_recv(conn_.fd, scratch.data(), scratch.size());
    if (got == -EAGAIN || got == -EINTR) return;
    if (got <= 0) {
      http2_over(got == 0 && !was_reset_ ? StreamEnd::kLost : StreamEnd::kBroken);
      state_ = State::kBroken;
      return;
    }
    bytes += static_cast<size_t>(got);
    unanswered_bytes_ += static_cast<size_t>(got);
    if (state_ == State::kClosing) continue;
    http2_.on_tick(loop.turn_ms());
    http2_.feed(scratch.first(static_cast<size_t>(got)));
    if (static_cast<size_t>(got) < scratch.size()) return;
  }
}

// --- The streams --------------------------------------------------------------------------------------------------

NatrpGrpcConnection::Verdict GrpcAgent::authenticate(std::string_view token) {
  NatrpGrpcConnection::Verdict verdict = all_.authenticate(token);
  if (verdict.accepted) all_.leave_strangers(*this);
  return verdict;
}

void GrpcAgent::on_stream_ready(NatrpGrpcConnection::StreamId id, uint64_t client_id) {
  GrpcClientHere& client = *all_.find(client_id);
  if (std::find(shown_.begin(), shown_.end(), &client) == shown_.end()) {
    shown_.push_back(&client);
    all_.agent_came(client);
  }
  GrpcChannel& channel = all_.make_channel(*this, id, client);
  channels_[id] = &channel;
  all_.offer(channel);
}

void GrpcAgent::on_stream_data(NatrpGrpcConnection::StreamId id, std::span<const uint8_t> bytes) {
  conn_.bytes_received.store(conn_.bytes_received.load(std::memory_order_relaxed) + bytes.size(),
                             std::memory_order_relaxed);
  channels_.at(id)->on_data(bytes);
}

void GrpcAgent::on_stream_end(NatrpGrpcConnection::StreamId id) { channels_.at(id)->on_end(); }

void GrpcAgent::on_stream_writable(NatrpGrpcConnection::StreamId id) { channels_.at(id)->on_writable(); }

void GrpcAgent::on_stream_closed(NatrpGrpcConnection::StreamId id, NatrpGrpcConnection::StreamEnd how) {
  GrpcChannel& channel = *channels_.at(id);
  channels_.erase(id);
  channel.on_closed(how);
}

}  // namespace natrp
