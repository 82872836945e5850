// compat/natrp_grpc_stream.h
//
// One stream of a NatrpGrpcConnection. Private to natrp_grpc.cc and natrp_grpc_session.cc.
//
// Life     kOpening → kAnswering → kEnding → kTrailed        kOpening → kTrailed
// Thread   its connection's.
// Memory   kGrpcOutBytesMax and about 1 KiB at most, for as long as nghttp2 knows the stream.
// Never    does anything: the connection does.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "compat/byte_ring.h"
#include "compat/grpc_frame.h"
#include "compat/natrp_grpc.h"

namespace natrp {

struct NatrpGrpcConnection::Stream {
  enum class Call : uint8_t { kNone, kMsg, kAccount };
  enum class Path : uint8_t { kOther, kMsg, kAccount };
  enum class State : uint8_t {
    kOpening,    // no answer submitted
    kAnswering,  // response headers submitted; for Msg: ready
    kEnding,     // the status is known; what is in `out` goes first
    kTrailed,    // the status is submitted: nothing else will be
  };

  StreamId id = 0;
  Call call = Call::kNone;
  State state = State::kOpening;

  // The request, judged as it arrives: a stranger's fields unpack to thousands of bytes from one. Only the token is
  // kept, up to kGrpcTokenBytesMax, until it has been asked about.
  bool is_post = false;
  bool is_grpc = false;
  bool timeout_bad = false;
  bool token_too_long = false;
  Path path = Path::kOther;
  uint32_t token_count = 0;
  std::optional<uint64_t> timeout_ms;
  std::string token;

  GrpcDeframer in{kGrpcMessageInBytesMax};
  ByteRing out{kGrpcOutBytesMax};
  GrpcStatus status = GrpcStatus::kOk;
  std::string message;
  StreamEnd how = StreamEnd::kEnded;  // for on_stream_closed(), when it ends without an error of HTTP/2

  uint64_t deadline_ms = UINT64_MAX;  // grpc-timeout, or kGrpcAccountMs
  uint64_t refused_ms = UINT64_MAX;   // when it is told `status` and `message`: a verdict against it
  uint64_t ending_ms = UINT64_MAX;    // when kEnding and kTrailed have to be over

  uint32_t window_bytes = kGrpcWindowBytes;
  uint64_t consumed_bytes = 0;  // since the window last grew
  size_t unconsumed_bytes = 0;  // delivered, not consumed yet

  bool told = false;            // on_stream_ready() was called and on_stream_closed() was not
  bool peer_ended = false;      // END_STREAM came
  bool deferred = false;        // nghttp2 asks for no DATA until it is resumed
  bool wants_writable = false;  // write_stream() took less than it was given
  bool carried = false;         // a byte of a visitor was queued
  bool reset_sent = false;

  bool is_ready() const { return call == Call::kMsg && state == State::kAnswering; }
  // A window that was used up twice while next to nothing waited for the visitor is what limits this stream. One
  // with a slow visitor always has much waiting.
  bool keeps_up() const {
    return consumed_bytes >= 2ull * window_bytes && unconsumed_bytes <= window_bytes / 4;
  }
};

}  // namespace natrp
