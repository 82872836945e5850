// An original client's connection over a real socket: GrpcPeer's HTTP/2, and the bytes of it.
#pragma once

#include <poll.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "compat/grpc_peer.h"
#include "net/address.h"

namespace natrp {

class GrpcSocket {
 public:
  GrpcSocket(const Address& edge, bool gives_window_back = true);

  // Sends what there is to send, receives what is there; waits for nothing.
  void turn();
  int32_t open(std::string_view token) { return http2_.open_msg(token); }
  // One message with these bytes of the service.
  void say(int32_t id, std::string_view content);
  void finish(int32_t id) { http2_.finish(id); }
  void cancel(int32_t id) { http2_.cancel(id); }
  // Gives back the windows for all of the call's bytes that came; for a peer that does not do so by itself.
  void take(int32_t id);
  // Lets the edge send so much ahead on this call.
  void widen(int32_t id, int32_t bytes);
  // The contents of the messages that came whole.
  std::string heard(int32_t id);
  GrpcPeer::Call& call(int32_t id) { return http2_.calls[id]; }
  bool accepted(int32_t id) { return call(id).fields.contains(":status") && !call(id).trailed; }
  // The edge's window for this call: 0 when its visitor takes nothing.
  int32_t window(int32_t id);
  GrpcPeer& http2() { return http2_; }
  void reset();
  // As its process's end does it: a FIN behind what was sent.
  void close() { fd_.reset(); }

  bool reads = true;
  bool ended = false;  // the edge closed the connection

 private:
  Fd fd_;
  GrpcPeer http2_;
  std::string unsent_;
  std::map<int32_t, size_t> taken_;
};

// All of both act once, and the edge's threads get a moment.
template <typename Agents, typename Visitors>
void turn_all(Agents& agents, Visitors& visitors) {
  for (GrpcSocket& agent : agents) agent.turn();
  for (auto& visitor : visitors) visitor.turn();
  ::poll(nullptr, 0, 1);
}

}  // namespace natrp
