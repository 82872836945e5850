// SPLICE: socket → pipe → socket, pages moved inside the kernel. splice(2) is called on the spot when the loop says
// that the source is readable; through a ring it would run in a kernel worker thread.
//
// What the kernel really does:
// - EAGAIN from socket → pipe means "socket empty" or "no free slot in the pipe". A pipe has slots, not bytes: at MTU
//   1500 a 64 KiB pipe is full at 23 KiB. The pipe is empty before it is filled, so EAGAIN means drained.
// - pipe → socket queues at most 16 segments per call since 6.5 and returns short: call again until EAGAIN.
// - splice(2) does not pass an urgent mark: EAGAIN for as long as the mark is the next byte, though poll(2) says
//   POLLIN. recv(2) passes it. With a FIN or a reset behind the mark it says 0 or the error, as if nothing were left.
// - SPLICE_F_NONBLOCK covers the pipe; for the socket its own O_NONBLOCK counts.
#include <poll.h>

#include <cerrno>

#include "base/limits.h"
#include "relay/pair.h"
#include "relay/pump.h"

namespace natrp {
namespace {

void drop_pipe(RelayContext& context, Pump& pump) {
  context.pipes.give_back(pump.pipe, false);
  pump.holds = false;
  pump.offset = 0;
}

// The sink is full: what the source has meanwhile goes into the rest of the pipe. Its window opens a wait earlier, and
// a single stream does not stop and go. EAGAIN may mean an empty socket or a full pipe; here nobody needs to know.
void top_up(RelayContext& context, Pump& pump, Conn& source) {
  if (pump.pending >= kPipeBytes) return;
  const ssize_t n =
      context.loop.try_splice(source.fd, context.pipes.at(pump.pipe).write_fd, kPipeBytes - pump.pending);
  if (n > 0) pump.pending += static_cast<uint32_t>(n);
  // Told once: the read that comes after these bytes will see a clean end. An end of stream is told again.
  if (n < 0 && pump_peer_is_gone(static_cast<int>(-n))) source.peer_reset = true;
}

// False: the sink is full or broken.
bool flush(RelayContext& context, Pump& pump, Conn& source, Conn& sink) {
  const int from = context.pipes.at(pump.pipe).read_fd;
  while (pump.pending > 0) {
    const ssize_t n = context.loop.try_splice(from, sink.fd, pump.pending);
    if (n == -EAGAIN) {
      top_up(context, pump, source);
      pump_poll(context, pump, sink.fd, POLLOUT, true);
      return false;
    }
    if (n <= 0) {
      pump_write_failed(pump, sink, n == 0 ? EPIPE : static_cast<int>(-n));
      return false;
    }
    pump.pending -= static_cast<uint32_t>(n);
    pump_count(context, pump, source, static_cast<size_t>(n));
  }
  return true;
}

bool unsupported(ssize_t n) { return n == -EINVAL || n == -ENOSYS || n == -EBADF || n == -EPERM; }

// Small moves end SPLICE. True: the mode changed and the pump waits in it.
bool demoted(RelayContext& context, Pump& pump, Conn& source, size_t moved) {
  if (context.kind != PumpKind::kAuto) return false;
  if (moved >= kSmallMoveBytes) {
    pump.small_moves = 0;
    return false;
  }
  if (++pump.small_moves < kSmallMoves) return false;
  pump_demote(context, pump);
  pump_wait(context, pump, source);
  return true;
}

}  // namespace

void splice_pump_wait(RelayContext& context, Pump& pump, Conn& source) {
  context.pairs->watch_bulk(pump);
  pump_poll(context, pump, source.fd, POLLIN, false);
}

void splice_pump_run(RelayContext& context, Pump& pump, Conn& source, Conn& sink) {
  const bool said_readable =
      !pump.holds && pump.op.kind == OpKind::kPoll && pump.op.fd == source.fd && pump.op.result == POLLIN;
  if (pump.holds && !flush(context, pump, source, sink)) return;
  if (!pump.holds) {
    pump.pipe = context.pipes.take();
    if (pump.pipe == PipePool::kNone) {
      // No pipe is to be had: this turn is copied, and the promotion is earned again.
      context.counters.add(Counter::kPipesExhausted);
      pump.offset = 0;
      pump_demote(context, pump);
      return pump_wait(context, pump, source);
    }
    pump.holds = true;
  }
  const int into = context.pipes.at(pump.pipe).write_fd;
  size_t moved = 0;
  for (unsigned step = 0; step < kStepsPerTurn && moved < context.bytes_per_turn; ++step) {
    const ssize_t n = context.loop.try_splice(source.fd, into, context.bytes_per_turn);
    if (n > 0) {
      pump.pending = static_cast<uint32_t>(n);
      moved += static_cast<size_t>(n);
      if (!flush(context, pump, source, sink)) return;
      continue;
    }
    drop_pipe(context, pump);
    if (n == -EAGAIN) {
      if (moved > 0 && demoted(context, pump, source, moved)) return;
      if (moved == 0 && said_readable) {
        pump_demote(context, pump);
        return pump_wait(context, pump, source);
      }
      return pump_poll(context, pump, source.fd, POLLIN, true);
    }
    if (unsupported(n)) {
      pump.copies_for_good = true;
    } else if (!context.loop.is_at_mark(source.fd)) {
      return n == 0 ? pump_eof(pump, source) : pump_read_failed(pump, static_cast<int>(-n));
    } else if (n < 0) {
      source.peer_reset = true;  // told once: the end that recv(2) meets behind the bytes is no clean one
    }
    pump_demote(context, pump);
    return pump_wait(context, pump, source);
  }
  // Its share of this turn is used up; others first.
  drop_pipe(context, pump);
  pump_poll(context, pump, source.fd, POLLIN, false);
}

}  // namespace natrp
