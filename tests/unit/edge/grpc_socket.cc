#include "edge/grpc_socket.h"

#include <gtest/gtest.h>
#include <nghttp2/nghttp2.h>
#include <sys/socket.h>

#include <cerrno>

#include "net/loopback.h"

namespace natrp {
namespace {

// One slow call must not stop the others of its connection.
constexpr int32_t kConnectionWindow = 64 << 20;

}  // namespace

GrpcSocket::GrpcSocket(const Address& edge, bool gives_window_back)
    : fd_(loopback::connect_to(edge)), http2_(gives_window_back) {
  nghttp2_session_set_local_window_size(http2_.session, NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
}

void GrpcSocket::turn() {
  if (!fd_.valid()) return;
  unsent_ += http2_.take_output();
  while (!unsent_.empty()) {
    const ssize_t sent = ::send(fd_.get(), unsent_.data(), unsent_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent <= 0) break;
    unsent_.erase(0, static_cast<size_t>(sent));
  }
  static thread_local uint8_t buffer[1 << 16];
  for (int reads_left = 16; reads && !ended && reads_left > 0; --reads_left) {
    const ssize_t got = ::recv(fd_.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
      ended = true;
      return fd_.reset();
    }
    http2_.bytes_received += static_cast<size_t>(got);
    ASSERT_EQ(nghttp2_session_mem_recv(http2_.session, buffer, static_cast<size_t>(got)), got);
  }
}

void GrpcSocket::say(int32_t id, std::string_view content) {
  constexpr size_t kMessage = 16 << 10;  // the original's
  for (; !content.empty(); content.remove_prefix(std::min(content.size(), kMessage))) {
    http2_.send(id, message_of(content.substr(0, kMessage)));
  }
}

void GrpcSocket::take(int32_t id) {
  const size_t came = call(id).data.size();
  if (came > taken_[id]) http2_.consume(id, came - taken_[id]);
  taken_[id] = came;
}

void GrpcSocket::widen(int32_t id, int32_t bytes) {
  nghttp2_session_set_local_window_size(http2_.session, NGHTTP2_FLAG_NONE, id, bytes);
}

std::string GrpcSocket::heard(int32_t id) {
  constexpr size_t kPrefix = 5;
  const std::string& data = call(id).data;
  size_t whole = 0;
  while (whole + kPrefix <= data.size()) {
    size_t bytes = 0;
    for (size_t i = 1; i < kPrefix; ++i) bytes = bytes << 8 | static_cast<uint8_t>(data[whole + i]);
    if (whole + kPrefix + bytes > data.size()) break;
    whole += kPrefix + bytes;
  }
  GrpcPeer::Call came;
  came.data = data.substr(0, whole);
  return came.content();
}

int32_t GrpcSocket::window(int32_t id) { return nghttp2_session_get_stream_remote_window_size(http2_.session, id); }

void GrpcSocket::reset() { loopback::reset(fd_); }

}  // namespace natrp
