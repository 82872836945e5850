#include "compat/natrp_grpc.h"

#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <utility>

#include "compat/flood_guard.h"
#include "compat/natrp_grpc_stream.h"

namespace natrp {
namespace {

constexpr char kGrpcType[] = "application/grpc";
constexpr char kMsgPath[] = "/serverpb.ServerService/Msg";
constexpr char kRegisterPath[] = "/serverpb.ServerService/Register";
constexpr char kLoginPath[] = "/serverpb.ServerService/Login";

constexpr char kAccountSentence[] =
    "this edge makes no accounts over the network: ask its operator to run "
    "`natrpctl client add NAME --plain-token`, and start the client with -token and the token that it prints";

bool is_grpc(std::string_view content_type) {
  constexpr std::string_view kType = kGrpcType;
  if (content_type.substr(0, kType.size()) != kType) return false;
  return content_type.size() == kType.size() || content_type[kType.size()] == '+' ||
         content_type[kType.size()] == ';';
}

}  // namespace

NatrpGrpcConnection::Stream* NatrpGrpcConnection::find(StreamId id) const {
  const auto found = streams_.find(id);
  return found == streams_.end() ? nullptr : found->second.get();
}

// ---- a stream opens -----------------------------------------------------------------------------

void NatrpGrpcConnection::take_field(Stream& stream, std::string_view name, std::string_view value) {
  if (name == ":method") stream.is_post = value == "POST";
  if (name == "content-type") stream.is_grpc = is_grpc(value);
  if (name == ":path") {
    if (value == kMsgPath) stream.path = Stream::Path::kMsg;
    if (value == kRegisterPath || value == kLoginPath) stream.path = Stream::Path::kAccount;
  }
  if (name == "grpc-timeout") {
    stream.timeout_ms = grpc_timeout_ms(value);
    stream.timeout_bad = !stream.timeout_ms;
  }
  if (name == "natrp-token") {
    ++stream.token_count;
    stream.token_too_long = value.size() > kGrpcTokenBytesMax;
    if (!stream.token_too_long) stream.token = value;
  }
}

void NatrpGrpcConnection::open_stream(Stream& stream) {
  const std::string token = std::move(stream.token);
  if (!stream.is_post) return refuse_http(stream, "405");
  if (!stream.is_grpc) return refuse_http(stream, "415");
  if (stream.timeout_bad) return refuse(stream, GrpcStatus::kInvalidArgument, "bad grpc-timeout");
  if (stream.timeout_ms) stream.deadline_ms = now_ms_ + *stream.timeout_ms;
  if (stream.path == Stream::Path::kAccount) {
    stream.call = Stream::Call::kAccount;
    stream.in = GrpcDeframer(kGrpcAccountInBytesMax);
    stream.deadline_ms = std::min(stream.deadline_ms, now_ms_ + kGrpcAccountMs);
    return;  // answered once the request is complete
  }
  if (stream.path != Stream::Path::kMsg) {
    return refuse(stream, GrpcStatus::kUnimplemented,
                  "this edge has no such method: only what the natrp client calls");
  }
  if (stream.token_count != 1) return refuse(stream, GrpcStatus::kInvalidArgument, "bad metadata");
  const Verdict verdict = stream.token_too_long ? Verdict{} : events_.authenticate(token);
  if (!verdict.accepted) return refuse_later(stream, verdict.status, verdict.message);
  // Behind the token: a client that was removed has nothing to try again for.
  if (phase_ >= Phase::kDraining) {
    return refuse(stream, GrpcStatus::kUnavailable, end_reason_ + ": try again in a moment");
  }
  accept(stream, verdict.client);
}

void NatrpGrpcConnection::accept(Stream& stream, uint64_t client) {
  stream.call = Stream::Call::kMsg;
  // gRPC servers send these with the first message. Sent now: the client sees that its call was taken, before
  // a visitor.
  begin_answer(stream);
  stream.told = true;
  if (!std::exchange(ever_ready_, true)) allow_all_streams();
  ++streams_ready_;
  events_.on_stream_ready(stream.id, client);
}

// ---- answers ------------------------------------------------------------------------------------

void NatrpGrpcConnection::begin_answer(Stream& stream) {
  stream.state = Stream::State::kAnswering;
  send_headers(stream,
               {{":status", "200"}, {"content-type", kGrpcType}, {"grpc-accept-encoding", "identity"}}, true);
}

// gRPC's "Trailers-Only": one HEADERS frame is the whole answer.
void NatrpGrpcConnection::refuse(Stream& stream, GrpcStatus status, std::string_view message) {
  stream.state = Stream::State::kTrailed;
  stream.deadline_ms = stream.refused_ms = UINT64_MAX;
  stream.ending_ms = now_ms_ + kGrpcEndingMs;
  const std::string number = std::to_string(static_cast<int>(status));
  const std::string encoded = grpc_message(message);
  send_headers(stream,
               {{":status", "200"},
                {"content-type", kGrpcType},
                {"grpc-accept-encoding", "identity"},
                {"grpc-status", number},
                {"grpc-message", encoded}},
               false);
}

void NatrpGrpcConnection::refuse_later(Stream& stream, GrpcStatus status, std::string_view message) {
  stream.status = status;
  stream.message = message;
  stream.refused_ms = now_ms_ + kGrpcRefusalHeldMs;
}

// For a client that does not speak gRPC.
void NatrpGrpcConnection::refuse_http(Stream& stream, std::string_view http_status) {
  stream.state = Stream::State::kTrailed;
  stream.ending_ms = now_ms_ + kGrpcEndingMs;
  send_headers(stream, {{":status", http_status}}, false);
}

void NatrpGrpcConnection::answer_account(Stream& stream) {
  if (!stream.in.between_messages() || stream.in.messages() != 1) {
    return refuse(stream, GrpcStatus::kInternal, "the call did not hold exactly one message");
  }
  begin_answer(stream);
  const std::string answer = failed_account_answer(kAccountSentence);
  stream.out.put({reinterpret_cast<const uint8_t*>(answer.data()), answer.size()});
  finish(stream, GrpcStatus::kOk, {});
}

// ---- bytes of the service -----------------------------------------------------------------------

void NatrpGrpcConnection::take_data(Stream& stream, std::span<const uint8_t> bytes) {
  nghttp2_session_consume_connection(session_, bytes.size());
  data_ms_ = now_ms_;
  const bool is_account = stream.call == Stream::Call::kAccount && stream.state == Stream::State::kOpening;
  // What comes after the end is dropped and its window not given back: the agent is told to stop, and may
  // wait for that.
  size_t framing_bytes = bytes.size();
  while (!bytes.empty() && (is_account || stream.is_ready())) {
    const auto [data, fault] = stream.in.next(bytes);
    if (fault) return give_up(stream, fault->status, fault->sentence, StreamEnd::kBadInput);
    if (data.empty() || is_account) continue;
    framing_bytes -= data.size();
    stream.unconsumed_bytes += data.size();
    events_.on_stream_data(stream.id, data);
  }
  if (bytes.empty() && framing_bytes > 0) nghttp2_session_consume_stream(session_, stream.id, framing_bytes);
}

void NatrpGrpcConnection::peer_ended(Stream& stream) {
  if (stream.peer_ended) return;
  stream.peer_ended = true;
  if (stream.call == Stream::Call::kAccount && stream.state == Stream::State::kOpening)
    return answer_account(stream);
  if (!stream.is_ready()) return;
  if (!stream.in.between_messages()) {
    return give_up(stream, GrpcStatus::kInternal, "the call ended within a message", StreamEnd::kBadInput);
  }
  events_.on_stream_end(stream.id);
}

void NatrpGrpcConnection::consume_stream(StreamId id, size_t count) {
  Stream* stream = find(id);
  if (!stream || failed_) return;
  count = std::min(count, stream->unconsumed_bytes);
  stream->unconsumed_bytes -= count;
  stream->consumed_bytes += count;
  nghttp2_session_consume_stream(session_, id, count);
  if (stream->keeps_up()) widen_window(*stream, 2 * stream->window_bytes, kGrpcWindowGrowthBytesMax);
}

void NatrpGrpcConnection::join_stream(StreamId id) {
  Stream* stream = find(id);
  if (!stream || !stream->is_ready() || stream->peer_ended || failed_) return;
  widen_window(*stream, kGrpcWindowBytesMax, kGrpcWindowGrowthJoinedBytesMax);
}

// Stays as it is when what all streams were given would become more than growth_bytes_max. Given back when the
// stream is closed: what an agent was allowed to send cannot be taken from it.
void NatrpGrpcConnection::widen_window(Stream& stream, uint32_t window_bytes, uint32_t growth_bytes_max) {
  window_bytes = std::min(window_bytes, kGrpcWindowBytesMax);
  if (window_bytes <= stream.window_bytes) return;
  const uint32_t growth = window_bytes - stream.window_bytes;
  if (window_growth_bytes_ + growth > growth_bytes_max) return;
  const auto size = static_cast<int32_t>(window_bytes);
  if (nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, stream.id, size) != 0) return;
  window_growth_bytes_ += growth;
  stream.window_bytes = window_bytes;
  stream.consumed_bytes = 0;
}

// ---- bytes of the visitor -----------------------------------------------------------------------

size_t NatrpGrpcConnection::stream_writable(StreamId id) const {
  const Stream* stream = find(id);
  if (!stream || !stream->is_ready() || failed_) return 0;
  const size_t room = stream->out.room();
  const size_t rest = room % kGrpcFrameBytesMax;
  return room / kGrpcFrameBytesMax * kGrpcContentOutBytesMax +
         (rest > kGrpcHeaderBytesMax ? rest - kGrpcHeaderBytesMax : 0);
}

size_t NatrpGrpcConnection::write_stream(StreamId id, std::span<const uint8_t> bytes) {
  const size_t count = std::min(bytes.size(), stream_writable(id));
  Stream* stream = find(id);
  if (!stream || !stream->is_ready() || failed_) return 0;
  stream->wants_writable = count < bytes.size();
  for (auto left = bytes.first(count); !left.empty();) {
    const auto content = left.first(std::min(left.size(), kGrpcContentOutBytesMax));
    GrpcHeader header;
    stream->out.put({header.data(), put_grpc_header(header, content.size())});
    stream->out.put(content);
    left = left.subspan(content.size());
  }
  if (count > 0) {
    stream->carried = true;
    if (std::exchange(stream->deferred, false)) nghttp2_session_resume_data(session_, id);
  }
  return count;
}

// ---- a stream ends ------------------------------------------------------------------------------

void NatrpGrpcConnection::end_stream(StreamId id, GrpcStatus status, std::string_view message) {
  Stream* stream = find(id);
  if (stream && stream->is_ready() && !failed_) finish(*stream, status, message);
}

void NatrpGrpcConnection::cut_off(Stream& stream) {
  stream.how = StreamEnd::kAborted;
  stream.state = Stream::State::kTrailed;
  stream.out.release();
  reset(stream, NGHTTP2_CANCEL);
}

void NatrpGrpcConnection::finish(Stream& stream, GrpcStatus status, std::string_view message) {
  stream.status = status;
  stream.message = message;
  stream.state = Stream::State::kEnding;
  stream.ending_ms = now_ms_ + kGrpcEndingMs;
  stream.deadline_ms = UINT64_MAX;
  if (std::exchange(stream.deferred, false)) nghttp2_session_resume_data(session_, stream.id);
}

// The call is over by our judgement: the caller is told at once, the peer gets the status and nothing that was queued.
void NatrpGrpcConnection::give_up(Stream& stream, GrpcStatus status, std::string_view message,
                                  StreamEnd how) {
  if (stream.state == Stream::State::kOpening) {
    refuse(stream, status, message);
  } else {
    stream.out.release();
    finish(stream, status, message);
  }
  tell_closed(stream, how);
}

void NatrpGrpcConnection::tell_closed(Stream& stream, StreamEnd how) {
  if (!std::exchange(stream.told, false)) return;
  --streams_ready_;
  events_.on_stream_closed(stream.id, how);
}

void NatrpGrpcConnection::close_stream(StreamId id, uint32_t http2_error) {
  const auto found = streams_.find(id);
  if (found == streams_.end()) return;
  const std::unique_ptr<Stream> stream = std::move(found->second);
  streams_.erase(found);
  if (streams_.empty()) idle_since_ms_ = now_ms_;
  window_growth_bytes_ -= stream->window_bytes - kGrpcWindowBytes;
  if (!stream->carried) guard_->on_stream_wasted();
  // Both ends may reset a stream that has ended: nobody has lost anything then.
  StreamEnd how = StreamEnd::kCancelled;
  if (http2_error == NGHTTP2_PROTOCOL_ERROR || http2_error == NGHTTP2_FLOW_CONTROL_ERROR)
    how = StreamEnd::kBadInput;
  if (stream->state == Stream::State::kTrailed) how = stream->how;
  tell_closed(*stream, how);
}

// Nobody has more to say: after our GOAWAY, whose reason is known, or the peer's.
void NatrpGrpcConnection::done() {
  if (end_reason_.empty()) end_reason_ = "the client said that it is done";
  // What came behind the peer's mistake was not read.
  lost(broke_http2_ ? StreamEnd::kBroken : StreamEnd::kLost);
}

void NatrpGrpcConnection::lost(StreamEnd how) {
  if (!std::exchange(failed_, true) && end_reason_.empty()) end_reason_ = "the TCP connection ended";
  for (const auto& [id, stream] : std::exchange(streams_, {})) tell_closed(*stream, how);
}

// ---- time ---------------------------------------------------------------------------------------

void NatrpGrpcConnection::on_tick(uint64_t now_ms) {
  now_ms_ = std::max(now_ms_, now_ms);
  if (finished()) return done();
  if (failed_) return;
  guard_->on_tick(now_ms_);
  if (!guard_->ok()) return fail(NGHTTP2_ENHANCE_YOUR_CALM, guard_->offence());
  // The tables of streams may not change while this runs: what is called from here only asks nghttp2 for frames.
  for (const auto& [id, stream] : streams_) check_stream_deadlines(*stream);

  if (phase_ == Phase::kPreface) {
    if (now_ms_ - began_ms_ > kGrpcPrefaceMs)
      fail(NGHTTP2_SETTINGS_TIMEOUT, "no HTTP/2 SETTINGS came in time");
    return;
  }
  if (!settings_acked_ && now_ms_ - began_ms_ > kGrpcSettingsAckMs) {
    return end_connection(NGHTTP2_SETTINGS_TIMEOUT, "the peer did not acknowledge our SETTINGS in time");
  }
  if (phase_ == Phase::kDraining && now_ms_ - drain_began_ms_ >= kGrpcDrainNoticeMs)
    return stop_new_streams();
  if (!ever_ready_ && now_ms_ - began_ms_ > kGrpcFirstStreamMs) {
    return end_connection(NGHTTP2_NO_ERROR, "no stream with a known token was opened in time");
  }
  if (streams_.empty() && now_ms_ - std::max(idle_since_ms_, began_ms_) > kGrpcIdleMs) {
    end_connection(NGHTTP2_NO_ERROR, "no stream was open for too long");
  }
}

void NatrpGrpcConnection::check_stream_deadlines(Stream& stream) {
  if (now_ms_ >= stream.refused_ms) refuse(stream, stream.status, stream.message);
  if (now_ms_ >= stream.deadline_ms) {
    stream.deadline_ms = UINT64_MAX;
    give_up(stream, GrpcStatus::kDeadlineExceeded, "the time that the call was given has passed",
            StreamEnd::kDeadline);
  }
  if (now_ms_ >= stream.ending_ms) {
    stream.ending_ms = UINT64_MAX;
    cut_off(stream);
  }
}

}  // namespace natrp
