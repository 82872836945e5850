// URING: one receive op into a buffer of the loop, then one send op from it, then the next receive. One-shot on
// purpose: the receive is armed again when the send has landed, so a slow sink stops its own source and nobody else's
// (a multishot receive would go on eating the shared buffers).
#include <cerrno>

#include "base/check.h"
#include "base/limits.h"
#include "relay/pump.h"

namespace natrp {
namespace {

void send_pending(RelayContext& context, Pump& pump, Conn& sink) {
  pump.op.kind = OpKind::kSend;
  pump.op.fd = sink.fd;
  pump.op.data = context.loop.buffers().data(pump.op.buffer) + pump.offset;
  pump.op.len = pump.pending;
  pump.sending = true;
  context.loop.submit(pump.op);
}

// After a send. True: everything is gone.
bool sent(RelayContext& context, Pump& pump, Conn& source, Conn& sink) {
  pump.sending = false;
  const int32_t n = pump.op.result;
  if (n < 0 && n != -EAGAIN && n != -EINTR) {
    pump_write_failed(pump, sink, -n);
    return false;
  }
  if (n > 0) {
    pump.offset = static_cast<uint16_t>(pump.offset + n);
    pump.pending -= static_cast<uint32_t>(n);
    pump_count(context, pump, source, static_cast<size_t>(n));
  }
  if (pump.pending > 0) {
    // Short: an error followed, and the kernel has forgotten it (a ring's send with WAITALL reports the bytes instead).
    // The next send says so again, but a receive from this socket may be faster and would see a clean end.
    sink.peer_reset = true;
    send_pending(context, pump, sink);
    return false;
  }
  sink.peer_reset = false;  // what interrupted a send was no reset
  const size_t read_bytes = pump.op.len > pump.offset ? pump.op.len : pump.offset;
  pump_drop_buffer(context, pump);
  if (pump_promote(context, pump, read_bytes)) {
    splice_pump_run(context, pump, source, sink);
    return false;
  }
  return true;
}

}  // namespace

void uring_pump_wait(RelayContext& context, Pump& pump, Conn& source) {
  pump.op.kind = OpKind::kRecvBuffer;
  pump.op.fd = source.fd;
  pump.op.len = static_cast<uint32_t>(kBufferBytes);
  pump.sending = false;
  context.loop.submit(pump.op);
}

void uring_pump_run(RelayContext& context, Pump& pump, Conn& source, Conn& sink) {
  if (pump.sending) {
    if (sent(context, pump, source, sink)) uring_pump_wait(context, pump, source);
    return;
  }
  if (pump.pending > 0) return send_pending(context, pump, sink);  // bytes that it was started with
  const int32_t n = pump.op.result;
  if (n > 0) {
    pump.holds = true;
    pump.offset = 0;
    pump.pending = static_cast<uint32_t>(n);
    return send_pending(context, pump, sink);
  }
  if (n == 0) return pump_eof(pump, source);
  if (n == -ENOBUFS) {
    // All buffers were filled in this turn, or all are held by slow sinks. The first heals by itself.
    context.counters.add(Counter::kBuffersExhausted);
    context.loop.buffers().offer_more();
    if (!context.loop.buffers().exhausted()) return uring_pump_wait(context, pump, source);
    pump.starved = true;
    return;
  }
  if (n == -EAGAIN || n == -EINTR) return uring_pump_wait(context, pump, source);
  pump_read_failed(pump, -n);
}

}  // namespace natrp
