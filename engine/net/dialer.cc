#include "net/dialer.h"

#include <cerrno>

#include "base/check.h"

namespace natrp {

Dial::Dial(Loop& loop, OnDone on_done, void* context) : loop_(loop), on_done_(on_done), context_(context) {
  connect_.self = this;
  connect_.op.kind = OpKind::kConnect;
  connect_.op.handler = on_op;
  deadline_.self = this;
  deadline_.timer.handler = on_timer;
}

Dial::~Dial() {
  NATRP_CHECK(!connect_.op.in_flight, "a dial is destroyed after its op landed");
  loop_.timers().disarm(deadline_.timer);
}

void Dial::start(const std::vector<Address>& addresses, uint32_t timeout_ms, const SocketOptions& options) {
  NATRP_CHECK(!running_, "one dial at a time");
  running_ = true;
  cancelled_ = late_ = false;
  addresses_ = addresses;
  next_ = 0;
  options_ = options;
  last_error_ = EHOSTUNREACH;
  // Nothing to connect with: end through the timer, so that on_done never runs inside start().
  loop_.timers().arm(deadline_.timer, try_next() ? timeout_ms : 0);
}

void Dial::cancel() {
  if (!running_) return;
  cancelled_ = true;
  if (connect_.op.in_flight) loop_.cancel(connect_.op);
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
    connect_.op.fd = fd_.get();
    connect_.op.data = const_cast<sockaddr*>(address.get());
    connect_.op.len = address.length();
    loop_.submit(connect_.op);
    return true;
  }
  return false;
}

void Dial::finish(int fd, int error) {
  running_ = false;
  loop_.timers().disarm(deadline_.timer);
  on_done_(context_, fd, error);
}

void Dial::on_timer(Timer& timer) {
  Dial& self = *reinterpret_cast<DeadlineTimer*>(&timer)->self;
  if (!self.connect_.op.in_flight) return self.finish(-1, self.last_error_);
  self.late_ = true;
  self.loop_.cancel(self.connect_.op);
}

void Dial::on_op(Op& op) {
  Dial& self = *reinterpret_cast<ConnectOp*>(&op)->self;
  if (op.result == 0) {
    const int fd = self.fd_.release();
    return self.finish(fd, 0);
  }
  self.last_error_ = self.late_ ? ETIMEDOUT : -op.result;
  self.loop_.close(self.fd_.release(), false);
  if (self.late_ || self.cancelled_) return self.finish(-1, self.last_error_);
  if (!self.try_next()) self.finish(-1, self.last_error_);
}

}  // namespace natrp
