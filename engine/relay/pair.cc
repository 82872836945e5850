#include "relay/pair.h"

#include <poll.h>
#include <sys/mman.h>

#include <cerrno>
#include <new>

#include "base/check.h"
#include "base/limits.h"
#include "relay/teardown.h"

namespace natrp {
namespace {

constexpr uint32_t kBulkSweepMs = 250;

}  // namespace

const char* end_reason_text(EndReason reason) {
  switch (reason) {
    case EndReason::kNone: return "not ended";
    case EndReason::kCompleted: return "both sides ended their streams";
    case EndReason::kFrontReset: return "the visitor's side reset";
    case EndReason::kBackReset: return "the service's side reset";
    case EndReason::kChannelLost: return "the data channel ended before a visitor came";
    case EndReason::kChannelSpoke: return "the data channel sent bytes before a visitor came";
    case EndReason::kSessionEnded: return "the session ended";
    case EndReason::kDrainDeadline: return "the drain ended";
    case EndReason::kRefused: return "refused";
    case EndReason::kMoved: return "moved to another worker";
  }
  return "unknown";
}

PairTable::PairTable(RelayContext& context, uint32_t capacity, OnEnd on_end, OnEnd on_unready, void* owner_context)
    : context_(context), on_end_(on_end), on_unready_(on_unready), owner_context_(owner_context), capacity_(capacity) {
  void* memory = mmap(nullptr, static_cast<size_t>(capacity) * sizeof(Pair), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  NATRP_CHECK(memory != MAP_FAILED, "address space for the pairs");
  madvise(memory, static_cast<size_t>(capacity) * sizeof(Pair), MADV_NOHUGEPAGE);
  slots_ = static_cast<Pair*>(memory);
  sweep_timer_.self = this;
  sweep_timer_.timer.handler = on_sweep;
  context_.pairs = this;
}

PairTable::~PairTable() {
  NATRP_CHECK(live_ == 0, "every pair has ended before its table goes");
  context_.loop.timers().disarm(sweep_timer_.timer);
  munmap(slots_, static_cast<size_t>(capacity_) * sizeof(Pair));
}

Pair& PairTable::pair_of(Pump& pump) { return *reinterpret_cast<Pair*>(pump.down ? &pump - 1 : &pump); }

Pair* PairTable::claim() {
  uint32_t index = free_;
  if (index != PairList::kEnd) {
    free_ = slots_[index].next;
  } else {
    if (touched_ == capacity_) return nullptr;
    index = touched_++;
  }
  Pair* pair = new (&slots_[index]) Pair;
  pair->context = &context_;
  pair->down.down = true;
  pair->up.op.handler = pair->down.op.handler = on_op;
  ++live_;
  return pair;
}

void PairTable::release(Pair& pair) {
  NATRP_CHECK(!pair.in_sweep && !pair.in_ready, "a pair leaves its lists before its slot is free");
  pair.state = PairState::kFree;
  pair.next = free_;
  free_ = index_of(pair);
  --live_;
  if (pair.front != Pair::kNoConn) context_.counters.sub(Counter::kPairsLive);
}

Pair* PairTable::start(Conn& front, Conn& back, uint32_t owner) {
  Pair* pair = claim();
  if (pair == nullptr) return nullptr;
  pair->front = context_.conns.index_of(front);
  context_.counters.add(Counter::kPairsLive);
  pair->back = context_.conns.index_of(back);
  pair->owner = owner;
  pair->state = PairState::kFlowing;
  ++flowing_;
  pump_start(context_, pair->up, front);
  pump_start(context_, pair->down, back);
  return pair;
}

Pair* PairTable::start_waiting(Conn& back, uint32_t owner) {
  Pair* pair = claim();
  if (pair == nullptr) return nullptr;
  pair->front = Pair::kNoConn;
  pair->back = context_.conns.index_of(back);
  pair->owner = owner;
  pair->state = PairState::kWaiting;
  // Not in splice mode: a waiting pair is in no sweep.
  pair->down.status = PumpStatus::kFlowing;
  pair->down.mode = context_.kind == PumpKind::kSplice ? PumpMode::kCopy : pump_copy_mode(context_, pair->down);
  pump_wait(context_, pair->down, back);
  return pair;
}

void PairTable::take_front(Pair& pair, Conn& front) {
  NATRP_CHECK(pair.state == PairState::kWaiting && !pair.in_ready, "a visitor meets a ready channel once");
  pair.front = context_.conns.index_of(front);
  context_.counters.add(Counter::kPairsLive);
  pair.state = PairState::kFlowing;
  ++flowing_;
  pair.down.progress_ms = static_cast<uint32_t>(context_.loop.turn_ms());
}

void PairTable::attach_front(Pair& pair, Conn& front, uint16_t buffer, uint32_t first_bytes) {
  take_front(pair, front);
  pump_start_with(context_, pair.up, front, pair.back_conn(), buffer, first_bytes);
  settle(pair, pair.up);
}

void PairTable::attach_front(Pair& pair, Conn& front) {
  take_front(pair, front);
  pump_start(context_, pair.up, front);
}

void PairTable::end(Pair& pair, EndReason reason, bool reset_front, bool reset_back) {
  if (pair.state == PairState::kEnding || pair.state == PairState::kResetting) {
    pair.reset_front |= reset_front;
    pair.reset_back |= reset_back;
    return;
  }
  if (pair.state == PairState::kFlowing) --flowing_;
  if (pair.in_ready) {
    on_unready_(owner_context_, pair);
    pair.in_ready = false;
  }
  pair.reason = reason;
  pair.reset_front = reset_front;
  pair.reset_back = reset_back;
  pair.state = PairState::kEnding;
  teardown_begin(*this, pair);
}

void PairTable::move_out(Pair& pair) {
  NATRP_CHECK(pair.state == PairState::kWaiting, "only a ready channel moves");
  pair.moving = true;
  end(pair, EndReason::kMoved, false, false);
}

void PairTable::end_all(EndReason reason, bool force) {
  for (uint32_t i = 0; i < touched_; ++i) {
    Pair& pair = slots_[i];
    if (pair.state == PairState::kWaiting) end(pair, reason, false, false);
    if (pair.state == PairState::kFlowing && force) end(pair, reason, true, true);
  }
}

// --- What the pumps report ----------------------------------------------------------------------------------------

void PairTable::on_op(Op& op) {
  Pump& pump = *reinterpret_cast<Pump*>(&op);
  Pair& pair = pair_of(pump);
  PairTable& table = *pair.context->pairs;
  if (pair.state == PairState::kEnding) {
    // A receive may have been faster than its cancel: its bytes have nowhere to go.
    if (op.kind == OpKind::kRecvBuffer && op.result > 0) pump.holds = true;
    return teardown_step(table, pair);
  }
  if (pair.state == PairState::kWaiting) return table.on_waiting(pair, pump);
  if (pump.watching) return table.on_watch(pair, pump);
  if (pump.demote) {
    // Its poll was cancelled to leave BULK; if readiness was faster, the next mode will see the bytes.
    pump.demote = false;
    pump_demote(table.context_, pump);
    pump_wait(table.context_, pump, pair.source(pump));
    return;
  }
  pump_run(table.context_, pump, pair.source(pump), pair.sink(pump));
  table.settle(pair, pump);
}

void PairTable::on_waiting(Pair& pair, Pump& pump) {
  const Op& op = pump.op;
  if (op.result == -ENOBUFS || op.result == -EAGAIN || op.result == -EINTR) {
    return pump_wait(context_, pump, pair.back_conn());
  }
  bool spoke = op.result > 0;
  if (op.kind == OpKind::kRecvBuffer) {
    pump.holds = spoke;
  } else {
    spoke = context_.loop.bytes_readable(pair.back_conn().fd) > 0;
  }
  end(pair, spoke ? EndReason::kChannelSpoke : EndReason::kChannelLost, false, spoke);
}

void PairTable::settle(Pair& pair, Pump& pump) {
  if (pump.starved) enter_sweep(pair);
  switch (pump.status) {
    case PumpStatus::kIdle:
    case PumpStatus::kFlowing: return;
    case PumpStatus::kEof: return on_eof(pair, pump);
    case PumpStatus::kSourceReset: return on_source_reset(pair, pump);
    case PumpStatus::kSinkBroken: return on_sink_broken(pair, pump);
  }
}

void PairTable::on_eof(Pair& pair, Pump& pump) {
  Pump& other = pair.other(pump);
  // FIN as FIN, behind the bytes before it. ENOTCONN: the sink was reset meanwhile; its own reader will say so.
  (void)context_.loop.shutdown_write(pair.sink(pump).fd);
  if (other.status == PumpStatus::kEof) return end(pair, EndReason::kCompleted, false, false);
  if (other.status == PumpStatus::kSinkBroken) {
    // Its sink is our source, which ended cleanly before it broke: a reset of the other side all the same.
    return on_source_reset(pair, pump);
  }
  // Nobody reads the source any more, and it may still be reset: watch it.
  pump.watching = true;
  pump.op.kind = OpKind::kHangUp;
  pump.op.fd = pair.source(pump).fd;
  context_.loop.submit(pump.op);
}

void PairTable::on_watch(Pair& pair, Pump& pump) {
  pump.watching = false;
  if (pump.op.result == -ECANCELED) return;
  if ((pump.op.result & POLLERR) != 0 || pair.source(pump).peer_reset) return on_source_reset(pair, pump);
  // HUP without an error: a unix service that closed. Nothing can be sent to it any more, and that is a clean end.
  end(pair, EndReason::kCompleted, false, false);
}

void PairTable::on_source_reset(Pair& pair, Pump& pump) {
  // Its sink gets the reset (teardown lets the bytes before it out first); the source itself is dead.
  const bool from_front = !pump.down;
  context_.counters.add(Counter::kResetsCarried);
  end(pair, from_front ? EndReason::kFrontReset : EndReason::kBackReset, !from_front, from_front);
}

void PairTable::on_sink_broken(Pair& pair, Pump& pump) {
  pump_release(context_, pump);
  Pump& other = pair.other(pump);
  if (other.status == PumpStatus::kFlowing) {
    // What the sink's peer sent before its reset may still be in its socket: the other pump delivers it, and meets
    // the end, which counts as a reset now (Conn::peer_reset).
    return;
  }
  if (other.status == PumpStatus::kEof && other.watching) {
    other.watching = false;  // teardown lands its op
    return on_source_reset(pair, other);
  }
  const bool front_broke = pump.down;
  context_.counters.add(Counter::kResetsCarried);
  end(pair, front_broke ? EndReason::kFrontReset : EndReason::kBackReset, !front_broke, front_broke);
}

// --- Lists and the sweep ------------------------------------------------------------------------------------------

void PairTable::push(PairList& list, Pair& pair) {
  const uint32_t index = index_of(pair);
  pair.prev = list.last;
  pair.next = PairList::kEnd;
  if (list.last != PairList::kEnd) {
    slots_[list.last].next = index;
  } else {
    list.first = index;
  }
  list.last = index;
  ++list.size;
}

void PairTable::remove(PairList& list, Pair& pair) {
  if (pair.prev != PairList::kEnd) {
    slots_[pair.prev].next = pair.next;
  } else {
    list.first = pair.next;
  }
  if (pair.next != PairList::kEnd) {
    slots_[pair.next].prev = pair.prev;
  } else {
    list.last = pair.prev;
  }
  --list.size;
}

void PairTable::enter_sweep(Pair& pair) {
  if (!pair.in_sweep) {
    NATRP_CHECK(!pair.in_ready, "a pair is in one list");
    pair.in_sweep = true;
    push(sweep_list_, pair);
  }
  arm_sweep();
}

void PairTable::leave_sweep(Pair& pair) {
  if (!pair.in_sweep) return;
  pair.in_sweep = false;
  remove(sweep_list_, pair);
}

void PairTable::arm_sweep() {
  const uint64_t delay = resetting_ > 0 ? kSweepMs : kBulkSweepMs;
  Timer& timer = sweep_timer_.timer;
  if (timer.armed() && timer.deadline_ms <= context_.loop.turn_ms() + delay) return;
  context_.loop.timers().arm(timer, delay);
}

void PairTable::watch_bulk(Pump& pump) {
  // A forced splice never changes its mode, so nobody needs to look at it.
  if (context_.kind == PumpKind::kAuto) enter_sweep(pair_of(pump));
}

void PairTable::on_sweep(Timer& timer) { reinterpret_cast<SweepTimer*>(&timer)->self->sweep(); }

void PairTable::sweep() {
  for (uint32_t at = sweep_list_.first; at != PairList::kEnd;) {
    Pair& pair = slots_[at];
    at = pair.next;
    if (pair.state == PairState::kResetting) {
      teardown_step(*this, pair);
      continue;
    }
    if (pair.state != PairState::kFlowing) continue;
    for (Pump* pump : {&pair.up, &pair.down}) {
      if (pair.state != PairState::kFlowing) break;
      sweep_bulk(pair, *pump);
    }
    const bool bulk = pair.up.mode == PumpMode::kSplice || pair.down.mode == PumpMode::kSplice;
    if (pair.in_sweep && !bulk && !pair.up.starved && !pair.down.starved && pair.state == PairState::kFlowing) {
      leave_sweep(pair);
    }
  }
  if (sweep_list_.size > 0) {
    arm_sweep();
  } else {
    context_.pipes.trim(2);  // bulk has ended: the kernel gets its pages back
  }
}

void PairTable::sweep_bulk(Pair& pair, Pump& pump) {
  if (pump.status != PumpStatus::kFlowing) return;
  if (pump.starved) {
    pump.starved = false;
    pump_wait(context_, pump, pair.source(pump));
    return;
  }
  const bool waits_for_source = pump.mode == PumpMode::kSplice && pump.op.in_flight && pump.pending == 0;
  if (!waits_for_source || pump.demote) return;
  const auto idle_ms = static_cast<uint32_t>(context_.loop.turn_ms()) - pump.progress_ms;
  if (idle_ms < kBulkIdleMs) return;
  static_assert(kBulkIdleMs == kStallMs, "one look serves both: idle goes back to COPY, stalled stays there");
  if (context_.loop.bytes_readable(pair.source(pump).fd) > 0) {
    // Bytes are there and readiness never came: something outside (a sockmap, a broken kernel) swallows it.
    pump.copies_for_good = true;
    context_.counters.add(Counter::kPumpStalls);
  }
  pump.demote = true;
  context_.loop.cancel(pump.op);
}

}  // namespace natrp
