// bound_receive_buffer() of net/socket.h. A file of its own, because netinet/tcp.h and linux/tcp.h cannot stand in one,
// and only the kernel's own tcp_info reaches as far as tcpi_min_rtt.
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <climits>

#include "base/fd.h"
#include "base/limits.h"
#include "net/socket.h"

namespace natrp {
namespace {

// net.core.rmem_max, which a container need not be able to read. 0: not now.
uint64_t ask_receive_bytes_max() {
  const Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int much = INT_MAX / 2;
  int given = 0;
  socklen_t len = sizeof given;
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUF, &much, sizeof much) != 0 ||
      ::getsockopt(socket.get(), SOL_SOCKET, SO_RCVBUF, &given, &len) != 0) {
    return 0;
  }
  return static_cast<uint64_t>(given) / 2;
}

uint64_t receive_bytes_max() {
  static std::atomic<uint64_t> known{0};
  if (known.load(std::memory_order_relaxed) == 0) known.store(ask_receive_bytes_max(), std::memory_order_relaxed);
  return known.load(std::memory_order_relaxed);
}

}  // namespace

void bound_receive_buffer(int fd) {
  tcp_info info{};
  socklen_t len = sizeof info;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0) return;
  const uint64_t bytes = std::max(kReceiveBytesMin, info.tcpi_min_rtt * kReceiveBytesPerUs);
  // Once it was set, the kernel never chooses for this socket again: neither more than it allows nor less.
  if (bytes > receive_bytes_max()) return;
  const int wanted = static_cast<int>(bytes);
  const int window = 2 * wanted;
  ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &wanted, sizeof wanted);
  // The window's clamp follows the buffer where the kernel chooses it; else, on some kernels, it stays at some 64 KiB.
  ::setsockopt(fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, &window, sizeof window);
}

}  // namespace natrp
