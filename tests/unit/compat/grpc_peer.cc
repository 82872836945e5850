#include "grpc_peer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

namespace natrp {
namespace {

GrpcPeer& peer_of(void* user) { return *static_cast<GrpcPeer*>(user); }

int on_header(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
              const uint8_t* value, size_t value_size, uint8_t, void* user) {
  peer_of(user).calls[frame->hd.stream_id].fields[std::string(name, name + name_size)] =
      std::string(value, value + value_size);
  return 0;
}

int on_frame(nghttp2_session*, const nghttp2_frame* frame, void* user) {
  GrpcPeer& peer = peer_of(user);
  if (frame->hd.type == NGHTTP2_SETTINGS && !(frame->hd.flags & NGHTTP2_FLAG_ACK)) {
    for (size_t i = 0; i < frame->settings.niv; ++i) {
      peer.settings[static_cast<uint32_t>(frame->settings.iv[i].settings_id)] = frame->settings.iv[i].value;
    }
  }
  if (frame->hd.type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK)) ++peer.ping_acks;
  if (frame->hd.type == NGHTTP2_GOAWAY) {
    peer.goaways.push_back(frame->goaway.error_code);
    peer.goaway_reason.assign(reinterpret_cast<const char*>(frame->goaway.opaque_data),
                              frame->goaway.opaque_data_len);
  }
  if ((frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) &&
      (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) {
    auto& call = peer.calls[frame->hd.stream_id];
    call.trailed = true;
    call.headers_ended_it = frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_RESPONSE;
  }
  return 0;
}

int on_data(nghttp2_session*, uint8_t, int32_t id, const uint8_t* data, size_t size, void* user) {
  peer_of(user).calls[id].data.append(reinterpret_cast<const char*>(data), size);
  return 0;
}

int on_close(nghttp2_session*, int32_t id, uint32_t error, void* user) {
  auto& call = peer_of(user).calls[id];
  call.closed = true;
  call.error = error;
  return 0;
}

}  // namespace

std::string message_of(std::string_view content) {
  std::string body = "\x0a";
  size_t size = content.size();
  for (; size >= 128; size >>= 7) body += static_cast<char>(size | 128);
  body += static_cast<char>(size);
  body += content;
  std::string prefix(5, '\0');
  for (int i = 0; i < 4; ++i) prefix[1 + i] = static_cast<char>(body.size() >> (24 - 8 * i));
  return prefix + body;
}

std::string frame_of(uint8_t type, uint8_t flags, int32_t stream_id, std::string_view payload) {
  const auto size = payload.size();
  std::string frame = {static_cast<char>(size >> 16), static_cast<char>(size >> 8), static_cast<char>(size),
                       static_cast<char>(type), static_cast<char>(flags)};
  for (int shift = 24; shift >= 0; shift -= 8) frame += static_cast<char>(stream_id >> shift);
  return frame.append(payload);
}

NatrpGrpcConnection::Verdict RecordingEvents::authenticate(std::string_view token) {
  tokens.emplace_back(token);
  NatrpGrpcConnection::Verdict verdict;
  verdict.accepted = token == "good";
  verdict.client = 42;
  return verdict;
}

void RecordingEvents::on_stream_ready(StreamId id, uint64_t client) {
  EXPECT_FALSE(ready.count(id)) << "stream " << id << " became ready twice";
  ready[id] = client;
  if (joins) connection->join_stream(id);
}

void RecordingEvents::on_stream_data(StreamId id, std::span<const uint8_t> bytes) {
  EXPECT_TRUE(ready.count(id) && !closed.count(id)) << "bytes for stream " << id << ", which is not open";
  data[id].append(bytes.begin(), bytes.end());
  if (consumes) connection->consume_stream(id, bytes.size());
  if (echoes) {
    EXPECT_EQ(bytes.size(), connection->write_stream(id, bytes));
  }
}

void RecordingEvents::on_stream_end(StreamId id) {
  ended.push_back(id);
  if (ends_with_agent) connection->end_stream(id, GrpcStatus::kOk);
}

void RecordingEvents::on_stream_closed(StreamId id, StreamEnd how) {
  EXPECT_TRUE(ready.count(id)) << "stream " << id << " was closed but never ready";
  EXPECT_FALSE(closed.count(id)) << "stream " << id << " was closed twice";
  closed[id] = how;
}

std::string GrpcPeer::Call::content() const {
  std::string result;
  std::string_view left = data;
  while (!left.empty()) {
    if (left.size() < 7 || left[0] != 0 || left[5] != 0x0a) {
      ADD_FAILURE() << "not a message with one field 1";
      return result;
    }
    size_t size = 0;
    for (int i = 1; i <= 4; ++i) size = size << 8 | static_cast<uint8_t>(left[i]);
    EXPECT_LE(5 + size, 16384u);
    size_t content_size = 0, place = 6, shift = 0;
    do {
      content_size |= static_cast<size_t>(left[place] & 127) << shift;
      shift += 7;
    } while (left[place++] & 128);
    EXPECT_EQ(5 + size, place + content_size) << "the field does not fill the message";
    EXPECT_LE(place + content_size, left.size()) << "a message is cut off";
    result += left.substr(place, content_size);
    left.remove_prefix(std::min(left.size(), 5 + size));
  }
  return result;
}

GrpcPeer::GrpcPeer(bool gives_window_back) {
  nghttp2_session_callbacks* callbacks;
  nghttp2_session_callbacks_new(&callbacks);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
  nghttp2_option* option;
  nghttp2_option_new(&option);
  nghttp2_option_set_no_auto_window_update(option, gives_window_back ? 0 : 1);
  nghttp2_option_set_peer_max_concurrent_streams(option, 100000);  // until the edge's SETTINGS say otherwise
  nghttp2_session_client_new2(&session, callbacks, this, option);
  nghttp2_option_del(option);
  nghttp2_session_callbacks_del(callbacks);
  nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, nullptr, 0);
}

GrpcPeer::~GrpcPeer() { nghttp2_session_del(session); }

GrpcPeer::Fields GrpcPeer::msg_call(std::string_view token) {
  return {{":method", "POST"},
          {":scheme", "http"},
          {":path", "/serverpb.ServerService/Msg"},
          {":authority", "edge.test:10022"},
          {"content-type", "application/grpc"},
          {"te", "trailers"},
          {"natrp-token", std::string(token)}};
}

ssize_t GrpcPeer::read_body(nghttp2_session*, int32_t id, uint8_t* buffer, size_t size, uint32_t* flags,
                            nghttp2_data_source*, void* user) {
  Body& body = peer_of(user).bodies_[id];
  const size_t count = std::min(size, body.bytes.size() - body.taken);
  std::memcpy(buffer, body.bytes.data() + body.taken, count);
  body.taken += count;
  if (body.taken == body.bytes.size() && body.ends) *flags |= NGHTTP2_DATA_FLAG_EOF;
  if (count == 0 && !body.ends) {
    body.deferred = true;
    return NGHTTP2_ERR_DEFERRED;
  }
  return static_cast<ssize_t>(count);
}

int32_t GrpcPeer::open(const Fields& fields, std::string_view body, bool ends) {
  std::vector<nghttp2_nv> list;
  for (const auto& [name, value] : fields) {
    list.push_back({reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
                    reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
                    0});
  }
  nghttp2_data_provider provider{};
  provider.read_callback = read_body;
  const int32_t id = nghttp2_submit_request(session, nullptr, list.data(), list.size(), &provider, nullptr);
  bodies_[id] = {std::string(body), 0, ends, false};
  calls[id];
  return id;
}

void GrpcPeer::send(int32_t id, std::string_view bytes) {
  bodies_[id].bytes += bytes;
  resume(id);
}

void GrpcPeer::finish(int32_t id) {
  bodies_[id].ends = true;
  resume(id);
}

void GrpcPeer::resume(int32_t id) {
  if (std::exchange(bodies_[id].deferred, false)) nghttp2_session_resume_data(session, id);
}

void GrpcPeer::cancel(int32_t id, uint32_t error) { nghttp2_submit_rst_stream(session, 0, id, error); }

void GrpcPeer::consume(int32_t id, size_t count) { nghttp2_session_consume(session, id, count); }

std::string GrpcPeer::take_output() {
  std::string output;
  const uint8_t* bytes;
  for (ssize_t size; (size = nghttp2_session_mem_send(session, &bytes)) > 0;)
    output.append(bytes, bytes + size);
  return output;
}

void GrpcPeer::exchange(NatrpGrpcConnection& connection, size_t step) {
  std::vector<uint8_t> buffer(step);
  for (bool moved = true; moved;) {
    moved = false;
    const std::string output = take_output();
    for (size_t done = 0; done < output.size(); done += step) {
      connection.feed(bytes_of(std::string_view(output).substr(done, step)));
      moved = true;
    }
    while (connection.wants_output()) {
      const size_t size = connection.pull(buffer);
      if (size == 0) break;
      bytes_received += size;
      ASSERT_EQ(static_cast<ssize_t>(size), nghttp2_session_mem_recv(session, buffer.data(), size));
      moved = true;
    }
  }
}

}  // namespace natrp
