#include "sim/sim_loop.h"

#include <poll.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace natrp {
namespace {

// Both ends of a pipe have the same inode, and no later pipe gets it again.
uint64_t inode_of(int fd) {
  struct stat about {};
  return ::fstat(fd, &about) == 0 ? about.st_ino : 0;
}

}  // namespace

SimLoop::SimLoop(uint64_t seed, Offers offers) : generator_(seed * 0x9e3779b97f4a7c15ull + 1) {
  batches_ = chance(50);
  sockets_.reserve(64);
  // The receives of this kernel ask by take() all the same, so what is on offer stays there.
  buffers_.setup(offers == Offers::kAsARing ? [](void*, uint16_t) {} : BufRing::OfferFn(nullptr), nullptr);
  turn_ms_ = 1000 + random(5000);
  timers_.start_at(turn_ms_);
}

int SimLoop::make_socket(size_t window) {
  sockets_.emplace_back();
  sockets_.back().outbox_max = window;
  return kFirstFd + static_cast<int>(sockets_.size()) - 1;
}

bool SimLoop::holds(const Op& op) const {
  return std::find(in_flight_.begin(), in_flight_.end(), &op) != in_flight_.end();
}

void SimLoop::submit(Op& op) {
  if (op.in_flight || holds(op)) complaint_ = "an op was submitted twice";
  if (op.fd < kFirstFd || socket(op.fd).closed) complaint_ = "an op on a closed socket";
  op.in_flight = true;
  op.cancelled = false;
  op.more = false;
  op.result = 0;  // a send counts here what went out
  in_flight_.push_back(&op);
}

void SimLoop::cancel(Op& op) {
  if (op.in_flight) op.cancelled = true;
}

ssize_t SimLoop::take(SimSocket& from, char* data, size_t len) {
  if (from.read_error != 0) return -std::exchange(from.read_error, 0);
  if (from.inbox.empty()) {
    if (from.far_reset) {
      if (from.reset_told) return 0;
      from.reset_told = true;
      return -ECONNRESET;
    }
    return from.far_fin || from.far_closed ? 0 : -EAGAIN;
  }
  if (chance(5)) return -EAGAIN;
  size_t n = std::min(len, from.inbox.size());
  if (chance(30)) n = 1 + random(n);
  from.inbox.copy(data, n);
  from.inbox.erase(0, n);
  if (taken_ <= lose_after_ && lose_after_ < taken_ + n && n > 1) {
    const size_t at = static_cast<size_t>(lose_after_ - taken_);
    std::copy(data + at + 1, data + n, data + at);
    taken_ += n;
    return static_cast<ssize_t>(n - 1);
  }
  if (lose_after_ < taken_ + n && lose_after_ != ~0ull && n == 1) lose_after_ += 1;  // the next longer read loses it
  taken_ += n;
  return static_cast<ssize_t>(n);
}

ssize_t SimLoop::put(SimSocket& to, const char* data, size_t len) {
  if (to.near_fin) complaint_ = "bytes were sent after the end of the stream";
  if (to.far_reset) {
    const bool told = to.reset_told;
    to.reset_told = true;
    return told ? -EPIPE : -ECONNRESET;
  }
  if (to.far_closed) return -EPIPE;
  size_t n = std::min(len, to.outbox_max - std::min(to.outbox_max, to.outbox.size()));
  if (n == 0 || chance(5)) return -EAGAIN;
  if (chance(30)) n = 1 + random(n);
  to.outbox.append(data, n);
  return static_cast<ssize_t>(n);
}

ssize_t SimLoop::try_recv(int fd, void* data, size_t len) { return take(socket(fd), static_cast<char*>(data), len); }

ssize_t SimLoop::try_send(int fd, const void* data, size_t len) {
  return put(socket(fd), static_cast<const char*>(data), len);
}

ssize_t SimLoop::try_splice(int from, int to, size_t len) {
  if (from >= kFirstFd) {
    std::string& pipe = pipes_[inode_of(to)];
    const size_t room = (16u << 10) + random(1u << 17);  // slots, not bytes
    if (pipe.size() >= room) return -EAGAIN;
    std::string moved(std::min(len, room - pipe.size()), 0);
    const ssize_t n = take(socket(from), moved.data(), moved.size());
    if (n > 0) pipe.append(moved, 0, static_cast<size_t>(n));
    return n;
  }
  std::string& pipe = pipes_[inode_of(from)];
  if (pipe.empty()) return -EAGAIN;
  const ssize_t n = put(socket(to), pipe.data(), std::min(len, pipe.size()));
  if (n > 0) pipe.erase(0, static_cast<size_t>(n));
  return n;
}

int SimLoop::shutdown_write(int fd) {
  SimSocket& at = socket(fd);
  if (at.far_reset) return -ENOTCONN;
  at.near_fin = true;
  return 0;
}

int SimLoop::bytes_unacknowledged(int fd) {
  const SimSocket& at = socket(fd);
  return at.far_reset || at.far_closed ? 0 : static_cast<int>(at.outbox.size());
}

int SimLoop::bytes_readable(int fd) { return static_cast<int>(socket(fd).inbox.size()); }

void SimLoop::close(int fd, CloseWith with) {
  SimSocket& at = socket(fd);
  if (at.closed) complaint_ = "a socket was closed twice";
  for (const Op* op : in_flight_) {
    if (op->fd == fd) complaint_ = "a socket was closed with an op in flight";
  }
  at.closed = true;
  // Linux answers bytes that nobody read with a reset, too.
  at.closed_by_reset = with == CloseWith::kReset || (!at.inbox.empty() && !at.far_reset);
  if (at.closed_by_reset) at.outbox.clear();
}

int SimLoop::mask_of(const SimSocket& at) const {
  int mask = 0;
  if (!at.inbox.empty() || at.far_fin || at.far_reset || at.read_error != 0) mask |= POLLIN;
  if (at.outbox.size() < at.outbox_max || at.far_reset) mask |= POLLOUT;
  if (at.far_reset) mask |= POLLERR | POLLHUP;
  if (at.far_closed) mask |= POLLIN | POLLOUT | POLLHUP;
  return mask;
}

bool SimLoop::perform(Op& op, int32_t& result) {
  SimSocket& at = socket(op.fd);
  switch (op.kind) {
    case OpKind::kPoll:
      result = mask_of(at) & static_cast<int>(op.len | POLLERR | POLLHUP);
      if (at.readiness_lost) result &= ~POLLIN;
      return result != 0;
    case OpKind::kHangUp:
      if (at.unwatchable) {
        result = -ECANCELED;
        return true;
      }
      result = mask_of(at) & (POLLERR | POLLHUP);
      return result != 0;
    case OpKind::kRecvBuffer: {
      if (mask_of(at) == 0 || (mask_of(at) & POLLIN) == 0) return false;
      uint16_t id = 0;
      if (chance(3) || !buffers_.take(id)) {
        result = -ENOBUFS;
        return true;
      }
      const ssize_t n = take(at, reinterpret_cast<char*>(buffers_.data(id)), op.len);
      if (n <= 0) buffers_.release(id);
      op.buffer = id;
      result = static_cast<int32_t>(n);
      return n != -EAGAIN;
    }
    case OpKind::kSend: {
      const auto sent = static_cast<size_t>(op.result);
      const ssize_t n = put(at, static_cast<char*>(op.data) + sent, op.len - sent);
      if (n == -EAGAIN) return false;
      if (n > 0) {
        op.result += static_cast<int32_t>(n);
        result = op.result;
        return static_cast<uint32_t>(op.result) == op.len;
      }
      result = op.result > 0 ? op.result : static_cast<int32_t>(n);
      return true;
    }
    default: complaint_ = "a kind of op that pumps do not use"; return false;
  }
}

void SimLoop::finish(Op& op, int32_t result) {
  in_flight_.erase(std::find(in_flight_.begin(), in_flight_.end(), &op));
  op.result = result;
  op.in_flight = false;
  op.handler(op);
}

void SimLoop::attempt(Op& op) {
  // A cancel may lose its race; a send tells what went out before.
  if (op.cancelled && chance(60)) {
    return finish(op, op.kind == OpKind::kSend && op.result > 0 ? op.result : -ECANCELED);
  }
  int32_t result = 0;
  if (perform(op, result)) return finish(op, result);
}

void SimLoop::run_once(int) {
  turn_ms_ += chance(1) ? 300 + random(1200) : random(8);
  timers_.begin_turn(turn_ms_);
  if (woken_ && wake_handler_ != nullptr) wake_handler_(wake_context_);
  woken_ = false;
  std::vector<Op*> order = in_flight_;
  std::shuffle(order.begin(), order.end(), generator_);
  for (Op* op : order) {
    if (chance(30) || !holds(*op)) continue;  // late
    attempt(*op);
  }
  timers_.advance(turn_ms_);
}

}  // namespace natrp
