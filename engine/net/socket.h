// net/socket.h
//
// Sockets as this engine uses them: non-blocking, close-on-exec, and with every option in one struct.
#pragma once

#include "base/fd.h"
#include "base/result.h"
#include "net/address.h"

namespace natrp {

struct SocketOptions {
  bool no_delay = true;       // TCP_NODELAY: a relay never waits for more bytes
  bool keepalive = true;      // 10/5/3 s, base/limits.h
  bool user_timeout = false;  // TCP_USER_TIMEOUT 20 s: tunnel legs, where a dead peer may hold unacknowledged bytes
};

// Linux hands a listener's options on to the sockets it accepts, so one call per listener serves all its conns.
void apply_options(int fd, int family, const SocketOptions& options);

// A bound, listening socket. A second process that wants the port gets EADDRINUSE: no SO_REUSEPORT here; workers
// share the one descriptor instead.
Result<Fd> listen_on(const Address& address, const SocketOptions& options, int backlog);

// A socket to connect with. errno in Error on failure (EMFILE …).
Result<Fd> make_stream_socket(int family, const SocketOptions& options);

Address local_address(int fd);
Address peer_address(int fd);

}  // namespace natrp
