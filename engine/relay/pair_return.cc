// How a pair ends whose bytes came in chunks (relay/chunks.h): its ends are told instead of sent as FINs, and its data
// channel comes back.
//
//     agent  both directions over ──END, FREE──▶ the channel waits for its next Start
//     edge   both directions over ──the visitor's socket closes──▶ returning ──FREE──▶ the channel is ready again
//
// A direction that became a stream ends by FIN, and its channel with it. So does one that its agent has no use for.
#include <array>
#include <cerrno>

#include "base/check.h"
#include "relay/chunks.h"
#include "relay/pair.h"
#include "relay/teardown.h"

namespace natrp {
namespace {

bool in_chunks(const Pump& pump) { return pump.wraps || pump.unwraps; }

}  // namespace

bool PairTable::can_return(Pair& pair) const {
  return in_chunks(pair.up) && in_chunks(pair.down) && !pair.channel().peer_reset;
}

// END instead of FIN, behind the bytes before it; at the agent also FREE, when this is the last that it has to say.
// False: it waits for room, or the channel is broken.
bool PairTable::tell_end(Pair& pair, Pump& pump) {
  pump.free_told = pair.other(pump).is_over() && pair.channel_in_front() && can_return(pair) &&
                   events_.may_keep_channel(owner_, pair);
  const auto bytes = static_cast<uint32_t>(pump.free_told ? kEndAndFree.size() : kChunkHeaderBytes);
  const ssize_t n = context_.loop.try_send(pair.sink(pump).fd, kEndAndFree.data(), bytes);
  if (n == static_cast<ssize_t>(bytes)) return true;
  if (n < 0 && n != -EAGAIN && n != -EINTR) {
    pump_write_failed(pump, pair.sink(pump), static_cast<int>(-n));
    settle(pair, pump);
    return false;
  }
  const auto sent = static_cast<uint32_t>(n > 0 ? n : 0);
  pump.op.kind = OpKind::kSend;
  pump.op.fd = pair.sink(pump).fd;
  pump.op.data = const_cast<uint8_t*>(kEndAndFree.data()) + sent;
  pump.op.len = bytes - sent;
  pump.sending = true;
  context_.loop.submit(pump.op);
  return false;
}

void PairTable::on_end_sent(Pair& pair, Pump& pump) {
  const int32_t n = pump.op.result;
  pump.sending = false;
  if (n == static_cast<int32_t>(pump.op.len)) return end_told(pair, pump);
  // Short: an error follows, as for any send.
  pump_write_failed(pump, pair.sink(pump), n < 0 ? -n : ECONNRESET);
  settle(pair, pump);
}

// Both directions are over. Closing the sinks sends their FINs; a channel that was told of both ends may stay.
void PairTable::finish(Pair& pair) {
  if (!can_return(pair)) return end(pair, EndReason::kCompleted, Resets::kNone);
  const bool agent = pair.channel_in_front();
  if (agent && !pair.down.free_told) {
    // Behind an END that the edge has read, or reads next, so two bytes fit. If not, the channel ends as others do.
    pair.down.free_told =
        events_.may_keep_channel(owner_, pair) &&
        context_.loop.try_send(pair.front_conn().fd, kEndAndFree.data() + kChunkHeaderBytes, kChunkHeaderBytes) ==
            static_cast<ssize_t>(kChunkHeaderBytes);
    if (!pair.down.free_told) return end(pair, EndReason::kCompleted, Resets::kNone);
  }
  for (Pump* pump : {&pair.up, &pair.down}) {
    pump->watching = false;
    context_.loop.cancel(pump->op);
  }
  if (!pair.up.landed() || !pair.down.landed()) return;  // on_watch comes back
  if (agent) return hand_back(pair);
  const bool may_return = teardown_visitor(*this, pair);
  if (pair.down.free_came) return hand_back(pair);
  if (!may_return) return end(pair, EndReason::kCompleted, Resets::kNone);
  pair.state = PairState::kReturning;
  pair.down.progress_ms = static_cast<uint32_t>(context_.loop.turn_ms());
  wait_for_channel(pair);
}

void PairTable::hand_back(Pair& pair) {
  pair.keeps_channel = true;
  end(pair, EndReason::kReturned, Resets::kNone);
}

void PairTable::on_returning(Pair& pair, Pump& pump) {
  const Op& op = pump.op;
  const bool has_buffer = op.kind == OpKind::kRecvBuffer;
  std::array<unsigned char, kChunkHeaderBytes> bytes;
  ssize_t n = op.result;
  if (!has_buffer && n > 0) n = context_.loop.try_recv(pair.back_conn().fd, bytes.data(), bytes.size());
  if (n == -ENOBUFS || n == -EAGAIN || n == -EINTR) {
    pump.mode = PumpMode::kCopy;
    return pump_wait(context_, pump, pair.back_conn());
  }
  // Closed: the agent keeps no more channels than it was told to.
  if (n <= 0) return end(pair, EndReason::kCompleted, Resets::kNone);
  pump.offset = 0;
  pump.pending = static_cast<uint32_t>(n);
  const bool ours = chunk_unwrap(pump, has_buffer ? context_.loop.buffers().data(op.buffer) : bytes.data());
  NATRP_CHECK(!ours || pump.pending == 0, "behind an END there are no bytes");
  pump.pending = 0;
  if (has_buffer) pump_drop_buffer(context_, pump);
  if (!ours) return end(pair, EndReason::kChannelSpoke, Resets::kBack);
  if (pump.free_came) return hand_back(pair);
  pump_wait(context_, pump, pair.back_conn());
}

// FREE comes a round trip after END, unless the agent is gone, or its service reads slowly what came before END. Behind
// a FIN it has all of it; a reset would take it away.
bool PairTable::returns_in_time(Pair& pair) {
  const auto now = static_cast<uint32_t>(context_.loop.turn_ms());
  if (now - pair.down.progress_ms < kChannelReturnMs) return true;
  end(pair, EndReason::kPeerSilent, Resets::kNone);
  return false;
}

}  // namespace natrp
