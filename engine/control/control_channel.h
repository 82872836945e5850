// control/control_channel.h
//
// ControlChannel: one control connection, the same on edge and agent: socket, TLS, frames, heartbeats, deadlines.
//
// Life     open ──▶ flushing ──▶ lingering ──▶ landing ──▶ closed: on_closed, once, the last thing it does
//            │        close(): what was sent before it still goes out, then our FIN; the peer's bytes are
//            │        thrown away until its FIN, so that our last message is not lost to a RST
//            └──lost: socket error, silence, a peer that does not read──▶ landing
//          landing = shutdown(2) and cancel; the descriptor is closed when neither op is in flight.
// Thread   its loop's.
// Memory   holds a buffer of its loop only while it reads what has come into it.
//          on_closed is called from the loop, never from inside a call of the owner's, and nothing is touched
//          after it: the owner may delete the channel right there. Before it, an op may be in flight: the
//          destructor aborts then. To retire a channel, call close() and run the loop until on_closed.
// Never    calls its owner from the constructor, send(), close() or start_heartbeats().
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/limits.h"
#include "control/control.pb.h"
#include "control/frame_codec.h"
#include "control/ticket.h"
#include "control/tls_stream.h"
#include "loop/loop.h"
#include "loop/owned.h"

namespace natrp {

class ControlChannelEvents {
 public:
  // TLS is done and the edge is verified. The owner may send() and close() in any of these, and delete the
  // channel in the last one only.
  virtual void on_secure() = 0;
  // Every message but heartbeats, in order; none after close().
  virtual void on_frame(const wire::Frame& frame) = 0;
  // why: a sentence, the owner's own after close(why). fatal: the peer is not who it should be; never retry.
  virtual void on_closed(const std::string& why, bool fatal) = 0;

 protected:
  ~ControlChannelEvents() = default;
};

struct ControlChannelTimes {
  uint32_t heartbeat_ms = kHeartbeatMs;
  unsigned heartbeat_misses = kHeartbeatMisses;
  uint32_t hello_timeout_ms = kHelloTimeoutMs;
  uint32_t close_timeout_ms = 1000;  // flushing and lingering together
};

class ControlChannel {
 public:
  // fd: connected, owned from here on. prefix: bytes of the peer that were received already. events must live
  // until on_closed. A channel has hello_timeout_ms, from here to start_heartbeats().
  ControlChannel(Loop& loop, Fd fd, TlsStream tls, ControlChannelEvents& events, std::string_view prefix = {},
                 ControlChannelTimes times = {});
  ~ControlChannel();
  ControlChannel(const ControlChannel&) = delete;
  ControlChannel& operator=(const ControlChannel&) = delete;

  // Queues frame; what is sent before TLS is done waits for it. After close() it is dropped. A frame larger
  // than kFrameBytesMax is a bug and aborts. A peer that leaves 1 MiB unread is lost.
  void send(const wire::Frame& frame);
  // Ends the channel after what was sent before. A second call changes nothing.
  void close(std::string why);
  // The session is open: the deadline is off, heartbeats are on.
  void start_heartbeats();

  bool secure() const { return secure_; }
  // close() was called, or the channel is lost: on_closed was called, or will be.
  bool closing() const { return state_ != State::kOpen; }
  // No session was opened in time.
  bool late() const { return late_; }
  bool tls_failed() const { return tls_.failed(); }
  bool rejected() const { return tls_.rejected(); }
  // What the peer sent was no frame that we know.
  bool malformed() const { return malformed_; }
  // No op is in flight and the descriptor is closed: the channel may be destroyed.
  bool landed() const { return state_ == State::kClosed; }
  // The loop's time when the last message came, heartbeats included; at first that of the construction.
  uint64_t last_heard_ms() const { return last_heard_ms_; }
  // Only after on_secure; the same on both ends.
  TicketKey ticket_key() const;

 private:
  enum class State : uint8_t { kOpen, kFlushing, kLingering, kLanding, kClosed };

  void on_received();
  void on_sent();
  void on_deadline();
  void on_kick();
  void process();
  void take_frames();
  void handle(const wire::Frame& frame);
  void submit_receive();
  void flush();
  void arm_heartbeat();
  void beat();
  void end(std::string why, bool fatal);
  void lose(std::string why);
  void land();
  void finish_if_landed();
  // The other end, in a sentence.
  std::string who() const { return tls_.is_server() ? "the agent" : "the edge"; }

  Loop& loop_;
  Fd fd_;
  TlsStream tls_;
  ControlChannelEvents& events_;
  const ControlChannelTimes times_;
  State state_ = State::kOpen;
  bool secure_ = false;
  bool heartbeats_ = false;
  bool fatal_ = false;
  bool late_ = false;
  bool malformed_ = false;
  std::string why_;
  uint64_t last_heard_ms_;
  uint64_t next_heartbeat_ms_ = 0;
  uint64_t heartbeat_sequence_ = 0;
  OwnedOp<&ControlChannel::on_received> receive_{*this};
  OwnedOp<&ControlChannel::on_sent> send_{*this};
  OwnedTimer<&ControlChannel::on_deadline> deadline_{*this};
  OwnedTimer<&ControlChannel::on_kick> kick_{*this};  // bytes came with the constructor: they are handled in the loop
  FrameDecoder decoder_;
  std::string early_;    // plaintext that waits for TLS
  std::string sending_;  // the send's, not to be touched while it is in flight
  std::string waiting_;
  size_t sent_ = 0;  // of sending_
};

}  // namespace natrp
