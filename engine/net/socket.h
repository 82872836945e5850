// net/socket.h
//
// Sockets as this engine uses them: non-blocking, close-on-exec, and with every option in one struct. Each is reset
// when its process dies, and by close(2): one that shall end with a FIN is closed by Loop::close().
#pragma once

#include <cstdint>

#include "base/fd.h"
#include "base/result.h"
#include "net/address.h"

namespace natrp {

enum class Keepalive : uint8_t {
  kTunnel,  // between edge and agent: a dead peer is noticed within half a minute
  kSlow,    // visitors and services: an idle session of theirs survives what it would survive without a tunnel
};

struct SocketOptions {
  Keepalive keepalive = Keepalive::kTunnel;
  // TCP_USER_TIMEOUT 20 s, for control channels only: Linux counts a closed window against it even while the peer
  // answers every probe, so on a relayed socket it would cut off a peer that does not read for a while.
  bool user_timeout = false;
  // TCP_QUICKACK off, for sockets between our own two programs only: an ACK rides on the next bytes, the third segment
  // of the handshake on the hello. Both ends set TCP_NODELAY, so no sender waits for an ACK to send. A visitor or a
  // service may leave Nagle's algorithm on, and would then wait 40 ms for an ACK that waits for it.
  bool piggyback_acks = false;
};

// Linux hands a listener's options on to the sockets it accepts, so one call per listener serves all its conns.
void apply_options(int fd, int family, const SocketOptions& options);

// A bound, listening socket. A second process that wants the port gets EADDRINUSE: no SO_REUSEPORT here; workers
// share the one descriptor instead.
Result<Fd> listen_on(const Address& address, const SocketOptions& options, int backlog);
// Frees the port now, whoever else has the descriptor, and resets connections that wait to be accepted: shutdown(2)
// takes a listener out of the listening state, and SO_REUSEADDR lets the next bind pass.
void stop_listening(int fd);
// False also of what is no socket.
bool is_listening(int fd);

// A socket to connect with. errno in Error on failure (EMFILE …).
Result<Fd> make_stream_socket(int family, const SocketOptions& options);

// TCP: bounds fd's receive buffer by what a line of its round trip needs (base/limits.h). Where the host's
// net.core.rmem_max is less than that, the size is left to the kernel. To be called before the peer may send much:
// until Linux 6.7, a clamp that is set while the window is closed keeps it closed for ever (58d3aade20cd).
void bound_receive_buffer(int fd);

Address local_address(int fd);
Address peer_address(int fd);

}  // namespace natrp
