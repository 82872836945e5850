#include "net/dialer.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

#include "base/check.h"

namespace natrp {
namespace {

// The kernel binds a socket that connects to a port of its own choice: on this host it may choose the very port that is
// dialled. When nobody listens there, the two SYNs are one, and the socket is connected to itself (RFC 9293 §3.5,
// simultaneous open). Ports below 1024 it never chooses, but where the operator has made them free for all.
bool is_connected_to_itself(int fd, const Address& dialled) {
  if (dialled.port() < 1024) return false;
  const Address local = local_address(fd);
  // The peer's address is not always the one that was dialled: 0.0.0.0 is this host, too.
  return local.port() == dialled.port() && local.text() == peer_address(fd).text();
}

}  // namespace

Dial::Dial(Loop& loop, OnDone on_done, void* context) : loop_(loop), on_done_(on_done), context_(context) {
  poll_.kind = OpKind::kPoll;
  poll_.len = POLLOUT;
}

Dial::~Dial() {
  NATRP_CHECK(!poll_.in_flight, "a dial is destroyed after its op landed");
  loop_.timers().disarm(deadline_);
}

void Dial::start(const std::vector<Address>& addresses, uint32_t timeout_ms, const SocketOptions& options) {
  NATRP_CHECK(!running_, "one dial at a time");
  running_ = true;
  cancelled_ = late_ = false;
  addresses_ = addresses;
  next_ = 0;
  options_ = options;
  last_error_ = EHOSTUNREACH;
  give_up_ms_ = loop_.turn_ms() + timeout_ms;
  // Nothing to connect with: end through the timer, so that on_done never runs inside start().
  if (!try_next()) loop_.timers().arm(deadline_, 0);
}

void Dial::cancel() {
  if (!running_) return;
  cancelled_ = true;
  if (poll_.in_flight) loop_.cancel(poll_);
}

bool Dial::try_next() {
  while (next_ < addresses_.size()) {
    const Address& address = addresses_[next_++];
    auto made = make_stream_socket(address.family(), options_);
    if (!made.ok()) {
      last_error_ = made.error().errno_value;
      continue;
    }
    fd_ = std::move(made).value();
    // connect(2) once and then SO_ERROR, not connect(2) again: on a socket that was connected and reset meanwhile, the
    // second call would throw away what the peer had sent.
    if (::connect(fd_.get(), address.get(), address.length()) != 0 && errno != EINPROGRESS) {
      // A unix socket whose backlog is full says EAGAIN and never becomes writable: that is a refusal.
      last_error_ = errno == EAGAIN ? ECONNREFUSED : errno;
      loop_.close(fd_.release(), CloseWith::kReset);
      continue;
    }
    poll_.fd = fd_.get();
    loop_.submit(poll_);
    arm_deadline();
    return true;
  }
  return false;
}

void Dial::arm_deadline() {
  const uint64_t now = loop_.turn_ms();
  const uint64_t left = give_up_ms_ > now ? give_up_ms_ - now : 0;
  loop_.timers().arm(deadline_, left / (1 + addresses_.size() - next_));
}

void Dial::finish(int fd, int error) {
  running_ = false;
  loop_.timers().disarm(deadline_);
  on_done_(context_, fd, error);
}

void Dial::failed(int error) {
  last_error_ = error;
  late_ = false;
  // It may have come at this very moment: a FIN would be the end of an empty visit.
  loop_.close(fd_.release(), CloseWith::kReset);
  if (cancelled_ || !try_next()) finish(-1, last_error_);
}

void Dial::on_timer() {
  if (!poll_.in_flight) return finish(-1, last_error_);
  late_ = true;
  loop_.cancel(poll_);
}

void Dial::on_op(Op& op) {
  if (op.result < 0) return failed(late_ ? ETIMEDOUT : -op.result);
  int error = 0;
  socklen_t length = sizeof error;
  const bool clean = (op.result & (POLLERR | POLLHUP)) == 0;
  if (!clean && getsockopt(op.fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
  // A refused connection says ECONNREFUSED; one that was reset after it had come says these.
  if (error == EPIPE) error = ECONNRESET;
  if (error != 0 && error != ECONNRESET) return failed(error);
  // As if the kernel had chosen another port.
  if (is_connected_to_itself(op.fd, addresses_[next_ - 1])) return failed(ECONNREFUSED);
  const int fd = fd_.release();
  finish(fd, error);
}

}  // namespace natrp
