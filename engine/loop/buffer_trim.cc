#include "loop/buffer_trim.h"

#include <sys/socket.h>

#include <array>

#include "base/limits.h"
#include "loop/loop.h"

namespace natrp {

BufferTrim::BufferTrim(Loop& loop) : loop_(loop) {
  drain_.kind = OpKind::kRecvBuffer;
  drain_.len = 1;
}

BufferTrim::~BufferTrim() { loop_.timers().disarm(watch_); }

void BufferTrim::after_turn() {
  if (!loop_.buffers().has_grown() || watch_.armed() || drain_.in_flight) return;
  uses_before_ = loop_.buffers().uses();
  loop_.timers().arm(watch_, kBufferTrimMs);
}

void BufferTrim::on_watch() {
  if (loop_.buffers().uses() - uses_before_ <= kBufferTrimUses) drain();
}

void BufferTrim::drain() {
  const unsigned surplus = loop_.buffers().offer_fewest();
  if (surplus == 0) return finish();
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) return;
  source_.reset(ends[0]);
  const Fd sink(ends[1]);  // closed at once: what was sent stays to be received
  const std::array<char, kBuffersOffered> bytes{};
  if (loop_.try_send(sink.get(), bytes.data(), surplus) != static_cast<ssize_t>(surplus)) return finish();
  drain_.fd = source_.get();
  loop_.submit(drain_);
}

void BufferTrim::on_drained(Op& op) {
  BufRing& buffers = loop_.buffers();
  if (op.result > 0) buffers.release(op.buffer);
  // No buffer found, or more wanted by now: conns are receiving, and after_turn() looks again.
  if (op.result <= 0 || buffers.surplus() == 0) return finish();
  loop_.submit(op);
}

void BufferTrim::finish() {
  if (source_.valid()) loop_.close(source_.release(), CloseWith::kFin);
  loop_.buffers().trim();
}

}  // namespace natrp
