// Real sockets for tests: TCP over 127.0.0.1 with ports that the kernel chose. What fails here is the machine's
// fault, so it aborts with a sentence instead of becoming a test's result.
#pragma once

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "base/fd.h"
#include "net/socket.h"

namespace natrp::loopback {

inline void must(bool held, const char* what) {
  if (held) return;
  std::perror(what);
  std::abort();
}

inline sockaddr_in any_port() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

struct Listener {
  Fd fd;
  Address address;
};

inline Listener listener(int backlog = 256) {
  Listener out;
  out.fd.reset(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_in address = any_port();
  must(::bind(out.fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0, "bind");
  must(::listen(out.fd.get(), backlog) == 0, "listen");
  out.address = local_address(out.fd.get());
  return out;
}

// A blocking connect; the socket is non-blocking afterwards.
inline Fd connect_to(const Address& address) {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  must(fd.valid() && ::connect(fd.get(), address.get(), address.length()) == 0, "connect");
  const int on = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  must(::fcntl(fd.get(), F_SETFL, O_NONBLOCK) == 0, "fcntl");
  return fd;
}

struct Two {
  Fd near;  // as accepted
  Fd far;   // as dialled
};

// buffer_bytes: SO_SNDBUF and SO_RCVBUF of both ends; 0 leaves the kernel's choice.
inline Two connected(int buffer_bytes = 0) {
  static Listener shared = listener();
  if (buffer_bytes != 0) {
    Listener small = listener();
    setsockopt(small.fd.get(), SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof buffer_bytes);
    setsockopt(small.fd.get(), SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof buffer_bytes);
    Two two;
    two.far.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    setsockopt(two.far.get(), SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof buffer_bytes);
    setsockopt(two.far.get(), SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof buffer_bytes);
    must(::connect(two.far.get(), small.address.get(), small.address.length()) == 0, "connect");
    must(::fcntl(two.far.get(), F_SETFL, O_NONBLOCK) == 0, "fcntl");
    two.near.reset(::accept4(small.fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    must(two.near.valid(), "accept");
    return two;
  }
  Two two;
  two.far = connect_to(shared.address);
  two.near.reset(::accept4(shared.fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  must(two.near.valid(), "accept");
  const int on = 1;
  setsockopt(two.near.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return two;
}

// Closes with a reset: the peer sees ECONNRESET.
inline void reset(Fd& fd) {
  const linger now{1, 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  fd.reset();
}

// Of this process, and always the same few more.
inline size_t open_descriptors() {
  size_t count = 0;
  DIR* dir = ::opendir("/proc/self/fd");
  must(dir != nullptr, "opendir");
  while (::readdir(dir) != nullptr) ++count;
  ::closedir(dir);
  return count;
}

}  // namespace natrp::loopback
