// compat/natrp_grpc.h
//
// NatrpGrpcConnection: one HTTP/2 connection of an original natrp client (2019, Go, gRPC without TLS), seen from the
// edge. Bytes of the TCP connection go in by feed() and come out by pull(). Each open `Msg` stream is one ready data
// channel of the client whose token it showed.
//
// Life     connection:  preface → serving → draining → drained → finished        any → failed → finished
//          stream:      opening → ready → ending → closed        opening → held → refused        ready → closed
//            opening   the call's headers are here: authenticate() gives the caller's verdict
//            held      a verdict against it is told kGrpcRefusalHeldMs later: the original tries again at once
//            ready     on_stream_ready(): bytes both ways; the agent may end its own direction, on_stream_end()
//            ending    end_stream(): what is queued goes out, then the status; nothing more comes in
//            closed    on_stream_closed(), once for each on_stream_ready(), however it went; the id is not used again
// Thread   its owner's.
// Memory   what base/limits.h adds up for one connection.
// Never    has a socket, a thread, a clock or a log; keeps a pointer into what it was given; blocks; throws for what a
//          peer does.
//
// What its caller does:
//
//   at first, and after anything below   while wants_output(): pull(), send;  finished(): close the socket
//   the socket has bytes                 on_tick(now), feed(bytes)
//   the socket broke                     lost(), destroy
//   every 250 ms or so                   on_tick(now)
//   a visitor takes the stream           join_stream(), once
//   the visitor has bytes                write_stream(); it took less: read again on on_stream_writable()
//   on_stream_data()                     send to the visitor; consume_stream() for what its socket took. A service
//                                        may speak before there is a visitor: kept unconsumed, at most a window
//   the visitor ended                    end_stream(id, kOk)
//   on_stream_end()                      what is queued for the visitor, then FIN; then end_stream(id, kOk)
//
// While much output waits, the caller does not read the socket: a peer that does not read must not make answers pile
// up.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/limits.h"
#include "compat/grpc_frame.h"

struct nghttp2_session;

namespace natrp {

// What a message of ours can carry: it fits into one frame.
inline constexpr size_t kGrpcContentOutBytesMax = kGrpcFrameBytesMax - kGrpcHeaderBytesMax;

class FloodGuard;

class NatrpGrpcConnection {
 public:
  using StreamId = int32_t;

  struct Verdict {
    bool accepted = false;
    uint64_t client = 0;                               // the caller's own name for whom the token belongs to
    GrpcStatus status = GrpcStatus::kUnauthenticated;  // of a refusal, with a sentence for the client
    std::string message = "this edge does not know the token: ask its operator for one";
  };

  enum class StreamEnd : uint8_t {
    kEnded,      // end_stream(), and the peer was sent everything
    kCancelled,  // the peer reset it
    kDeadline,   // its grpc-timeout passed
    kBadInput,   // the peer sent what is no message
    kAborted,    // the peer did not take the rest within kGrpcEndingMs: its call is cancelled
    kLost,       // the connection ended, behind all that the peer had sent
    kBroken,     // the connection broke: of what the peer had sent, the last may be missing
  };

  // Called from within feed(), pull(), on_tick() and lost(). They may call every function on streams, and
  // drain(); they may not call those four, nor destroy the connection.
  class Events {
   public:
    virtual ~Events() = default;
    // A Msg call with one natrp-token. Only asked here; the stream is ready when on_stream_ready() says so.
    virtual Verdict authenticate(std::string_view token) = 0;
    virtual void on_stream_ready(StreamId id, uint64_t client) = 0;
    // Bytes of the service, in order. They count against the stream's window until consume_stream().
    virtual void on_stream_data(StreamId id, std::span<const uint8_t> bytes) = 0;
    // The agent ended its direction: no more on_stream_data(). The other direction still works.
    virtual void on_stream_end(StreamId id) = 0;
    // There is room again after write_stream() took less than it was given.
    virtual void on_stream_writable(StreamId id) = 0;
    virtual void on_stream_closed(StreamId id, StreamEnd how) = 0;
  };

  // `events` has to outlive the connection. Output (our SETTINGS) waits from the start.
  NatrpGrpcConnection(Events& events, uint64_t now_ms);
  ~NatrpGrpcConnection();  // tells nothing: lost() does
  NatrpGrpcConnection(const NatrpGrpcConnection&) = delete;
  NatrpGrpcConnection& operator=(const NatrpGrpcConnection&) = delete;

  // The bytes that came, with the preface. False: send what wants_output() and close; further input is ignored.
  bool feed(std::span<const uint8_t> bytes);
  // Moves bytes to send into `out`, returns how many; 0: there are none.
  size_t pull(std::span<uint8_t> out);
  bool wants_output() const;
  // Nothing will come out and nothing is read any more: close the socket.
  bool finished() const;

  // Time passes: deadlines, allowances. Call it before feed() and at least every 250 ms. Milliseconds of any
  // steady clock, the constructor's.
  void on_tick(uint64_t now_ms);

  // There is a visitor now: the agent may send further ahead, as long as there is growth left to give.
  void join_stream(StreamId id);
  // How many bytes write_stream() would take now; 0 for a stream that is not ready.
  size_t stream_writable(StreamId id) const;
  // Queues bytes of the visitor; returns how many from the front were taken.
  size_t write_stream(StreamId id, std::span<const uint8_t> bytes);
  // `count` bytes that on_stream_data() delivered have left for the visitor: the agent may send as many more.
  void consume_stream(StreamId id, size_t count);
  // After what is queued, the status; kOk when the visitor or the agent left. Only the first call counts.
  void end_stream(StreamId id, GrpcStatus status, std::string_view message = {});

  // No new streams (they get kUnavailable and the reason, later none come); open ones go on. Finished when the
  // last is closed: the caller ends those that have no visitor. Only the first reason counts.
  void drain(std::string_view reason);
  // The socket is gone: on_stream_closed() for all that were ready, with kLost after a FIN, with kBroken after
  // anything else.
  void lost(StreamEnd how);

  size_t streams_ready() const { return streams_ready_; }
  // Why it failed or finished, one sentence for the log; empty while all is well.
  std::string_view end_reason() const { return end_reason_; }

 private:
  struct Stream;
  struct Field {
    std::string_view name, value;
  };
  struct Hooks;  // what nghttp2 calls, in natrp_grpc_session.cc
  enum class Phase : uint8_t { kPreface, kServing, kDraining, kDrained };

  Stream* find(StreamId id) const;
  void take_field(Stream& stream, std::string_view name, std::string_view value);
  void open_stream(Stream& stream);
  void refuse(Stream& stream, GrpcStatus status, std::string_view message);
  void refuse_later(Stream& stream, GrpcStatus status, std::string_view message);
  void refuse_http(Stream& stream, std::string_view http_status);
  void send_headers(Stream& stream, std::initializer_list<Field> fields, bool body_follows);
  void accept(Stream& stream, uint64_t client);
  void begin_answer(Stream& stream);
  void take_data(Stream& stream, std::span<const uint8_t> bytes);
  void peer_ended(Stream& stream);
  void answer_account(Stream& stream);
  void finish(Stream& stream, GrpcStatus status, std::string_view message);
  void give_up(Stream& stream, GrpcStatus status, std::string_view message, StreamEnd how);
  void cut_off(Stream& stream);
  void widen_window(Stream& stream, uint32_t window_bytes, uint32_t growth_bytes_max);
  void reset(Stream& stream, uint32_t http2_error);
  void tell_closed(Stream& stream, StreamEnd how);
  void close_stream(StreamId id, uint32_t http2_error);
  void check_stream_deadlines(Stream& stream);
  bool take_ping(const uint8_t* opaque);
  bool answer_ping();
  bool ping_is_due() const;
  void allow_all_streams();
  void stop_new_streams();
  void done();
  void end_connection(uint32_t http2_error, std::string_view reason);
  void fail(uint32_t http2_error, std::string_view reason);

  Events& events_;
  nghttp2_session* session_ = nullptr;
  std::unique_ptr<FloodGuard> guard_;
  std::unordered_map<StreamId, std::unique_ptr<Stream>> streams_;
  std::vector<StreamId> writable_;    // to be told once nghttp2 has returned
  std::span<const uint8_t> sending_;  // nghttp2's memory: a frame that pull() has not moved yet
  std::vector<uint8_t> farewell_;     // our own GOAWAY, once nghttp2 cannot be asked for one
  std::span<const uint8_t> farewell_left_;
  std::string end_reason_;
  uint64_t now_ms_;
  uint64_t began_ms_;
  uint64_t idle_since_ms_;
  uint64_t drain_began_ms_ = 0;
  uint64_t ping_ms_ = 0;  // when held_ping_ came
  uint64_t data_ms_ = 0;  // when bytes of a service last came
  std::optional<std::array<uint8_t, 8>> held_ping_;  // not answered yet
  uint32_t window_growth_bytes_ = 0;  // given on top of kGrpcWindowBytes, by all streams that are open
  size_t streams_ready_ = 0;
  Phase phase_ = Phase::kPreface;
  bool settings_acked_ = false;
  bool ever_ready_ = false;
  bool failed_ = false;
  bool flooded_ = false;
  bool broke_http2_ = false;  // the peer, and our GOAWAY says so
};

}  // namespace natrp
