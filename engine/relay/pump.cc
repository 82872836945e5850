#include "relay/pump.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "base/limits.h"
#include "relay/chunks.h"
#include "relay/pair.h"

namespace natrp {
namespace {

// The kernel tells of a reset once. A send of the ring to this socket may have been told already, while its completion
// is still behind the readiness that made us read: the read has found no error then, and a clean end. After a FIN the
// socket is not in TCP_CLOSE, since ours is not sent while the other direction sends.
bool a_send_was_told_of_a_reset(Pump& pump, const Conn& source) {
  if (pump.mode == PumpMode::kUring) return false;  // its receive came behind that send
  Pair& pair = PairTable::pair_of(pump);
  const Pump& other = pair.other(pump);
  return other.sending && other.op.in_flight && pair.context->loop.is_tcp_closed(source.fd);
}

bool enter_splice(RelayContext& context, Pump& pump) {
  pump.mode = PumpMode::kSplice;
  pump.op.result = 0;  // a readiness that came was for the read before
  context.pairs->watch_bulk(pump);
  return true;
}

}  // namespace

PumpMode pump_copy_mode(const RelayContext& context, const Pump& pump) {
  switch (context.kind) {
    case PumpKind::kUring: return PumpMode::kUring;
    case PumpKind::kCopy: return PumpMode::kCopy;
    case PumpKind::kSplice: return pump.copies_for_good ? PumpMode::kCopy : PumpMode::kSplice;
    case PumpKind::kAuto: break;
  }
  // Receives and sends as ops pay where the loop batches them over all conns.
  return context.loop.batches_messages() ? PumpMode::kUring : PumpMode::kCopy;
}

void pump_wait(RelayContext& context, Pump& pump, Conn& source) {
  NATRP_CHECK(pump.pending == 0, "a pump that holds bytes does not wait for more");
  switch (pump.mode) {
    case PumpMode::kCopy: return copy_pump_wait(context, pump, source);
    case PumpMode::kUring: return uring_pump_wait(context, pump, source);
    case PumpMode::kSplice: return splice_pump_wait(context, pump, source);
  }
}

void pump_start(RelayContext& context, Pump& pump, Conn& source) {
  pump.status = PumpStatus::kFlowing;
  pump.mode = pump_copy_mode(context, pump);
  pump.progress_ms = static_cast<uint32_t>(context.loop.turn_ms());
  pump_wait(context, pump, source);
}

void pump_run(RelayContext& context, Pump& pump, Conn& source, Conn& sink) {
  switch (pump.mode) {
    case PumpMode::kCopy: return copy_pump_run(context, pump, source, sink);
    case PumpMode::kUring: return uring_pump_run(context, pump, source, sink);
    case PumpMode::kSplice: return splice_pump_run(context, pump, source, sink);
  }
}

void pump_stop(RelayContext& context, Pump& pump) {
  pump.starved = false;
  if (pump.op.in_flight) context.loop.cancel(pump.op);
}

void pump_release(RelayContext& context, Pump& pump) {
  NATRP_CHECK(pump.landed(), "a pump gives back what it holds after its op landed");
  if (!pump.holds) return;
  if (pump.mode == PumpMode::kSplice) {
    context.pipes.give_back(pump.pipe, pump.pending != 0);
  } else {
    context.loop.buffers().release(pump.op.buffer);
  }
  pump.holds = false;
  pump.pending = 0;
}

void pump_poll(RelayContext& context, Pump& pump, int fd, uint32_t mask, bool drained) {
  pump.op.kind = OpKind::kPoll;
  pump.op.fd = fd;
  pump.op.len = mask;
  pump.op.drained = drained;
  pump.op.patient = pump.mode == PumpMode::kSplice;
  context.loop.submit(pump.op);
}

void pump_count(RelayContext& context, Pump& pump, Conn& source, size_t bytes) {
  source.bytes_received.store(source.bytes_received.load(std::memory_order_relaxed) + bytes,
                              std::memory_order_relaxed);
  context.counters.add(pump.down ? Counter::kBytesDown : Counter::kBytesUp, bytes);
  if (pump.mode == PumpMode::kSplice) context.counters.add(Counter::kBytesSpliced, bytes);
  pump.progress_ms = static_cast<uint32_t>(context.loop.turn_ms());
  pump.suspect = false;
}

bool pump_received(RelayContext& context, Pump& pump, Conn& source) {
  if (pump.wraps) chunk_wrap(pump, context.loop.buffers().data(pump.op.buffer), source);
  if (!pump.unwraps) return true;
  const bool ours = chunk_unwrap(pump, context.loop.buffers().data(pump.op.buffer));
  if (ours && pump.pending > 0) return true;
  pump.pending = 0;
  pump_drop_buffer(context, pump);
  if (!ours) {
    pump.status = PumpStatus::kNonsense;
  } else if (pump.end_came) {
    pump_eof(pump, source);
  }
  return false;
}

std::span<unsigned char> pump_unsent(RelayContext& context, const Pump& pump) {
  return {context.loop.buffers().data(pump.op.buffer) + pump.offset - pump.header_left,
          pump.pending + pump.header_left};
}

void pump_sent(RelayContext& context, Pump& pump, Conn& source, size_t bytes) {
  const size_t of_header = std::min<size_t>(bytes, pump.header_left);
  pump.header_left = static_cast<uint8_t>(pump.header_left - of_header);
  bytes -= of_header;
  pump.offset = static_cast<uint16_t>(pump.offset + bytes);
  pump.pending -= static_cast<uint32_t>(bytes);
  pump_count(context, pump, source, bytes);
}

void pump_drop_buffer(RelayContext& context, Pump& pump) {
  context.loop.buffers().release(pump.op.buffer);
  pump.holds = false;
  pump.offset = 0;
}

bool pump_peer_is_gone(int error) {
  switch (error) {
    case EPIPE:
    case ECONNRESET:
    case ECONNABORTED:
    case ENOTCONN:
    case ETIMEDOUT:  // keepalive, user timeout
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case ENETUNREACH:
    case ENETDOWN: return true;
    default: return false;
  }
}

void pump_read_failed(Pump& pump, int error) {
  // Gone without an end of stream: its reader must not take what it has for the whole. One that lives is to hear of it,
  // too: closed as a dead one is, it would take what it got from the other side for the whole.
  pump.status = pump_peer_is_gone(error) ? PumpStatus::kSourceReset : PumpStatus::kFailed;
}

void pump_write_failed(Pump& pump, Conn& sink, int error) {
  if (!pump_peer_is_gone(error)) {
    // The sink is alive, and half of what it was to get is gone: no direction may go on as if nothing had happened.
    pump.status = PumpStatus::kFailed;
    return;
  }
  // The kernel reports a reset once. The other direction's reads on this socket would see a clean end next.
  sink.peer_reset = true;
  pump.status = PumpStatus::kSinkBroken;
}

void pump_eof(Pump& pump, const Conn& source) {
  // A FIN where END was due: what came is not all.
  const bool cut = pump.unwraps && !pump.end_came;
  const bool reset = source.peer_reset || cut || a_send_was_told_of_a_reset(pump, source);
  pump.status = reset ? PumpStatus::kSourceReset : PumpStatus::kEof;
}

bool pump_promote(RelayContext& context, Pump& pump, size_t read_bytes) {
  if (pump.wraps || pump.unwraps) return false;
  if (context.kind == PumpKind::kSplice && !pump.copies_for_good) {
    return enter_splice(context, pump);
  }
  if (context.kind != PumpKind::kAuto || pump.copies_for_good) return false;
  if (read_bytes < kBulkReadBytes) {
    pump.big_reads = 0;
    return false;
  }
  if (read_bytes < kBulkFillBytes && ++pump.big_reads < kBulkReads) return false;
  pump.big_reads = 0;
  pump.small_moves = 0;
  context.counters.add(Counter::kPromotions);
  return enter_splice(context, pump);
}

void pump_demote(RelayContext& context, Pump& pump) {
  NATRP_CHECK(pump.pending == 0 && !pump.holds, "a pump changes its mode with nothing in its hands");
  pump.mode = pump.copies_for_good || context.kind == PumpKind::kSplice ? PumpMode::kCopy
                                                                        : pump_copy_mode(context, pump);
  pump.small_moves = 0;
  pump.big_reads = 0;
  context.counters.add(Counter::kDemotions);
}

}  // namespace natrp
