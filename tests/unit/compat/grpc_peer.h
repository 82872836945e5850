#pragma once

// What the tests of compat/ set against it: a caller that remembers what it is told, and an HTTP/2 client on
// nghttp2's other half. Each test owns its own; one thread.

#include <nghttp2/nghttp2.h>

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compat/natrp_grpc.h"

namespace natrp {

inline std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// One gRPC message whose field 1 is `content`, written without the code under test.
std::string message_of(std::string_view content);

// One HTTP/2 frame as it goes on the wire.
std::string frame_of(uint8_t type, uint8_t flags, int32_t stream_id, std::string_view payload);

// The caller of the connection, in the edge's place: remembers what it is told.
class RecordingEvents : public NatrpGrpcConnection::Events {
 public:
  using StreamId = NatrpGrpcConnection::StreamId;
  using StreamEnd = NatrpGrpcConnection::StreamEnd;

  NatrpGrpcConnection::Verdict authenticate(std::string_view token) override;
  void on_stream_ready(StreamId id, uint64_t client) override;
  void on_stream_data(StreamId id, std::span<const uint8_t> bytes) override;
  void on_stream_end(StreamId id) override;
  void on_stream_writable(StreamId id) override { writable.push_back(id); }
  void on_stream_closed(StreamId id, StreamEnd how) override;

  NatrpGrpcConnection* connection = nullptr;
  bool consumes = true;          // gives the window back at once, as for a visitor that keeps up
  bool echoes = false;           // writes back what comes
  bool joins = false;            // a visitor waits for each stream
  bool ends_with_agent = false;  // answers on_stream_end() with end_stream(kOk)
  std::vector<std::string> tokens;
  std::map<StreamId, uint64_t> ready;
  std::map<StreamId, std::string> data;
  std::vector<StreamId> ended, writable;
  std::map<StreamId, StreamEnd> closed;
};

// An HTTP/2 client on the other side of a connection: calls, and what came back for each.
class GrpcPeer {
 public:
  struct Call {
    std::map<std::string, std::string> fields;  // response headers and trailers
    std::string data;                           // DATA as it came, with gRPC's framing
    bool headers_ended_it = false;              // "Trailers-Only"
    bool trailed = false;                       // END_STREAM came
    bool closed = false;
    uint32_t error = 0;  // HTTP/2's, of the close
    std::string grpc_status() const {
      return fields.count("grpc-status") ? fields.at("grpc-status") : "none";
    }
    // The contents of the messages in `data`; fails the test when they are not whole messages of at most 16
    // KiB.
    std::string content() const;
  };

  using Fields = std::vector<std::pair<std::string, std::string>>;

  explicit GrpcPeer(bool gives_window_back = true);
  ~GrpcPeer();

  static Fields msg_call(std::string_view token = "good");

  int32_t open(const Fields& fields, std::string_view body = {}, bool ends = false);
  int32_t open_msg(std::string_view token = "good") { return open(msg_call(token)); }
  void send(int32_t id, std::string_view bytes);
  void finish(int32_t id);
  void cancel(int32_t id, uint32_t error = NGHTTP2_CANCEL);
  void consume(int32_t id, size_t count);

  // Bytes in both directions, in pieces of at most `step`, until nobody has more to say.
  void exchange(NatrpGrpcConnection& connection, size_t step = 65536);
  // What the client has to say goes nowhere: for a test that feeds frames of its own.
  std::string take_output();

  nghttp2_session* session = nullptr;
  std::map<int32_t, Call> calls;
  std::map<uint32_t, uint32_t> settings;
  std::vector<uint32_t> goaways;
  std::string goaway_reason;
  int ping_acks = 0;
  size_t bytes_received = 0;

 private:
  struct Body {
    std::string bytes;
    size_t taken = 0;  // from the front of bytes
    bool ends = false;
    bool deferred = false;
  };
  static ssize_t read_body(nghttp2_session*, int32_t, uint8_t*, size_t, uint32_t*, nghttp2_data_source*,
                           void*);
  void resume(int32_t id);

  std::map<int32_t, Body> bodies_;
};

}  // namespace natrp
