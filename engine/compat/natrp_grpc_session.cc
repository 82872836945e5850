// The side of NatrpGrpcConnection that talks to nghttp2: bytes in and out, frames, the ends of the connection.

#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <utility>

#include "compat/flood_guard.h"
#include "compat/natrp_grpc.h"
#include "compat/natrp_grpc_stream.h"

namespace natrp {
namespace {

constexpr uint8_t kDrainPing[8] = {'d', 'r', 'a', 'i', 'n', 0, 0, 0};

nghttp2_nv field(std::string_view name, std::string_view value) {
  // nghttp2 copies both and asks for pointers to what is not const.
  return {reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
          NGHTTP2_NV_FLAG_NONE};
}

std::string_view text(const uint8_t* bytes, size_t size) {
  return {reinterpret_cast<const char*>(bytes), size};
}

// What is left of an HTTP/2 connection that nghttp2 gave up on: one GOAWAY (RFC 9113 §6.8), with the reason
// as its debug data, for the log of whoever is at the other end.
std::vector<uint8_t> goaway_frame(int32_t last_stream_id, uint32_t http2_error, std::string_view reason) {
  const size_t size = 8 + reason.size();
  std::vector<uint8_t> frame(9);
  for (int i = 0; i < 3; ++i) frame[i] = static_cast<uint8_t>(size >> (16 - 8 * i));
  frame[3] = NGHTTP2_GOAWAY;
  for (const uint32_t word : {static_cast<uint32_t>(last_stream_id), http2_error}) {
    for (int shift = 24; shift >= 0; shift -= 8) frame.push_back(static_cast<uint8_t>(word >> shift));
  }
  frame.insert(frame.end(), reason.begin(), reason.end());
  return frame;
}

}  // namespace

// ---- what nghttp2 calls -------------------------------------------------------------------------

struct NatrpGrpcConnection::Hooks {
  // Ends the call into nghttp2 with an error, which feed() and pull() turn into the farewell. (Asking nghttp2
  // to terminate from within a callback leaves its reader in a state of which 1.52 is not sure:
  // CVE-2026-27135.)
  static int judge(const NatrpGrpcConnection& self) {
    return self.guard_->ok() ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
  }

  static NatrpGrpcConnection& of(void* user) { return *static_cast<NatrpGrpcConnection*>(user); }

  static int on_begin_frame(nghttp2_session*, const nghttp2_frame_hd* head, void* user) {
    auto& self = of(user);
    self.guard_->on_frame_begin(head->type, head->length);
    return judge(self);
  }

  static int on_begin_headers(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    auto& self = of(user);
    self.guard_->on_header_block_begin();
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    auto stream = std::make_unique<Stream>();
    stream->id = frame->hd.stream_id;
    self.streams_[stream->id] = std::move(stream);
    return 0;
  }

  static int on_header(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name_bytes,
                       size_t name_size, const uint8_t* value_bytes, size_t value_size, uint8_t, void* user) {
    auto& self = of(user);
    self.guard_->on_header_field(name_size, value_size);
    Stream* stream = self.find(frame->hd.stream_id);
    if (!stream || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return judge(self);
    self.take_field(*stream, text(name_bytes, name_size), text(value_bytes, value_size));
    return judge(self);
  }

  static int on_frame_recv(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    auto& self = of(user);
    const nghttp2_frame_hd& head = frame->hd;
    const bool ends_stream = (head.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    switch (head.type) {
      case NGHTTP2_DATA:
        if (head.length == frame->data.padlen && !ends_stream) self.guard_->on_empty_data();
        break;
      case NGHTTP2_HEADERS: self.guard_->on_header_block_end(); break;
      case NGHTTP2_SETTINGS:
        if (head.flags & NGHTTP2_FLAG_ACK) self.settings_acked_ = true;
        if (self.phase_ == Phase::kPreface) self.phase_ = Phase::kServing;
        return 0;
      case NGHTTP2_PING:
        if ((head.flags & NGHTTP2_FLAG_ACK) && std::memcmp(frame->ping.opaque_data, kDrainPing, 8) == 0) {
          self.stop_new_streams();
        }
        if (!(head.flags & NGHTTP2_FLAG_ACK) && !self.take_ping(frame->ping.opaque_data)) {
          self.flooded_ = true;
          return NGHTTP2_ERR_CALLBACK_FAILURE;
        }
        return 0;
      default: return 0;
    }
    if (!self.guard_->ok()) return judge(self);
    Stream* stream = self.find(head.stream_id);
    if (stream && head.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
      self.open_stream(*stream);
    if (stream && ends_stream) self.peer_ended(*stream);
    return judge(self);
  }

  static int on_invalid_frame(nghttp2_session*, const nghttp2_frame* frame, int, void* user) {
    auto& self = of(user);
    if (frame->hd.type == NGHTTP2_HEADERS) self.guard_->on_header_block_end();
    self.guard_->on_invalid_frame();
    return judge(self);
  }

  static int on_data(nghttp2_session* session, uint8_t, int32_t id, const uint8_t* data, size_t size,
                     void* user) {
    auto& self = of(user);
    if (Stream* stream = self.find(id)) {
      self.take_data(*stream, {data, size});
    } else {
      nghttp2_session_consume_connection(session, size);
    }
    return 0;
  }

  static int on_stream_close(nghttp2_session*, int32_t id, uint32_t http2_error, void* user) {
    auto& self = of(user);
    self.close_stream(id, http2_error);
    return judge(self);
  }

  static int on_frame_send(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    auto& self = of(user);
    Stream* stream = self.find(frame->hd.stream_id);
    switch (frame->hd.type) {
      case NGHTTP2_DATA:
        if (frame->hd.length > 0) self.guard_->on_data_sent();
        break;
      case NGHTTP2_HEADERS:
        // A server that has answered before the end of the request says so (RFC 9113 §8.1); gRPC servers all
        // do.
        if (stream && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) && !stream->peer_ended) {
          self.reset(*stream, NGHTTP2_NO_ERROR);
        }
        break;
      case NGHTTP2_RST_STREAM:
        if (!stream && frame->rst_stream.error_code != NGHTTP2_NO_ERROR) self.guard_->on_stream_wasted();
        break;
      case NGHTTP2_GOAWAY:
        self.broke_http2_ = self.broke_http2_ || frame->goaway.error_code != NGHTTP2_NO_ERROR;
        if (frame->goaway.error_code != NGHTTP2_NO_ERROR && self.end_reason_.empty()) {
          self.end_reason_ = std::string("the peer broke HTTP/2: ") +
                             nghttp2_http2_strerror(frame->goaway.error_code) + ' ' +
                             std::string(text(frame->goaway.opaque_data, frame->goaway.opaque_data_len));
        }
        break;
      default: break;
    }
    return judge(self);
  }

  static ssize_t on_read(nghttp2_session* session, int32_t id, uint8_t* buffer, size_t size, uint32_t* flags,
                         nghttp2_data_source*, void* user) {
    auto& self = of(user);
    Stream* stream = self.find(id);
    if (!stream) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    const size_t count = stream->out.take({buffer, size});
    if (stream->out.empty() && stream->state == Stream::State::kEnding) {
      stream->state = Stream::State::kTrailed;
      stream->out.release();
      const std::string status = std::to_string(static_cast<int>(stream->status));
      const std::string message = grpc_message(stream->message);
      const std::array<nghttp2_nv, 2> trailers = {field("grpc-status", status),
                                                  field("grpc-message", message)};
      if (nghttp2_submit_trailer(session, id, trailers.data(), message.empty() ? 1 : 2) != 0)
        return NGHTTP2_ERR_NOMEM;
      *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    } else if (count == 0) {
      stream->deferred = true;
      return NGHTTP2_ERR_DEFERRED;
    }
    if (stream->wants_writable && stream->is_ready() && stream->out.room() >= kGrpcOutBytesMax / 2) {
      stream->wants_writable = false;
      self.writable_.push_back(id);
    }
    return static_cast<ssize_t>(count);
  }

  static nghttp2_session* make_session(NatrpGrpcConnection* self) {
    nghttp2_session_callbacks* calls = nullptr;
    nghttp2_option* option = nullptr;
    nghttp2_session* session = nullptr;
    if (nghttp2_session_callbacks_new(&calls) != 0) throw std::bad_alloc();
    if (nghttp2_option_new(&option) != 0) {
      nghttp2_session_callbacks_del(calls);
      throw std::bad_alloc();
    }
    nghttp2_session_callbacks_set_on_begin_frame_callback(calls, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(calls, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(calls, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(calls, on_frame_recv);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(calls, on_invalid_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(calls, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(calls, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(calls, on_frame_send);
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_auto_ping_ack(option, 1);
    // A closed stream is gone: it is not kept for the priority tree, which would hold as many again.
    nghttp2_option_set_no_closed_streams(option, 1);
    // FloodGuard counts these by rules that know what a stream did; nghttp2 would end a client that resets 34
    // streams a second, which grpc-go does at the ordinary end of each call. Its own counters stay on where
    // FloodGuard's come first.
    nghttp2_option_set_stream_reset_rate_limit(option, UINT64_MAX / 2, 1);
    nghttp2_option_set_max_continuations(option, kGrpcContinuationsMax + 1);
    const int error = nghttp2_session_server_new2(&session, calls, self, option);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(calls);
    if (error != 0) throw std::bad_alloc();
    return session;
  }
};

// ---- the connection -----------------------------------------------------------------------------

NatrpGrpcConnection::NatrpGrpcConnection(Events& events, uint64_t now_ms)
    : events_(events),
      guard_(std::make_unique<FloodGuard>(now_ms)),
      now_ms_(now_ms),
      began_ms_(now_ms),
      idle_since_ms_(now_ms) {
  session_ = Hooks::make_session(this);
  const std::array<nghttp2_settings_entry, 3> settings = {{
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, kGrpcStreamsUnprovenMax},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kGrpcWindowBytes},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, kGrpcHeaderListBytesMax},
  }};
  if (nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings.data(), settings.size()) != 0 ||
      nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kGrpcConnectionWindowBytes) !=
          0) {
    nghttp2_session_del(session_);
    throw std::bad_alloc();
  }
}

NatrpGrpcConnection::~NatrpGrpcConnection() { nghttp2_session_del(session_); }

// The peer has shown a known token: from its acknowledgement on it may open as many streams as a client needs.
void NatrpGrpcConnection::allow_all_streams() {
  const nghttp2_settings_entry streams = {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, kGrpcStreamsMax};
  // Refused only for want of memory: the peer then stays with what it has.
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, &streams, 1);
}

// One waits; the next one's arrival answers it. False: answers that nobody reads have piled up in nghttp2.
bool NatrpGrpcConnection::take_ping(const uint8_t* opaque) {
  if (!answer_ping()) return false;
  held_ping_.emplace();
  std::copy_n(opaque, held_ping_->size(), held_ping_->begin());
  ping_ms_ = now_ms_;
  return true;
}

bool NatrpGrpcConnection::answer_ping() {
  if (!held_ping_) return true;
  const auto opaque = *std::exchange(held_ping_, std::nullopt);
  return nghttp2_submit_ping(session_, NGHTTP2_FLAG_ACK, opaque.data()) != NGHTTP2_ERR_FLOODED;
}

bool NatrpGrpcConnection::ping_is_due() const {
  if (!held_ping_ || failed_) return false;
  return streams_ready_ == 0 || now_ms_ - std::max(ping_ms_, data_ms_) >= kGrpcPingQuietMs ||
         now_ms_ - ping_ms_ >= kGrpcPingHeldMs;
}

bool NatrpGrpcConnection::feed(std::span<const uint8_t> bytes) {
  if (failed_ || finished()) return false;
  const ssize_t read = nghttp2_session_mem_recv(session_, bytes.data(), bytes.size());
  if (read >= 0) return !finished();
  if (!guard_->ok()) {
    fail(NGHTTP2_ENHANCE_YOUR_CALM, guard_->offence());
  } else if (read == NGHTTP2_ERR_FLOODED || flooded_) {
    fail(NGHTTP2_ENHANCE_YOUR_CALM, "too many frames that want an answer, and the answers were not read");
  } else if (read == NGHTTP2_ERR_BAD_CLIENT_MAGIC) {
    fail(NGHTTP2_PROTOCOL_ERROR, "the connection did not begin with HTTP/2's preface");
  } else {
    fail(NGHTTP2_INTERNAL_ERROR, nghttp2_strerror(static_cast<int>(read)));
  }
  return false;
}

size_t NatrpGrpcConnection::pull(std::span<uint8_t> out) {
  if (ping_is_due()) answer_ping();
  size_t count = 0;
  while (count < out.size()) {
    if (sending_.empty()) {
      if (failed_) {
        sending_ = std::exchange(farewell_left_, {});
      } else {
        const uint8_t* bytes = nullptr;
        const ssize_t size = nghttp2_session_mem_send(session_, &bytes);
        if (size < 0) {
          if (!guard_->ok())
            fail(NGHTTP2_ENHANCE_YOUR_CALM, guard_->offence());
          else
            fail(NGHTTP2_INTERNAL_ERROR, nghttp2_strerror(static_cast<int>(size)));
          continue;
        }
        sending_ = {bytes, static_cast<size_t>(size)};
      }
      if (sending_.empty()) break;
    }
    const auto part = sending_.first(std::min(sending_.size(), out.size() - count));
    std::memcpy(out.data() + count, part.data(), part.size());
    sending_ = sending_.subspan(part.size());
    count += part.size();
  }
  for (const StreamId id : std::exchange(writable_, {})) {
    const Stream* stream = find(id);
    if (stream && stream->is_ready() && !failed_) events_.on_stream_writable(id);
  }
  if (finished()) done();
  return count;
}

bool NatrpGrpcConnection::wants_output() const {
  if (!sending_.empty() || !farewell_left_.empty()) return true;
  return !failed_ && (ping_is_due() || nghttp2_session_want_write(session_) != 0);
}

bool NatrpGrpcConnection::finished() const {
  return !wants_output() && (failed_ || nghttp2_session_want_read(session_) == 0);
}

void NatrpGrpcConnection::drain(std::string_view reason) {
  if (failed_ || phase_ >= Phase::kDraining) return;
  phase_ = Phase::kDraining;
  drain_began_ms_ = now_ms_;
  if (end_reason_.empty()) end_reason_ = reason;
  // First a GOAWAY that refuses nothing, so that a call which is on its way is not lost without an answer;
  // when its PING comes back the peer has seen it (RFC 9113 §6.8).
  nghttp2_submit_shutdown_notice(session_);
  nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, kDrainPing);
}

void NatrpGrpcConnection::stop_new_streams() {
  if (phase_ != Phase::kDraining) return;
  phase_ = Phase::kDrained;
  nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_),
                        NGHTTP2_NO_ERROR, nullptr, 0);
}

// Not from within what nghttp2 calls.
void NatrpGrpcConnection::end_connection(uint32_t http2_error, std::string_view reason) {
  if (end_reason_.empty()) end_reason_ = reason;
  nghttp2_session_terminate_session(session_, http2_error);
}

// From now on nghttp2 is asked for nothing; what it has already serialized goes out before the farewell. Not
// from within what nghttp2 calls.
void NatrpGrpcConnection::fail(uint32_t http2_error, std::string_view reason) {
  if (failed_) return;
  end_reason_ = reason;
  farewell_ = goaway_frame(nghttp2_session_get_last_proc_stream_id(session_), http2_error, reason);
  farewell_left_ = farewell_;
  lost(StreamEnd::kBroken);
}

// Response headers for the stream; without a body they are the whole answer.
void NatrpGrpcConnection::send_headers(Stream& stream, std::initializer_list<Field> fields,
                                       bool body_follows) {
  std::vector<nghttp2_nv> list;
  for (const auto& [name, value] : fields) list.push_back(field(name, value));
  nghttp2_data_provider provider{};
  provider.read_callback = Hooks::on_read;
  if (nghttp2_submit_response(session_, stream.id, list.data(), list.size(),
                              body_follows ? &provider : nullptr) != 0) {
    reset(stream, NGHTTP2_INTERNAL_ERROR);
  }
}

void NatrpGrpcConnection::reset(Stream& stream, uint32_t http2_error) {
  if (std::exchange(stream.reset_sent, true)) return;
  nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream.id, http2_error);
}

}  // namespace natrp
