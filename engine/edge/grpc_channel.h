// edge/grpc_channel.h
//
// GrpcChannel: one Msg stream of an original client, and the visitor that it carries: what a Pair is to the native
// protocol. The bytes are copied, because HTTP/2 frames lie around them.
//
// Life     ready ──join──▶ flowing ──one side ends──▶ finishing ──queue sent──▶ FIN or RST, lingering ──▶ over
//             └──the service closed first, the stream ended──▶ over          over: stream closed and socket closed
// Thread   its worker's.
// Memory   of a visitor nothing is read that its stream does not take at once; of a service, what its stream's window
//          lets it send ahead. An idle channel holds no buffer.
// Never    closes the visitor's socket while an op on it is in flight.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/list.h"
#include "compat/natrp_grpc.h"
#include "loop/owned.h"
#include "net/conn_table.h"

namespace natrp {

class GrpcAgent;
class GrpcAgents;
struct GrpcClientHere;

class GrpcChannel {
 public:
  using StreamId = NatrpGrpcConnection::StreamId;
  GrpcChannel(GrpcAgents& all, GrpcAgent& agent, StreamId stream, GrpcClientHere& client);
  GrpcChannel(const GrpcChannel&) = delete;
  GrpcChannel& operator=(const GrpcChannel&) = delete;

  // visitor: nothing in flight on it; owned here. Once, on a ready channel. The agent is to be pumped after it: what
  // its stream may send now waits to be told.
  void join(Conn& visitor);
  void join_and_pump(Conn& visitor);

  // From the stream. The last one may delete this.
  void on_data(std::span<const uint8_t> bytes);
  void on_end();
  void on_writable();
  void on_closed(NatrpGrpcConnection::StreamEnd how);

  // Ends the stream with status, and resets its visitor. May delete this. The agent is to be pumped after it.
  void cut(GrpcStatus status, std::string_view sentence);

  bool has_visitor() const { return visitor_ != nullptr; }
  // Its stream is open, and nobody has said that it shall end.
  bool open() const { return agent_ != nullptr && !ended_; }
  GrpcClientHere& client() { return client_; }

  ListLink all_link;
  ListLink ready_link;

 private:
  static constexpr uint32_t kSendBytesFirst = 64u << 10;
  void on_read(Op& op);
  void on_write(Op& op);
  void on_timer();
  void read_visitor();
  void visitor_left();
  void visitor_broke();
  void end_stream(GrpcStatus status, std::string_view sentence);
  void finish(bool reset);
  void flush();
  void send_end();
  void arm_read();
  void step();
  void step_and_pump();
  void close_visitor();

  GrpcAgents& all_;
  GrpcClientHere& client_;
  GrpcAgent* agent_;  // nullptr: the stream is closed
  Conn* visitor_ = nullptr;
  OwnedOp<&GrpcChannel::on_read> read_{*this};    // kPoll while its stream takes bytes, kHangUp while it does not
  OwnedOp<&GrpcChannel::on_write> write_{*this};  // sends sending_, a piece at a time
  OwnedTimer<&GrpcChannel::on_timer> timer_{*this};
  std::vector<uint8_t> queued_;
  std::vector<uint8_t> sending_;
  uint64_t bytes_down_ = 0;  // that its visitor has been sent
  size_t sent_ = 0;  // from the front of sending_, which is not empty while it is less than all
  uint32_t send_bytes_ = kSendBytesFirst;  // at most, in the next send
  uint64_t send_began_ms_ = 0;
  uint64_t end_sent_ms_ = 0;
  const StreamId stream_;
  bool ended_ = false;      // we have ended the stream
  bool blocked_ = false;    // the stream takes nothing now
  bool eof_ = false;        // the visitor's FIN is here
  bool finishing_ = false;  // nothing more comes for the visitor
  bool reset_ = false;      // the visitor's end is a RST
  bool end_sent_ = false;
  bool dead_ = false;  // close as soon as the ops have landed
};

}  // namespace natrp
