#include "relay/teardown.h"

#include "base/limits.h"
#include "relay/pair.h"

namespace natrp {
namespace {

// A channel whose peer is silent acknowledges nothing, and the other end need not wait for that.
bool is_silent(const Pair& pair, const Conn& conn) {
  return pair.reason == EndReason::kPeerSilent && conn.role() == ConnRole::kDataChannel;
}

bool must_wait(RelayContext& context, Pair& pair, uint32_t waited_ms) {
  const auto waits = [&](const Conn& conn, bool reset) {
    return reset && !is_silent(pair, conn) && reset_must_wait(context.loop, conn.fd, waited_ms);
  };
  return waits(pair.front_conn(), pair.reset_front) || waits(pair.back_conn(), pair.reset_back);
}

void close_conn(RelayContext& context, Conn& conn, bool reset) {
  context.loop.close(conn.fd, reset ? CloseWith::kReset : CloseWith::kFin);
  context.conns.release(conn);
}

}  // namespace

bool reset_must_wait(Loop& loop, int fd, uint64_t waited_ms) {
  if (loop.bytes_unacknowledged(fd) <= 0) return false;
  return waited_ms < kResetDrainTimeoutMs || loop.sent_ms_ago(fd) < kResetDrainTimeoutMs;
}

void teardown_begin(PairTable& table, Pair& pair) {
  table.leave_sweep(pair);
  pump_stop(table.context_, pair.up);
  pump_stop(table.context_, pair.down);
  teardown_step(table, pair);
}

bool teardown_visitor(PairTable& table, Pair& pair) {
  table.leave_sweep(pair);
  close_conn(table.context_, pair.front_conn(), false);
  --table.with_visitor_;
  table.context_.counters.sub(Counter::kPairsLive);
  pair.returning = true;
  const bool may_return = table.events_.on_visitor_gone(table.owner_, pair);
  pair.front = Pair::kNoConn;
  return may_return;
}

void teardown_step(PairTable& table, Pair& pair) {
  if (!pair.up.landed() || !pair.down.landed()) return;
  RelayContext& context = table.context_;
  const bool has_front = pair.front != Pair::kNoConn;
  if (pair.state == PairState::kEnding) {
    pump_release(context, pair.up);
    pump_release(context, pair.down);
    // A channel that no visitor met has nothing of ours to wait for.
    if (has_front && pair.reason != EndReason::kDrainDeadline && must_wait(context, pair, 0)) {
      pair.state = PairState::kResetting;
      pair.up.progress_ms = static_cast<uint32_t>(context.loop.turn_ms());
      pair.in_haste = true;
      ++table.resetting_;
      table.enter_sweep(pair);
      return;
    }
  } else {
    const auto waited_ms = static_cast<uint32_t>(context.loop.turn_ms()) - pair.up.progress_ms;
    const bool wait = pair.reason != EndReason::kDrainDeadline && must_wait(context, pair, waited_ms);
    if (pair.in_haste && (!wait || waited_ms >= kResetDrainTimeoutMs)) {
      pair.in_haste = false;
      --table.resetting_;
    }
    if (wait) return;
    table.leave_sweep(pair);
  }
  if (has_front) {
    if (!pair.keeps_channel) close_conn(context, pair.front_conn(), pair.reset_front);
    --table.with_visitor_;
  }
  if (pair.moving) {
    // The descriptor goes on to another worker; on_end reads it before the slot is released.
    table.events_.on_end(table.owner_, pair);
    context.conns.release(pair.back_conn());
  } else {
    if (!pair.keeps_channel || has_front) close_conn(context, pair.back_conn(), pair.reset_back);
    table.events_.on_end(table.owner_, pair);
  }
  table.release(pair);
}

}  // namespace natrp
