// COPY: readiness, then recv(2) and send(2) through one borrowed buffer. The fallback of every other mode, and in
// the tests the one the others are compared with.
#include <poll.h>

#include <cerrno>

#include "base/limits.h"
#include "relay/pump.h"

namespace natrp {
namespace {

// False: the sink is full or broken, or these were the last bytes.
bool flush(RelayContext& context, Pump& pump, Conn& source, Conn& sink) {
  while (pump.pending > 0) {
    const auto unsent = pump_unsent(context, pump);
    const ssize_t n = context.loop.try_send(sink.fd, unsent.data(), unsent.size());
    if (n == -EAGAIN) {
      pump_poll(context, pump, sink.fd, POLLOUT, true);
      return false;
    }
    if (n < 0) {
      pump_write_failed(pump, sink, static_cast<int>(-n));
      return false;
    }
    pump_sent(context, pump, source, static_cast<size_t>(n));
  }
  pump_drop_buffer(context, pump);
  if (!pump.end_came) return true;
  pump_eof(pump, source);
  return false;
}

}  // namespace

void copy_pump_wait(RelayContext& context, Pump& pump, Conn& source) {
  pump_poll(context, pump, source.fd, POLLIN, false);
}

void copy_pump_run(RelayContext& context, Pump& pump, Conn& source, Conn& sink) {
  if (pump.pending > 0 && !flush(context, pump, source, sink)) return;
  size_t moved = 0;
  for (unsigned step = 0; step < kStepsPerTurn && moved < context.bytes_per_turn; ++step) {
    uint16_t id = 0;
    if (!context.loop.buffers().take(id)) {
      context.counters.add(Counter::kBuffersExhausted);
      pump.starved = true;
      return;
    }
    pump.op.buffer = id;
    pump.holds = true;
    const ssize_t n = context.loop.try_recv(source.fd, context.loop.buffers().data(id), kBufferRoomBytes);
    if (n <= 0) pump_drop_buffer(context, pump);
    if (n == -EAGAIN) return pump_poll(context, pump, source.fd, POLLIN, true);
    if (n < 0) return pump_read_failed(pump, static_cast<int>(-n));
    if (n == 0) return pump_eof(pump, source);
    pump.offset = 0;
    pump.pending = static_cast<uint32_t>(n);
    moved += static_cast<size_t>(n);
    if (!pump_received(context, pump, source)) {
      if (pump.status != PumpStatus::kFlowing) return;
      return pump_poll(context, pump, source.fd, POLLIN, false);
    }
    if (!flush(context, pump, source, sink)) return;
    if (pump_promote(context, pump, static_cast<size_t>(n))) return splice_pump_run(context, pump, source, sink);
    // A short read means an empty socket; a FIN behind it comes as an edge of its own. Not so on a unix socket, where a
    // read stops behind bytes that had a descriptor with them.
    const bool short_read = static_cast<size_t>(n) < kBufferRoomBytes;
    if (short_read) return pump_poll(context, pump, source.fd, POLLIN, !source.is_unix());
  }
  // Its share of this turn is used up; others first.
  pump_poll(context, pump, source.fd, POLLIN, false);
}

}  // namespace natrp
