#include "net/socket.h"

#include <netinet/tcp.h>

#include <cerrno>

#include "base/limits.h"

namespace natrp {
namespace {

void set_int(int fd, int level, int name, int value) { setsockopt(fd, level, name, &value, sizeof value); }

}  // namespace

void apply_options(int fd, int family, const SocketOptions& options) {
  if (family == AF_UNIX) return;
  // A process that is killed has its sockets closed by the kernel: with a RST, or the peer would take what it has so
  // far for everything. An orderly close says otherwise (Loop::close).
  const linger reset_at_close{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset_at_close, sizeof reset_at_close);
  set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);  // a relay never waits for more bytes
  const bool slow = options.keepalive == Keepalive::kSlow;
  set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, slow ? kSlowKeepaliveIdleS : kKeepaliveIdleS);
  set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, slow ? kSlowKeepaliveIntervalS : kKeepaliveIntervalS);
  set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, slow ? kSlowKeepaliveProbes : kKeepaliveProbes);
  // An urgent byte stays where it was in the stream: without this no read would ever see it.
  if (slow) set_int(fd, SOL_SOCKET, SO_OOBINLINE, 1);
  if (options.user_timeout) set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, kTcpUserTimeoutMs);
  if (options.piggyback_acks) set_int(fd, IPPROTO_TCP, TCP_QUICKACK, 0);
}

void stop_listening(int fd) { ::shutdown(fd, SHUT_RDWR); }

bool is_listening(int fd) {
  int listens = 0;
  socklen_t length = sizeof listens;
  return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) == 0 && listens != 0;
}

Result<Fd> listen_on(const Address& address, const SocketOptions& options, int backlog) {
  Fd fd(::socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return Error::from_errno("cannot make a socket for " + address.text(), errno);
  set_int(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);  // past TIME_WAIT; two listeners are still refused
  if (address.family() == AF_INET6) {
    // [::] serves IPv4 too, as users of ssh and nginx expect of "all addresses".
    set_int(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
  }
  apply_options(fd.get(), address.family(), options);
  if (::bind(fd.get(), address.get(), address.length()) != 0 || ::listen(fd.get(), backlog) != 0) {
    const int error = errno;
    std::string why = "cannot listen on " + address.text();
    if (error == EADDRINUSE) {
      return Error{why + ": the port is in use by another process; stop it, or choose another port", error};
    }
    if (error == EACCES) {
      return Error{why + ": no right to use a port below 1024; run as root or give CAP_NET_BIND_SERVICE", error};
    }
    if (error == EADDRNOTAVAIL) {
      return Error{why + ": this host has no such address; choose one that `ip address` shows", error};
    }
    return Error::from_errno(why, error);
  }
  // listen(2) starts the ACK state of a socket anew, and what it accepts copies that.
  if (options.piggyback_acks && address.family() != AF_UNIX) set_int(fd.get(), IPPROTO_TCP, TCP_QUICKACK, 0);
  return fd;
}

Result<Fd> make_stream_socket(int family, const SocketOptions& options) {
  Fd fd(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return Error::from_errno("cannot make a socket", errno);
  apply_options(fd.get(), family, options);
  return fd;
}

Address local_address(int fd) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &length) != 0) return {};
  return Address::from_sockaddr(reinterpret_cast<sockaddr*>(&storage), length);
}

Address peer_address(int fd) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&storage), &length) != 0) return {};
  return Address::from_sockaddr(reinterpret_cast<sockaddr*>(&storage), length);
}

}  // namespace natrp
