// URING: one receive op into a buffer of the loop, then one send op from it, then the next receive. One-shot on
// purpose: the receive is armed again when the send has landed, so a slow sink stops its own source and nobody else's
// (a multishot receive would go on eating the shared buffers).
//
// In a turn with hardly a completion there is nothing to batch, and the send is a call on the spot: an op would cost a
// completion and a second trip into the kernel before the next receive is armed. One connection, 64-byte exchanges, 16
// interleaved rounds, medians: 12.8k against 12.0k a second, 57 against 61 µs of CPU for both ends.
#include <cerrno>

#include "base/check.h"
#include "base/limits.h"
#include "relay/pump.h"

namespace natrp {
namespace {

void send_pending(RelayContext& context, Pump& pump, Conn& sink) {
  pump.op.kind = OpKind::kSend;
  pump.op.fd = sink.fd;
  const auto unsent = pump_unsent(context, pump);
  pump.op.data = unsent.data();
  pump.op.len = static_cast<uint32_t>(unsent.size());
  pump.sending = true;
  context.loop.submit(pump.op);
}

// The buffer is empty again. True: the next receive is due.
bool all_sent(RelayContext& context, Pump& pump, Conn& source, Conn& sink, size_t read_bytes) {
  pump_drop_buffer(context, pump);
  if (pump.end_came) {
    pump_eof(pump, source);
    return false;
  }
  if (!pump_promote(context, pump, read_bytes)) return true;
  splice_pump_run(context, pump, source, sink);
  return false;
}

// A send on the spot; what does not fit follows as an op. True: the next receive is due.
bool send_now(RelayContext& context, Pump& pump, Conn& source, Conn& sink) {
  const size_t read_bytes = pump.pending;
  const auto unsent = pump_unsent(context, pump);
  const ssize_t n = context.loop.try_send(sink.fd, unsent.data(), unsent.size());
  if (n < 0 && n != -EAGAIN && n != -EINTR) {
    pump_write_failed(pump, sink, static_cast<int>(-n));
    return false;
  }
  if (n > 0) pump_sent(context, pump, source, static_cast<size_t>(n));
  if (pump.pending == 0) return all_sent(context, pump, source, sink, read_bytes);
  send_pending(context, pump, sink);
  return false;
}

// After a send op. True: the next receive is due.
bool sent(RelayContext& context, Pump& pump, Conn& source, Conn& sink) {
  pump.sending = false;
  const int32_t n = pump.op.result;
  if (n < 0 && n != -EAGAIN && n != -EINTR) {
    pump_write_failed(pump, sink, -n);
    return false;
  }
  if (n > 0) pump_sent(context, pump, source, static_cast<size_t>(n));
  if (pump.pending > 0) {
    // Short: an error followed, and the kernel has forgotten it (a ring's send with WAITALL reports the bytes instead).
    // The next send says so again, but a receive from this socket may be faster and would see a clean end.
    pump.doubts_sink |= !sink.peer_reset;
    sink.peer_reset = true;
    send_pending(context, pump, sink);
    return false;
  }
  if (pump.doubts_sink) sink.peer_reset = false;  // what interrupted a send was no reset
  pump.doubts_sink = false;
  const size_t read_bytes = pump.op.len > pump.offset ? pump.op.len : pump.offset;
  return all_sent(context, pump, source, sink, read_bytes);
}

}  // namespace

void uring_pump_wait(RelayContext& context, Pump& pump, Conn& source) {
  pump.op.kind = OpKind::kRecvBuffer;
  pump.op.fd = source.fd;
  pump.op.len = static_cast<uint32_t>(kBufferRoomBytes);
  pump.sending = false;
  context.loop.submit(pump.op);
}

void uring_pump_run(RelayContext& context, Pump& pump, Conn& source, Conn& sink) {
  if (pump.sending) {
    if (sent(context, pump, source, sink)) uring_pump_wait(context, pump, source);
    return;
  }
  const int32_t n = pump.op.result;
  if (n > 0) {
    pump.holds = true;
    pump.offset = 0;
    pump.pending = static_cast<uint32_t>(n);
    if (!pump_received(context, pump, source)) {
      if (pump.status == PumpStatus::kFlowing) uring_pump_wait(context, pump, source);
      return;
    }
    if (context.kind == PumpKind::kUring || context.loop.worth_batching()) return send_pending(context, pump, sink);
    if (send_now(context, pump, source, sink)) uring_pump_wait(context, pump, source);
    return;
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
