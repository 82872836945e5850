#include "relay/pair.h"

#include <poll.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <new>

#include "base/check.h"
#include "base/limits.h"
#include "relay/teardown.h"

namespace natrp {
namespace {

constexpr uint32_t kBulkSweepMs = 250;

// A direction that is over keeps the mode that it had.
bool is_bulk(const Pump& pump) { return pump.status == PumpStatus::kFlowing && pump.mode == PumpMode::kSplice; }

// How long a half-closed source waits to be watched. Where its last op was such a watch already, the kernel had no room
// for it, and may have none for a while.
uint32_t watch_wait_ms(const Pump& pump) { return pump.op.kind == OpKind::kHangUp ? kBulkSweepMs : kHalfClosedMs; }

}  // namespace

PairTable::PairTable(RelayContext& context, uint32_t capacity, const Events& events, void* owner)
    : context_(context), events_(events), owner_(owner), capacity_(capacity) {
  void* memory = mmap(nullptr, static_cast<size_t>(capacity) * sizeof(Pair), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  NATRP_CHECK(memory != MAP_FAILED, "address space for the pairs");
  madvise(memory, static_cast<size_t>(capacity) * sizeof(Pair), MADV_NOHUGEPAGE);
  slots_ = static_cast<Pair*>(memory);
  context_.pairs = this;
}

PairTable::~PairTable() {
  NATRP_CHECK(live_ == 0, "every pair has ended before its table goes");
  context_.loop.timers().disarm(sweep_timer_);
  context_.loop.timers().disarm(patrol_timer_);
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

Pair* PairTable::start(Conn& front, Conn& back, uint32_t owner, bool chunks) {
  Pair* pair = claim();
  if (pair == nullptr) return nullptr;
  pair->front = context_.conns.index_of(front);
  context_.counters.add(Counter::kPairsLive);
  pair->back = context_.conns.index_of(back);
  pair->owner = owner;
  NATRP_CHECK(!chunks || context_.kind != PumpKind::kSplice, "who forces splice has said that it takes no chunks");
  pair->up.unwraps = pair->down.wraps = chunks;
  began_to_flow(*pair);
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
  wait_for_channel(*pair);
  return pair;
}

void PairTable::wait_for_channel(Pair& pair) {
  // Not in splice mode: a waiting pair is in no sweep.
  pair.down.status = PumpStatus::kFlowing;
  pair.down.mode = context_.kind == PumpKind::kSplice ? PumpMode::kCopy : pump_copy_mode(context_, pair.down);
  pump_wait(context_, pair.down, pair.back_conn());
}

void PairTable::began_to_flow(Pair& pair) {
  pair.state = PairState::kFlowing;
  ++with_visitor_;
  if (!patrol_timer_.armed()) context_.loop.timers().arm(patrol_timer_, kPatrolMs);
}

void PairTable::attach_front(Pair& pair, Conn& front, bool chunks) {
  NATRP_CHECK(pair.state == PairState::kWaiting && !pair.in_ready, "a visitor meets a ready channel once");
  pair.front = context_.conns.index_of(front);
  context_.counters.add(Counter::kPairsLive);
  NATRP_CHECK(!chunks || context_.kind != PumpKind::kSplice, "spliced bytes are in no chunks");
  pair.up.wraps = pair.down.unwraps = chunks;
  began_to_flow(pair);
  pair.down.progress_ms = static_cast<uint32_t>(context_.loop.turn_ms());
  pump_start(context_, pair.up, front);
}

void PairTable::end(Pair& pair, EndReason reason, Resets resets) {
  const bool reset_front = resets == Resets::kFront || resets == Resets::kBoth;
  const bool reset_back = resets == Resets::kBack || resets == Resets::kBoth;
  if (pair.state == PairState::kEnding || pair.state == PairState::kResetting) {
    pair.reset_front |= reset_front;
    pair.reset_back |= reset_back;
    return;
  }
  if (pair.in_ready) {
    events_.on_unready(owner_, pair);
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
  end(pair, EndReason::kMoved, Resets::kNone);
}

void PairTable::end_all(EndReason reason) {
  for (uint32_t i = 0; i < touched_; ++i) {
    Pair& pair = slots_[i];
    if (pair.state == PairState::kWaiting || pair.state == PairState::kReturning) end(pair, reason, Resets::kNone);
    if (pair.state == PairState::kFlowing) end(pair, reason, Resets::kBoth);
    if (pair.state == PairState::kResetting) {
      pair.reason = reason;  // kDrainDeadline: teardown does not wait any longer
      teardown_step(*this, pair);
    }
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
  if (pair.state == PairState::kReturning) return table.on_returning(pair, pump);
  if (pump.status == PumpStatus::kEof) return pump.sending ? table.on_end_sent(pair, pump) : table.on_watch(pair, pump);
  if (pump.demote) {
    // Its poll was cancelled to leave SPLICE; if readiness was faster, the next mode will see the bytes.
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
  if (op.result == -ENOBUFS) {
    // It spoke or ended while no buffer was left. To learn which, none is needed.
    pump.mode = PumpMode::kCopy;
    return pump_wait(context_, pump, pair.back_conn());
  }
  if (op.result == -EAGAIN || op.result == -EINTR) return pump_wait(context_, pump, pair.back_conn());
  bool spoke = op.result > 0;
  if (op.kind == OpKind::kRecvBuffer) {
    pump.holds = spoke;
  } else {
    spoke = context_.loop.bytes_readable(pair.back_conn().fd) > 0;
  }
  end(pair, spoke ? EndReason::kChannelSpoke : EndReason::kChannelLost, spoke ? Resets::kBack : Resets::kNone);
}

void PairTable::settle(Pair& pair, Pump& pump) {
  if (pump.starved) enter_sweep(pair);
  switch (pump.status) {
    case PumpStatus::kIdle:
    case PumpStatus::kFlowing: return;
    case PumpStatus::kEof: return on_eof(pair, pump);
    case PumpStatus::kSourceReset: return on_source_reset(pair, pump);
    case PumpStatus::kSinkBroken: return on_sink_broken(pair, pump);
    case PumpStatus::kNonsense: return end(pair, EndReason::kChannelSpoke, Resets::kBoth);
    case PumpStatus::kFailed:
      context_.counters.add(Counter::kPairsFailed);
      return end(pair, EndReason::kFailed, Resets::kBoth);
  }
}

void PairTable::on_eof(Pair& pair, Pump& pump) {
  Pump& other = pair.other(pump);
  if (other.status == PumpStatus::kSinkBroken) {
    // Its sink is our source, which ended cleanly before it broke: a reset of the other side all the same.
    return on_source_reset(pair, pump);
  }
  if (pump.free_came && (pair.channel_in_front() || other.status != PumpStatus::kEof)) {
    // FREE before our END, or of an edge: not our protocol, and the visitor's next bytes would be somebody else's.
    return end(pair, EndReason::kChannelSpoke, Resets::kBoth);
  }
  if (!pump.wraps || tell_end(pair, pump)) end_told(pair, pump);
}

void PairTable::end_told(Pair& pair, Pump& pump) {
  const Pump& other = pair.other(pump);
  if (other.status == PumpStatus::kSinkBroken) return on_source_reset(pair, pump);
  if (other.is_over()) return finish(pair);
  // FIN as FIN, behind the bytes before it. ENOTCONN: the sink was reset meanwhile; its own reader will say so.
  if (!pump.wraps) (void)context_.loop.shutdown_write(pair.sink(pump).fd);
  watch_later(pair, pump);
}

// Nobody reads the source any more, and it may still be reset: watch it. Most pairs end a moment later, so the sweep
// begins the watch, of those that are that old: on the spot, it was 2.7 % of the cost of a short visitor.
void PairTable::watch_later(Pair& pair, Pump& pump) {
  pump.watching = true;
  pump.progress_ms = static_cast<uint32_t>(context_.loop.turn_ms());
  enter_sweep(pair);
  arm_sweep(watch_wait_ms(pump));
}

void PairTable::on_watch(Pair& pair, Pump& pump) {
  pump.watching = false;
  // Its end is told already (finish), perhaps with FREE: what came faster than the cancel comes too late to matter.
  if (pair.other(pump).is_over()) return finish(pair);
  if (pump.op.result < 0) return watch_later(pair, pump);
  if ((pump.op.result & POLLERR) != 0 || pair.source(pump).peer_reset) return on_source_reset(pair, pump);
  // HUP without an error: a unix service that closed. As with a TCP service that did, the other direction finds out
  // when it has bytes for it, or ends by itself; to close here would cut off what the front has not read yet.
}

void PairTable::on_source_reset(Pair& pair, Pump& pump) {
  // Its sink gets the reset (teardown lets the bytes before it out first); the source itself is dead.
  const bool from_front = !pump.down;
  context_.counters.add(Counter::kResetsCarried);
  end(pair, from_front ? EndReason::kFrontReset : EndReason::kBackReset, from_front ? Resets::kBack : Resets::kFront);
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
  end(pair, front_broke ? EndReason::kFrontReset : EndReason::kBackReset, front_broke ? Resets::kBack : Resets::kFront);
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
  arm_sweep(sweep_interval());
}

void PairTable::leave_sweep(Pair& pair) {
  if (!pair.in_sweep) return;
  pair.in_sweep = false;
  if (sweep_next_ == index_of(pair)) sweep_next_ = pair.next;
  remove(sweep_list_, pair);
}

uint64_t PairTable::sweep_interval() const {
  if (resetting_ == 0) return kBulkSweepMs;
  // Each that waits to reset costs two system calls a look: thousands at once are looked at less often.
  return std::min<uint64_t>(kSweepMs + resetting_ / 16, kBulkSweepMs);
}

void PairTable::arm_sweep(uint64_t delay) {
  Timer& timer = sweep_timer_;
  if (timer.armed() && timer.deadline_ms <= context_.loop.turn_ms() + delay) return;
  context_.loop.timers().arm(timer, delay);
}

void PairTable::watch_bulk(Pump& pump) {
  // A forced splice never changes its mode, so nobody needs to look at it.
  if (context_.kind == PumpKind::kAuto) enter_sweep(pair_of(pump));
}

void PairTable::sweep() {
  bool may_reclaim = true;  // once a sweep
  uint32_t next_ms = kBulkSweepMs;
  bool any_bulk = false;
  // Not each time while others wait to reset: an event may be as late as two such sweeps, and looks like a stall.
  const bool looks_for_stalls = context_.loop.turn_ms() - stalls_looked_for_ms_ >= kBulkSweepMs;
  if (looks_for_stalls) stalls_looked_for_ms_ = context_.loop.turn_ms();
  for (sweep_next_ = sweep_list_.first; sweep_next_ != PairList::kEnd;) {
    Pair& pair = slots_[sweep_next_];
    sweep_next_ = pair.next;
    if (may_reclaim && (needs_buffer_of_another(pair.up) || needs_buffer_of_another(pair.down))) {
      may_reclaim = false;
      reclaim_buffers();
    }
    if (pair.state == PairState::kResetting) {
      teardown_step(*this, pair);
      continue;
    }
    if (pair.state != PairState::kFlowing) continue;
    bool watched_later = false;
    for (Pump* pump : {&pair.up, &pair.down}) {
      if (pair.state != PairState::kFlowing) break;
      if (pump->watching) {
        const bool awaits = !begin_watch(pair, *pump);
        watched_later |= awaits;
        if (awaits) next_ms = std::min(next_ms, watch_wait_ms(*pump));
      } else if (pump->starved && pump->status == PumpStatus::kFlowing) {
        pump->starved = false;
        pump_wait(context_, *pump, pair.source(*pump));
      } else if (looks_for_stalls) {
        look_for_stall(pair, *pump);
      }
    }
    const bool bulk = is_bulk(pair.up) || is_bulk(pair.down);
    const bool needs_sweep = bulk || pair.up.starved || pair.down.starved || watched_later;
    if (pair.in_sweep && !needs_sweep && pair.state == PairState::kFlowing) leave_sweep(pair);
    any_bulk |= bulk;
  }
  if (!any_bulk) context_.pipes.trim(2);  // bulk has ended: the kernel gets its pages back
  if (sweep_list_.size == 0) return;
  arm_sweep(std::min<uint64_t>(next_ms, sweep_interval()));
}

// Half closed for a while: its source's reset is waited for. False: not for long enough yet.
bool PairTable::begin_watch(Pair& pair, Pump& pump) {
  if (pump.op.in_flight) return true;
  if (static_cast<uint32_t>(context_.loop.turn_ms()) - pump.progress_ms < watch_wait_ms(pump)) return false;
  pump.op.kind = OpKind::kHangUp;
  pump.op.fd = pair.source(pump).fd;
  context_.loop.submit(pump.op);
  return true;
}

void PairTable::look_for_stall(Pair& pair, Pump& pump) {
  if (pump.status != PumpStatus::kFlowing) return;
  // One that was told of its bytes and waits for its turn behind messages has not stalled, however long that takes.
  const bool waits_for_source =
      pump.mode == PumpMode::kSplice && pump.op.in_flight && !pump.op.kept && pump.pending == 0;
  if (!waits_for_source || pump.demote) return;
  const auto idle_ms = static_cast<uint32_t>(context_.loop.turn_ms()) - pump.progress_ms;
  if (idle_ms < kBulkIdleMs) return;
  static_assert(kBulkIdleMs == kStallMs, "one look serves both: idle goes back to COPY, stalled stays there");
  if (context_.loop.bytes_readable(pair.source(pump).fd) > 0) {
    // Bytes that came a moment ago may have an event that nobody has fetched yet. Seen twice, readiness never came:
    // something outside (a sockmap, a broken kernel) swallows it.
    if (!pump.suspect) {
      pump.suspect = true;
      return;
    }
    pump.copies_for_good = true;
    context_.counters.add(Counter::kPumpStalls);
  }
  pump.demote = true;
  context_.loop.cancel(pump.op);
}

// --- The patrol: what no op would ever tell ------------------------------------------------------------------------

void PairTable::on_patrol() {
  bool any = with_visitor_ > 0;
  for (uint32_t i = 0; i < touched_; ++i) {
    if (slots_[i].state == PairState::kFlowing) patrol(slots_[i]);
    if (slots_[i].state == PairState::kReturning) any |= returns_in_time(slots_[i]);
  }
  if (any) context_.loop.timers().arm(patrol_timer_, kPatrolMs);
}

void PairTable::patrol(Pair& pair) {
  const auto now = static_cast<uint32_t>(context_.loop.turn_ms());
  for (Pump* pump : {&pair.up, &pair.down}) {
    // A pump that waits for its sink does not watch its source. When that was reset, and the sink has taken nothing for
    // kResetDrainTimeoutMs, the sink gets the reset without the bytes before it.
    const bool blocked = (pump->status == PumpStatus::kFlowing && pump->pending > 0) ||
                         (pump->status == PumpStatus::kEof && pump->sending);
    if (!blocked || !sink_took_nothing(pair, *pump, kResetDrainTimeoutMs)) continue;
    // The kernel tells a reset once: perhaps the other pump, which writes to that socket, has heard of it.
    const Conn& source = pair.source(*pump);
    if (source.peer_reset || context_.loop.is_reset(source.fd)) return on_source_reset(pair, *pump);
  }
  const bool holds = pair.up.pending > 0 || pair.down.pending > 0 || pair.up.sending || pair.down.sending;
  const uint32_t idle_ms = std::min(now - pair.up.progress_ms, now - pair.down.progress_ms);
  // The last bytes for a peer whose window is closed are all in the channel's socket, for as long as it likes.
  const auto waits = [&] { return context_.loop.bytes_unacknowledged(pair.channel().fd) > 0; };
  if (!holds && idle_ms > kPatrolRecentMs && !waits()) return;
  if (!is_silent(pair.front_conn()) && !is_silent(pair.back_conn())) return;
  context_.counters.add(Counter::kPeersSilent);
  // Also the silent one: it may hear of it when the line heals, or have heard all the time where only its answers are
  // lost. Behind a FIN it would take what it has for the whole.
  end(pair, EndReason::kPeerSilent, Resets::kBoth);
}

bool PairTable::is_silent(const Conn& conn) {
  return conn.role() == ConnRole::kDataChannel && context_.loop.peer_silent_ms(conn.fd) >= kPeerSilentMs;
}

// The kernel tells a pump of its sink when a third of the socket's memory is free, or the whole send is done: with
// megabytes there, a slow reader is late by ten seconds and more. Whether it reads, only the socket knows.
bool PairTable::sink_took_nothing(Pair& pair, const Pump& pump, uint32_t for_ms) {
  const auto now = static_cast<uint32_t>(context_.loop.turn_ms());
  return now - pump.progress_ms >= for_ms && context_.loop.sent_ms_ago(pair.sink(pump).fd) >= for_ms;
}

// A pump that copies takes its buffer from the reserve, and what a ring has on offer is no use to it.
bool PairTable::needs_buffer_of_another(const Pump& pump) const {
  const BufRing& buffers = context_.loop.buffers();
  return pump.starved && (pump.mode == PumpMode::kUring ? buffers.exhausted() : buffers.has_no_reserve());
}

// While a pump holds a buffer it does not read. When pairs whose sinks take nothing hold all 16,384, no other pair of
// this worker can receive.
void PairTable::reclaim_buffers() {
  unsigned reclaimed = 0;
  for (uint32_t i = 0; i < touched_ && reclaimed < kBuffersOffered; ++i) {
    Pair& pair = slots_[i];
    for (const Pump* pump : {&pair.up, &pair.down}) {
      const bool holds = pair.state == PairState::kFlowing && pump->holds && pump->mode != PumpMode::kSplice;
      if (!holds || !sink_took_nothing(pair, *pump, kBufferHoldMs)) continue;
      context_.counters.add(Counter::kBuffersReclaimed);
      ++reclaimed;
      end(pair, EndReason::kBufferReclaimed, Resets::kBoth);
    }
  }
}

}  // namespace natrp
