#include "loop/epoll_loop.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "base/check.h"
#include "base/clock.h"
#include "base/limits.h"

namespace natrp {
namespace {

constexpr unsigned kEventsPerWait = 256;

bool is_writer(const Op& op) {
  return op.kind == OpKind::kSend ||
         ((op.kind == OpKind::kPoll || op.kind == OpKind::kPollMulti) && (op.len & POLLOUT) != 0);
}

int poll_now(int fd, uint32_t mask) {
  pollfd p{fd, static_cast<short>(mask), 0};
  const int n = ::poll(&p, 1, 0);
  return n < 0 ? -errno : static_cast<int>(static_cast<unsigned short>(p.revents));
}

}  // namespace

Result<std::unique_ptr<Loop>> EpollLoop::make() {
  Fd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return Error::from_errno("cannot make an epoll instance", errno);
  Fd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) return Error::from_errno("cannot make an eventfd", errno);
  epoll_event interest{};
  interest.events = EPOLLIN | EPOLLET;
  interest.data.u64 = static_cast<uint32_t>(event.get());
  if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, event.get(), &interest) != 0) {
    return Error::from_errno("cannot watch an eventfd with epoll", errno);
  }
  return std::unique_ptr<Loop>(new EpollLoop(std::move(epoll), std::move(event)));
}

EpollLoop::EpollLoop(Fd epoll, Fd event) : epoll_(std::move(epoll)), event_(std::move(event)) {
  buffers_.setup(nullptr, nullptr);
  ready_.reserve(kOpsListed);
  running_.reserve(kOpsListed);
  turn_ms_ = now_ms();
  timers_.start_at(turn_ms_);
}

EpollLoop::Waiting& EpollLoop::waiting(int fd) {
  NATRP_CHECK(fd >= 0, "an op needs a descriptor");
  if (static_cast<size_t>(fd) >= table_.size()) table_.resize(static_cast<size_t>(fd) * 2 + 64);
  return table_[static_cast<size_t>(fd)];
}

Op*& EpollLoop::place(Waiting& at, const Op& op) { return is_writer(op) ? at.writer : at.reader; }

bool EpollLoop::watch(int fd, Waiting& at, uint32_t events) {
  epoll_event interest{};
  interest.events = events;
  interest.data.u64 = (static_cast<uint64_t>(at.generation) << 32) | static_cast<uint32_t>(fd);
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &interest) != 0) return false;
  at.registered = true;
  return true;
}

void EpollLoop::submit(Op& op) {
  NATRP_CHECK(!op.in_flight, "an op is submitted once");
  op.in_flight = true;
  op.cancelled = false;
  op.more = false;
  op.result = 0;  // a send counts here what it has sent so far
  Waiting& at = waiting(op.fd);
  Op*& slot = place(at, op);
  NATRP_CHECK(slot == nullptr, "one reader and one writer per descriptor");
  slot = &op;
  // A listener shared by several workers must be watched with EPOLLEXCLUSIVE and level-triggered: an edge that
  // one worker slept through would be lost to all, and without the flag every worker wakes for each visitor.
  // Connections that wait already are reported by the next epoll_wait(): other workers, awake by now, may have taken
  // them by then.
  if (op.kind == OpKind::kAccept && !at.registered && watch(op.fd, at, EPOLLIN | EPOLLEXCLUSIVE)) return;
  // The submitter has just seen EAGAIN: only an edge can change that, and an edge is never lost, because the
  // descriptor is registered already. Unless its last edge has come: after a hang-up there is no other, and a read
  // that stopped at an urgent mark left bytes behind whose edge has been.
  if (op.drained && op.kind == OpKind::kPoll && at.registered && !at.hung_up && !at.urgent) return;
  enqueue(op);
}

void EpollLoop::enqueue(Op& op) {
  if (op.queued) return;
  op.queued = true;
  if (!patient_.keep(op)) ready_.push_back(&op);
}

void EpollLoop::cancel(Op& op) {
  if (!op.in_flight || op.cancelled) return;
  op.cancelled = true;
  enqueue(op);
}

void EpollLoop::wake() {
  const uint64_t one = 1;
  // A full counter means that a wake-up is pending already.
  [[maybe_unused]] const ssize_t n = ::write(event_.get(), &one, sizeof one);
}

// Sends what earlier attempts did not: op.result counts what they did. -EAGAIN: some is left.
int32_t EpollLoop::send_rest(Op& op) {
  const ssize_t n = ::send(op.fd, static_cast<char*>(op.data) + op.result, op.len - static_cast<size_t>(op.result),
                           MSG_DONTWAIT | MSG_NOSIGNAL);
  if (n >= 0) {
    op.result += static_cast<int32_t>(n);
    return static_cast<uint32_t>(op.result) < op.len ? -EAGAIN : op.result;
  }
  // Short where an error follows: it comes with the next call.
  return errno != EAGAIN && op.result > 0 ? op.result : -errno;
}

// Tries op once. True: it is over, with result. False: it would block.
bool EpollLoop::perform(Op& op, int32_t& result) {
  switch (op.kind) {
    case OpKind::kRecv: {
      const ssize_t n = ::recv(op.fd, op.data, op.len, MSG_DONTWAIT);
      result = n < 0 ? -errno : static_cast<int32_t>(n);
      break;
    }
    case OpKind::kRecvBuffer: {
      uint16_t id = 0;
      if (!buffers_.take(id)) {
        result = -ENOBUFS;
        return true;
      }
      const size_t want = std::min<size_t>(op.len, kBufferRoomBytes);
      const ssize_t n = ::recv(op.fd, buffers_.data(id), want, MSG_DONTWAIT);
      result = n < 0 ? -errno : static_cast<int32_t>(n);
      op.buffer = id;
      if (n <= 0) buffers_.release(id);
      break;
    }
    case OpKind::kSend: result = send_rest(op); break;
    case OpKind::kPoll:
    case OpKind::kHangUp:
    case OpKind::kPollMulti: {
      // poll(2) reports ERR and HUP unasked, and RDHUP only when asked: a FIN alone does not end a kHangUp.
      const int mask = poll_now(op.fd, op.kind == OpKind::kHangUp ? 0 : op.len);
      result = mask == 0 ? -EAGAIN : mask;
      break;
    }
    case OpKind::kAccept: result = -EAGAIN; break;
    case OpKind::kSendRoom: NATRP_CHECK(false, "the ring backend's own kind of op"); break;
  }
  if (result == -EINTR) {
    enqueue(op);
    return false;
  }
  return result != -EAGAIN;
}

void EpollLoop::finish(Op& op, int32_t result, bool more) {
  op.result = result;
  op.more = more;
  if (!more) {
    Waiting& at = waiting(op.fd);
    place(at, op) = nullptr;
    op.in_flight = false;
    if (op.kind == OpKind::kAccept && at.registered) {
      // Level-triggered: with nobody to accept, it would wake this loop without end.
      epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, op.fd, nullptr);
      at.registered = false;
    }
  }
  op.handler(op);
}

void EpollLoop::accept_some(Op& op) {
  for (unsigned i = 0; i < kAcceptsPerTurn; ++i) {
    const int fd = ::accept4(op.fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      finish(op, fd, true);
      if (op.cancelled || !op.in_flight) return;
      continue;
    }
    if (errno == EAGAIN) {
      // epoll had no room for the listener (submit()), so nobody would tell of the next visitor.
      if (!waiting(op.fd).registered) finish(op, -ENOMEM, false);
      return;
    }
    if (accept_may_go_on(errno)) continue;
    finish(op, -errno, false);
    return;
  }
  // More may wait; the listener is level-triggered, so the next turn reports it again, where it is watched.
  if (!waiting(op.fd).registered) enqueue(op);
}

void EpollLoop::attempt(Op& op) {
  if (op.cancelled) {
    if (op.kind == OpKind::kSend && op.result > 0) return finish(op, op.result, false);
    return finish(op, -ECANCELED, false);
  }
  if (op.kind == OpKind::kAccept) return accept_some(op);
  int32_t result = 0;
  if (perform(op, result)) {
    const bool more = op.kind == OpKind::kPollMulti && result > 0;
    return finish(op, result, more);
  }
  Waiting& at = waiting(op.fd);
  // EPOLL_CTL_ADD reports what is ready already, so nothing is lost between the attempt and here.
  constexpr uint32_t kAll = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  if (!at.registered && !watch(op.fd, at, kAll)) finish(op, -errno, false);
}

void EpollLoop::on_event(const epoll_event& event) {
  const int fd = static_cast<int>(event.data.u64 & 0xffffffffu);
  if (fd == event_.get()) {
    uint64_t count;
    [[maybe_unused]] const ssize_t n = ::read(fd, &count, sizeof count);
    if (wake_handler_ != nullptr) wake_handler_(wake_context_);
    return;
  }
  Waiting& at = waiting(fd);
  if (at.generation != static_cast<uint32_t>(event.data.u64 >> 32)) return;  // of an earlier owner of this number
  const uint32_t both = EPOLLERR | EPOLLHUP;
  if ((event.events & (both | EPOLLRDHUP)) != 0) at.hung_up = true;
  if ((event.events & EPOLLPRI) != 0) at.urgent = true;
  if (at.reader != nullptr && (event.events & (EPOLLIN | EPOLLRDHUP | both)) != 0) enqueue(*at.reader);
  if (at.writer != nullptr && (event.events & (EPOLLOUT | both)) != 0) enqueue(*at.writer);
}

void EpollLoop::try_ready() {
  // What the handlers submit belongs to the next round, so that a busy conn cannot hold the others up.
  running_.swap(ready_);
  for (Op* op : running_) attempt_queued(*op);
  running_.clear();
}

void EpollLoop::attempt_queued(Op& op) {
  op.queued = false;
  if (op.in_flight) attempt(op);
}

void EpollLoop::run_once(int timeout_ms) {
  int timeout = ready_.empty() && patient_.empty() ? timeout_ms : 0;
  const int until_timer = timers_.next_timeout_ms(turn_ms_);
  if (until_timer >= 0 && (timeout < 0 || until_timer < timeout)) timeout = until_timer;
  epoll_event events[kEventsPerWait];
  int n = 0;
  if (timeout != 0 && brief_wait_.is_worth_it(turn_ms_, buffers_.uses())) {
    brief_wait_.wait([&] { return (n = epoll_wait(epoll_.get(), events, kEventsPerWait, 0)) > 0; });
  }
  let_others_go_first();
  if (n <= 0) n = epoll_wait(epoll_.get(), events, kEventsPerWait, timeout);
  turn_ms_ = now_ms();
  timers_.begin_turn(turn_ms_);
  for (int i = 0; i < n; ++i) on_event(events[i]);
  // A receive's handler submits a send, whose handler submits a receive: both need not wait for a call of the kernel.
  for (unsigned round = 0; round < kRoundsPerTurn && !ready_.empty(); ++round) try_ready();
  // Messages were sent on the spot: none waits.
  patient_.end_turn(false, [this](Op& op) { attempt_queued(op); });
  timers_.advance(turn_ms_);
  trim_.after_turn();
}

void EpollLoop::close(int fd, CloseWith with) {
  Waiting& at = waiting(fd);
  NATRP_CHECK(at.reader == nullptr && at.writer == nullptr, "a descriptor is closed after its ops have landed");
  at.hung_up = at.urgent = false;
  at.registered = false;  // close removes it from the epoll set: nobody duplicates our descriptors
  ++at.generation;
  close_now(fd, with);
}

void EpollLoop::let_go(int fd) {
  Waiting& at = waiting(fd);
  NATRP_CHECK(at.reader == nullptr && at.writer == nullptr, "a descriptor goes on after its ops have landed");
  // The next owner of this number in this loop must be watched anew, whoever closed it meanwhile.
  if (at.registered) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  at.hung_up = at.urgent = false;
  at.registered = false;
  ++at.generation;
}

}  // namespace natrp
