// The receive buffer of a socket, and whether bound_receive_buffer() has chosen it.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstdint>
#include <fstream>

#include "base/limits.h"

namespace natrp {

inline int receive_buffer(int fd) {
  int bytes = 0;
  socklen_t length = sizeof bytes;
  EXPECT_EQ(::getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, &length), 0);
  return bytes;
}

// On this host.
inline bool may_be_bounded() {
  uint64_t allowed = 0;
  std::ifstream("/proc/sys/net/core/rmem_max") >> allowed;
  return allowed >= kReceiveBytesMin;
}

// Of a socket on loopback that has moved little: the kernel's own choice is less.
inline bool is_bounded(int fd) { return receive_buffer(fd) >= static_cast<int>(2 * kReceiveBytesMin); }

}  // namespace natrp
