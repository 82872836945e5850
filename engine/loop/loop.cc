#include "loop/loop.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "loop/epoll_loop.h"
#include "loop/uring_loop.h"

namespace natrp {
namespace {

constexpr uint64_t kProbePauseMaxMs = 120'000;  // TCP_RTO_MAX

}  // namespace

Result<LoopChoice> make_loop(IoKind kind) {
  std::string reason;
  if (kind != IoKind::kEpoll) {
    auto ring = UringLoop::make();
    if (ring.ok()) return LoopChoice{std::move(ring).value(), {}};
    if (kind == IoKind::kUring) return ring.error();
    reason = ring.error().message;
  }
  auto epoll = EpollLoop::make();
  if (!epoll.ok()) return epoll.error();
  return LoopChoice{std::move(epoll).value(), std::move(reason)};
}

bool accept_may_go_on(int error) {
  return error == ECONNABORTED || error == EINTR || error == EPROTO;
}

ssize_t SystemCallLoop::try_recv(int fd, void* data, size_t len) {
  const ssize_t n = ::recv(fd, data, len, MSG_DONTWAIT);
  return n < 0 ? -errno : n;
}

ssize_t SystemCallLoop::try_send(int fd, const void* data, size_t len) {
  const ssize_t n = ::send(fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
  return n < 0 ? -errno : n;
}

ssize_t SystemCallLoop::try_splice(int from, int to, size_t len) {
  // SPLICE_F_NONBLOCK covers the pipe only; the sockets are O_NONBLOCK themselves. SPLICE_F_MOVE does nothing today.
  const ssize_t n = ::splice(from, nullptr, to, nullptr, len, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
  return n < 0 ? -errno : n;
}

int SystemCallLoop::shutdown_write(int fd) { return ::shutdown(fd, SHUT_WR) == 0 ? 0 : -errno; }

int SystemCallLoop::bytes_unacknowledged(int fd) {
  int bytes = 0;
  if (::ioctl(fd, SIOCOUTQ, &bytes) != 0) return -errno;
  if (bytes == 0) return 0;
  // A socket whose peer has reset it goes on counting what it never sent; nobody will acknowledge that.
  return is_tcp_closed(fd) ? 0 : bytes;
}

int SystemCallLoop::bytes_readable(int fd) {
  int bytes = 0;
  return ::ioctl(fd, FIONREAD, &bytes) == 0 ? bytes : -errno;
}

bool SystemCallLoop::is_at_mark(int fd) {
  int at_mark = 0;
  return ::ioctl(fd, SIOCATMARK, &at_mark) == 0 && at_mark != 0;
}

bool SystemCallLoop::is_reset(int fd) {
  pollfd p{fd, 0, 0};  // ERR comes unasked
  return ::poll(&p, 1, 0) > 0 && (p.revents & POLLERR) != 0;
}

bool SystemCallLoop::is_tcp_closed(int fd) {
  uint8_t state = 0;  // the first byte of tcp_info
  socklen_t len = sizeof state;
  return ::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &state, &len) == 0 && state == TCP_CLOSE;
}

void SystemCallLoop::close_now(int fd, CloseWith with) {
  const linger how{with == CloseWith::kReset ? 1 : 0, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &how, sizeof how);
  ::close(fd);
}

int SystemCallLoop::peer_silent_ms(int fd) {
  tcp_info info{};
  socklen_t len = sizeof info;
  if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0) return 0;
  // One retransmission, or one probe of a closed window, may be a round trip old: two are unanswered. The last answer
  // may be older than the first of them, by however long there was nothing to ask. The kernel doubles its time-out each
  // time, so the pauses between them say when the first was sent.
  const uint64_t timeout_ms = info.tcpi_rto / 1000;
  const uint64_t answered_ms = info.tcpi_last_ack_recv;
  uint64_t asked_ms = 0;
  if (info.tcpi_retransmits >= 2) {
    asked_ms = timeout_ms - (timeout_ms >> info.tcpi_retransmits) + info.tcpi_last_data_sent;
  } else if (info.tcpi_probes >= 2 && bytes_unacknowledged(fd) > 0) {  // not keepalive's, which ends it by itself
    const unsigned before = info.tcpi_backoff > info.tcpi_probes ? info.tcpi_backoff - info.tcpi_probes : 0;
    asked_ms = answered_ms - std::min({answered_ms, timeout_ms << before, kProbePauseMaxMs});
  }
  return static_cast<int>(std::min(asked_ms, answered_ms));
}

uint32_t SystemCallLoop::sent_ms_ago(int fd) {
  tcp_info info{};
  socklen_t len = sizeof info;
  // A probe of a closed window carries no data, and does not count.
  return ::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 ? info.tcpi_last_data_sent : UINT32_MAX;
}

}  // namespace natrp
