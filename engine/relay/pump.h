// relay/pump.h
//
// Pump: one direction of a pair, from a source conn to a sink conn. It carries bytes and knows nothing of the other
// direction; what an end means is the Pair's business.
//
//     mode COPY   readiness, then recv(2) and send(2) through a borrowed buffer        copy_pump.cc
//     mode URING  a receive op, then a send op, batched by the ring                    uring_pump.cc
//     mode SPLICE readiness, then socket → pipe → socket inside the kernel             splice_pump.cc
//
// Life     idle ──start──▶ flowing ──▶ eof | source_reset | sink_broken | nonsense | failed
//          stop() from anywhere: ──▶ landed
//          eof with the other direction still flowing: watching (soon its op waits for the source's reset)
// Thread   the worker of its pair.
// Memory   48 bytes in the pair's slot. A buffer or a pipe is held only while bytes are in it.
// Never    has two ops in flight, allocates, closes a socket; reads while it holds unsent bytes, but to fill the one
//          pipe that holds them (splice_pump.cc: top_up).
#pragma once

#include <span>

#include "base/counters.h"
#include "base/limits.h"
#include "loop/loop.h"
#include "net/conn_table.h"
#include "relay/pipe_pool.h"
#include "relay/pump_kind.h"

namespace natrp {

class PairTable;

// What every pump of a worker works with.
struct RelayContext {
  Loop& loop;
  ConnShard& conns;
  PipePool& pipes;
  Counters& counters;
  PumpKind kind;
  PairTable* pairs = nullptr;
  size_t bytes_per_turn = kBytesPerTurn;  // then a pump leaves the rest of a round to others; set by the worker
};

enum class PumpMode : uint8_t { kCopy, kUring, kSplice };

enum class PumpStatus : uint8_t {
  kIdle,
  kFlowing,
  kEof,          // the source ended, and every byte before is in the sink's socket
  kSourceReset,  // the source was reset, and every byte before is in the sink's socket
  kSinkBroken,   // the sink takes no more bytes: its peer is gone
  kNonsense,     // the source is a channel that does not speak our protocol
  kFailed,       // the kernel could not move bytes that both peers were ready for (no memory)
};

struct Pump {
  Op op;                  // first: handlers find the pump by a cast. op.buffer is the buffer held in COPY and URING
  uint32_t pending = 0;   // bytes taken from the source and not yet given to the sink
  union {
    uint16_t offset = 0;  // COPY, URING: where in the buffer the pending bytes begin
    uint16_t pipe;        // SPLICE: the pipe that holds them
  };
  uint16_t chunk_left = 0;  // relay/chunks: what is left of the chunk that came last
  PumpMode mode : 2 = PumpMode::kCopy;
  PumpStatus status : 3 = PumpStatus::kIdle;
  uint8_t big_reads : 3 = 0;
  uint8_t small_moves : 3 = 0;
  bool down : 1 = false;       // from back to front
  bool holds : 1 = false;      // owns a buffer (COPY, URING) or a pipe (SPLICE)
  bool copies_for_good : 1 = false;  // splice failed on it once
  bool demote : 1 = false;     // its poll was cancelled to change the mode
  bool starved : 1 = false;    // waits for a buffer; the sweep tries again
  bool watching : 1 = false;   // after eof: its op waits for a reset of the source, or will from kHalfClosedMs after it
  bool sending : 1 = false;    // URING: the op in flight is the send; after eof: that of END
  bool doubts_sink : 1 = false;  // URING: a send was short; the sink counts as reset until the next says otherwise
  bool suspect : 1 = false;    // SPLICE: the sweep saw bytes whose readiness had not come; twice is a stall
  bool wraps : 1 = false;      // its bytes go into chunks
  bool unwraps : 1 = false;    // its bytes come out of chunks
  bool half_header : 1 = false;  // chunk_left is the first byte of a header
  bool end_came : 1 = false;   // unwraps: END
  bool free_came : 1 = false;  // unwraps: FREE
  bool free_told : 1 = false;  // wraps, at the agent: FREE was sent, or is behind END in the send that is in flight
  uint8_t header_left : 2 = 0;  // bytes of a chunk's header to send before the pending ones
  uint32_t progress_ms = 0;    // turn time of the last byte, or of the end behind it; wraps after 49 days

  bool landed() const { return !op.in_flight; }
  // Its source ended, and its sink has been told.
  bool is_over() const { return status == PumpStatus::kEof && !sending; }
};
static_assert(sizeof(Pump) == 48, "two pumps and the pair's own state share 128 bytes");

// The functions below act on one pump of a pair; source and sink are its conns. They return when an op is in flight
// or when status is no longer kFlowing (then the caller tells the pair).

// One mode each, mirrored: start waiting for the source; go on after the op completed.
void copy_pump_wait(RelayContext& context, Pump& pump, Conn& source);
void copy_pump_run(RelayContext& context, Pump& pump, Conn& source, Conn& sink);
void uring_pump_wait(RelayContext& context, Pump& pump, Conn& source);
void uring_pump_run(RelayContext& context, Pump& pump, Conn& source, Conn& sink);
void splice_pump_wait(RelayContext& context, Pump& pump, Conn& source);
void splice_pump_run(RelayContext& context, Pump& pump, Conn& source, Conn& sink);

// Begins to wait for the source in the mode that the context's kind asks for.
void pump_start(RelayContext& context, Pump& pump, Conn& source);
// After its op completed: goes on in its mode.
void pump_run(RelayContext& context, Pump& pump, Conn& source, Conn& sink);
// Waits again, in a mode that may have changed; only with nothing pending.
void pump_wait(RelayContext& context, Pump& pump, Conn& source);
// Asks for the end of its op. landed() tells when it is over.
void pump_stop(RelayContext& context, Pump& pump);
// Gives back what it holds. Its op must have landed.
void pump_release(RelayContext& context, Pump& pump);

// Shared by the modes.
void pump_poll(RelayContext& context, Pump& pump, int fd, uint32_t mask, bool drained);
void pump_count(RelayContext& context, Pump& pump, Conn& source, size_t bytes);
// The pending bytes have come into the buffer: chunks are made or taken apart. False: nothing is left to send; the next
// bytes are due, or status is no longer kFlowing.
bool pump_received(RelayContext& context, Pump& pump, Conn& source);
// The pending bytes in the buffer, behind what is left of their chunk's header.
std::span<unsigned char> pump_unsent(RelayContext& context, const Pump& pump);
// So many more bytes of pump_unsent() are in the sink's socket.
void pump_sent(RelayContext& context, Pump& pump, Conn& source, size_t bytes);
void pump_drop_buffer(RelayContext& context, Pump& pump);
// What a call on a socket said: its peer is gone, or cannot be reached any more. Otherwise the socket lives.
bool pump_peer_is_gone(int error);
void pump_read_failed(Pump& pump, int error);
void pump_write_failed(Pump& pump, Conn& sink, int error);
void pump_eof(Pump& pump, const Conn& source);  // by a FIN or by END
// COPY, URING → SPLICE after reads that look like a stream. True: the mode is SPLICE now.
bool pump_promote(RelayContext& context, Pump& pump, size_t read_bytes);
void pump_demote(RelayContext& context, Pump& pump);
PumpMode pump_copy_mode(const RelayContext& context, const Pump& pump);

}  // namespace natrp
