// Raw bytes of a peer against NatrpGrpcConnection, with a caller that does all that a caller may do. What must
// hold, for any bytes: each stream that was ready is closed once and hears nothing later; the caller is never owed
// more than the windows allow; output ends; a connection that refused stays refused.
//
// The first byte of the input chooses: bit 0, the preface and SETTINGS come first; bit 1, a true call comes next;
// bits 2-4, how many bytes are fed at a time; bits 5-7, what the caller does.

#include <nghttp2/nghttp2.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "compat/grpc_frame.h"
#include "compat/natrp_grpc.h"

namespace natrp {
namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

class FuzzEvents : public NatrpGrpcConnection::Events {
 public:
  using StreamId = NatrpGrpcConnection::StreamId;

  explicit FuzzEvents(int habits) : habits_(habits) {}

  NatrpGrpcConnection::Verdict authenticate(std::string_view token) override {
    NatrpGrpcConnection::Verdict verdict;
    verdict.accepted = token != "evil";
    return verdict;
  }

  void on_stream_ready(StreamId id, uint64_t) override {
    require(streams.emplace(id, State{}).second, "a stream becomes ready once");
    if (!(habits_ & 1)) return;
    connection->join_stream(id);
    connection->write_stream(id, bytes_of("a visitor is here already"));
  }

  void on_stream_data(StreamId id, std::span<const uint8_t> bytes) override {
    State& state = open(id);
    require(!state.ended, "no data after the agent's end");
    require(!bytes.empty(), "data is not empty");
    state.owed += bytes.size();
    // One more for a stream that was widened before our SETTINGS raised HTTP/2's own 65,535 to 64 KiB.
    require(state.owed <= kGrpcWindowBytesMax + 1, "never more than a window is owed");
    if (habits_ & 2) {
      connection->consume_stream(id, bytes.size());
      state.owed = 0;
    }
    if (habits_ & 1) connection->write_stream(id, bytes);
    if ((habits_ & 4) && bytes.front() == 'q') connection->end_stream(id, GrpcStatus::kOk);
    if ((habits_ & 4) && bytes.front() == 'r') connection->end_stream(id, GrpcStatus::kCancelled, "r");
  }

  void on_stream_end(StreamId id) override {
    State& state = open(id);
    require(!state.ended, "the agent ends once");
    state.ended = true;
    if (habits_ & 2) connection->end_stream(id, GrpcStatus::kOk);
  }

  void on_stream_writable(StreamId id) override {
    open(id);
    connection->write_stream(id, bytes_of("more"));
  }

  void on_stream_closed(StreamId id, NatrpGrpcConnection::StreamEnd) override {
    State& state = open(id);
    state.closed = true;
    connection->join_stream(id);
    connection->write_stream(id, bytes_of("too late"));
    connection->consume_stream(id, 1);
  }

  struct State {
    size_t owed = 0;
    bool ended = false;
    bool closed = false;
  };
  std::map<StreamId, State> streams;
  NatrpGrpcConnection* connection = nullptr;

 private:
  State& open(StreamId id) {
    const auto found = streams.find(id);
    require(found != streams.end() && !found->second.closed, "events are for streams that are open");
    return found->second;
  }

  int habits_;
};

// HEADERS of a Msg call on stream 1, written once with nghttp2's own encoder.
std::string true_call() {
  std::vector<std::pair<std::string, std::string>> fields = {{":method", "POST"},
                                                             {":scheme", "http"},
                                                             {":path", "/serverpb.ServerService/Msg"},
                                                             {":authority", "e"},
                                                             {"content-type", "application/grpc"},
                                                             {"natrp-token", "good"}};
  std::vector<nghttp2_nv> list;
  for (auto& [name, value] : fields) {
    list.push_back({reinterpret_cast<uint8_t*>(name.data()), reinterpret_cast<uint8_t*>(value.data()),
                    name.size(), value.size(), NGHTTP2_NV_FLAG_NONE});
  }
  nghttp2_hd_deflater* deflater = nullptr;
  nghttp2_hd_deflate_new(&deflater, 4096);
  uint8_t block[512];
  const ssize_t size = nghttp2_hd_deflate_hd(deflater, block, sizeof block, list.data(), list.size());
  nghttp2_hd_deflate_del(deflater);
  require(size > 0 && size < 256, "the call can be encoded");
  const char head[] = {0, 0, static_cast<char>(size), NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 0, 0, 0, 1};
  return std::string(head, sizeof head) + std::string(block, block + size);
}

void drive(const uint8_t* data, size_t size) {
  static const std::string kCall = true_call();
  static const std::string kPreface = NGHTTP2_CLIENT_MAGIC + std::string("\0\0\0\4\0\0\0\0\0", 9);
  const int choice = data[0];
  std::string input;
  if (choice & 1) input += kPreface;
  if (choice & 2) input += kCall;
  input.append(data + 1, data + size);
  const size_t step = size_t{1} << (2 * (choice >> 2 & 7));

  FuzzEvents events(choice >> 5);
  uint64_t now_ms = 0;
  NatrpGrpcConnection connection(events, now_ms);
  events.connection = &connection;
  std::vector<uint8_t> out(5000);
  bool open = true;
  for (size_t done = 0; done < input.size(); done += step) {
    const bool now_open = connection.feed(bytes_of(std::string_view(input).substr(done, step)));
    require(open || !now_open, "a refused connection stays refused");
    open = now_open;
    for (size_t total = 0; connection.wants_output();) {
      const size_t moved = connection.pull(out);
      total += moved;
      require(total < 64 * 1024 * 1024, "output ends");
      if (moved == 0) break;
    }
    connection.on_tick(now_ms += choice & 8 ? 400 : 1);
  }
  if (choice & 16) connection.drain("the edge is being stopped");
  connection.on_tick(now_ms + kGrpcIdleMs);
  while (connection.wants_output() && connection.pull(out) > 0) {
  }
  connection.lost(NatrpGrpcConnection::StreamEnd::kLost);
  require(connection.streams_ready() == 0, "nothing is ready in the end");
  for (const auto& [id, state] : events.streams)
    require(state.closed, "every ready stream is closed in the end");
}

// The same bytes as messages: content must not depend on how they are cut.
void deframe(const uint8_t* data, size_t size) {
  std::string whole, cut;
  for (const size_t step : {size, size_t{3}}) {
    GrpcDeframer deframer(100'000);
    std::string& content = step == size ? whole : cut;
    const GrpcFault* fault = nullptr;
    for (size_t done = 0; done < size && !fault; done += step) {
      auto in = std::span(data + done, std::min(step, size - done));
      while (!in.empty() && !fault) {
        const auto result = deframer.next(in);
        content.append(result.data.begin(), result.data.end());
        fault = result.fault;
      }
    }
  }
  require(whole == cut, "content does not depend on how the bytes are cut");
}

}  // namespace
}  // namespace natrp

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  natrp::drive(data, size);
  natrp::deframe(data + 1, size - 1);
  return 0;
}
