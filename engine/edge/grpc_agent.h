// edge/grpc_agent.h
//
// GrpcAgent: one TCP connection of an original client: the socket around compat/natrp_grpc's connection, and the
// channels of its streams.
//
// Life     serving ──finished──▶ closing: FIN, its last bytes are read past ──its FIN, or 2 s──▶ broken
//          serving ──a send failed──▶ unheard: what it has sent is read still ──its FIN, RST, or 2 s──▶ broken
//          serving ──FIN, RST──▶ broken ──ops landed──▶ closed, and this deleted
// Thread   its worker's.
// Bounds   64 KiB of output, and what compat/natrp_grpc names. While its output does not move, no more than
//          kGrpcAnswerableBytes of its input are read.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/list.h"
#include "compat/natrp_grpc.h"
#include "loop/loop.h"
#include "loop/owned.h"
#include "net/conn_table.h"

namespace natrp {

class GrpcAgents;
class GrpcChannel;
struct GrpcClientHere;

class GrpcAgent final : private NatrpGrpcConnection::Events {
 public:
  // conn: nothing in flight on it; owned here.
  GrpcAgent(GrpcAgents& all, Conn& conn);
  ~GrpcAgent();
  GrpcAgent(const GrpcAgent&) = delete;
  GrpcAgent& operator=(const GrpcAgent&) = delete;

  // first_bytes: read from its socket already. May delete this, like pump(), tick() and stop().
  void start(std::string_view first_bytes);
  // Sends what there is to send, and goes on to read. After whatever was asked of http2(), but never from within its
  // events.
  void pump();
  void tick();
  // The connection ends at once.
  void stop();

  NatrpGrpcConnection& http2() { return http2_; }
  // Clients whose tokens it has shown: one, for every client known.
  const std::vector<GrpcClientHere*>& shown() const { return shown_; }
  ListLink link;
  ListLink stranger_link;  // until it has shown a known token

 private:
  enum class State : uint8_t { kServing, kUnheard, kClosing, kBroken };
  void on_read();
  void read();
  void send();
  std::span<const uint8_t> next_output();
  void unheard(int error);
  void begin_closing();
  void http2_over(NatrpGrpcConnection::StreamEnd how);
  void step();

  NatrpGrpcConnection::Verdict authenticate(std::string_view token) override;
  void on_stream_ready(NatrpGrpcConnection::StreamId id, uint64_t client) override;
  void on_stream_data(NatrpGrpcConnection::StreamId id, std::span<const uint8_t> bytes) override;
  void on_stream_end(NatrpGrpcConnection::StreamId id) override;
  void on_stream_writable(NatrpGrpcConnection::StreamId id) override;
  void on_stream_closed(NatrpGrpcConnection::StreamId id, NatrpGrpcConnection::StreamEnd how) override;

  GrpcAgents& all_;
  Conn& conn_;
  NatrpGrpcConnection http2_;
  // kPoll: what is there is read on the spot, so that an idle agent holds no buffer.
  OwnedOp<&GrpcAgent::on_read> read_{*this};
  OwnedOp<&GrpcAgent::pump> writable_{*this};  // kPoll: the socket had no room for what is unsent
  std::unique_ptr<uint8_t[]> output_;
  std::span<const uint8_t> unsent_;  // of output_
  std::unordered_map<NatrpGrpcConnection::StreamId, GrpcChannel*> channels_;
  std::vector<GrpcClientHere*> shown_;
  uint64_t closing_since_ms_ = 0;  // or unheard
  size_t unanswered_bytes_ = 0;  // read since output last left
  State state_ = State::kServing;
  bool was_reset_ = false;  // unheard: its end is no clean one
};

}  // namespace natrp
