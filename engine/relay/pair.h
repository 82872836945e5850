// relay/pair.h
//
// A Pair relays one visitor: two conns, two pumps.
//
//     front ──▶ up ──▶ back          front: nearer the visitor
//     front ◀── down ◀── back        back:  nearer the service
//
// Life     waiting (a ready data channel: back only) ──attach_front──▶ flowing ──eof──▶ half closed ──eof──▶ ending
//             └───────────── reset, error, deadline, drain ────────────────────────────────────────▲
//          ending: teardown stops both pumps, lands their ops ──▶ closes both sockets, releases the slots
//             └── bytes before a reset are not out yet ──▶ resetting ──they are, or time is up──▲    (relay/teardown)
//          in chunks: half closed ──eof──▶ returning (edge: back only, until FREE) ──▶ ending, but for its channel,
//          which on_end gets (pair_return.cc)
// Thread   the worker that owns both conns. Nothing here is locked.
// Memory   a slot of the worker's PairTable, 128 bytes; starting a pair allocates nothing.
// Never    closes a socket (teardown does), looks at a byte (relay/chunks does), moves to another worker.
#pragma once

#include <cstdint>

#include "loop/owned.h"
#include "relay/pump.h"

namespace natrp {

enum class PairState : uint8_t { kFree, kWaiting, kFlowing, kReturning, kEnding, kResetting };

enum class EndReason : uint8_t {
  kNone,
  kCompleted,        // both sides ended their streams
  kFrontReset,       // the visitor's side reset
  kBackReset,        // the service's side reset
  kChannelLost,      // a ready data channel ended before a visitor came
  kChannelSpoke,     // a data channel sent what is not our protocol, or bytes before a visitor came
  kSessionEnded,     // a ready data channel whose session is over
  kDrainDeadline,    // still flowing when the drain ended
  kPeerSilent,       // the other host answers nothing any more, though bytes are under way
  kFailed,           // the kernel could not go on (no memory)
  kBufferReclaimed,  // it held a buffer without moving a byte when no other pair could have one
  kMoved,            // a ready data channel that went to another worker
  kSurplus,          // a ready data channel beyond those that are held
  kReturned,         // both sides ended their streams, and the data channel can carry another visitor
};

// Which sides of a pair that ends see a reset; the others see a FIN.
enum class Resets : uint8_t { kNone, kFront, kBack, kBoth };

struct Pair {
  Pump up;    // front → back; first: the pair is found from its pump by a cast
  Pump down;  // back → front
  RelayContext* context = nullptr;
  uint32_t front = 0;     // index of the conn in the worker's shard, kNoConn while waiting
  uint32_t back = 0;
  uint32_t owner = 0;     // what the role's code wants to find again in on_end (session or tunnel index)
  uint32_t prev = 0;      // links of the one list a pair is in: ready channels, or the sweep
  uint32_t next = 0;
  PairState state = PairState::kFree;
  EndReason reason = EndReason::kNone;
  bool in_sweep : 1 = false;
  bool in_ready : 1 = false;
  bool reset_front : 1 = false;  // close front with a RST
  bool reset_back : 1 = false;
  bool in_haste : 1 = false;     // waits to reset, and the sweep's short interval is for it
  bool moving : 1 = false;       // the back descriptor is handed over instead of closed
  bool keeps_channel : 1 = false;  // the data channel is handed over with its slot
  bool returning : 1 = false;    // its visitor is gone, and its channel may come back
  uint8_t tag = 0;               // the role's own mark

  static constexpr uint32_t kNoConn = ~0u;
  Pump& other(const Pump& pump) { return &pump == &up ? down : up; }
  Conn& front_conn() { return context->conns.at(front); }
  Conn& back_conn() { return context->conns.at(back); }
  Conn& source(const Pump& pump) { return pump.down ? back_conn() : front_conn(); }
  Conn& sink(const Pump& pump) { return pump.down ? front_conn() : back_conn(); }
  // True at the agent: the data channel is in front of the service. At the edge it is behind the visitor.
  bool channel_in_front() const { return context->conns.at(front).role() == ConnRole::kDataChannel; }
  Conn& channel() { return channel_in_front() ? front_conn() : back_conn(); }
};
static_assert(sizeof(Pair) == 128, "a pair and its two conns are 256 bytes");

// A list of pairs through their prev/next indices.
struct PairList {
  static constexpr uint32_t kEnd = ~0u;
  uint32_t first = kEnd;
  uint32_t last = kEnd;
  uint32_t size = 0;
};

// PairTable: the pairs of one worker: slots, the sweep that looks at pairs in SPLICE and at pairs that wait to reset,
// and the state machine that reacts to what the pumps report.
class PairTable {
 public:
  // on_end(owner, pair): the pair is over; runs right before its slot is free, its conns already closed and
  // released (or handed over, when moving). reason, owner and tag are still there, and what its conns have counted.
  // on_unready(owner, pair): a pair marked in_ready is ending: take it out of the list of ready channels.
  // on_visitor_gone(owner, pair): edge, with chunks only: the visitor's socket is closed and released (what its conn
  // has counted is still there), and the pair goes on without it until its channel comes back or is lost (on_end).
  // False: do not wait for the channel.
  // may_keep_channel(owner, pair): agent, with chunks only: shall the pair's channel be kept when it is over?
  // on_end with kReturned: the data channel (front at the agent, back at the edge) is the callee's, with its slot.
  struct Events {
    void (*on_end)(void* owner, Pair& pair);
    void (*on_unready)(void* owner, Pair& pair);
    bool (*on_visitor_gone)(void* owner, Pair& pair) = nullptr;
    bool (*may_keep_channel)(void* owner, const Pair& pair) = nullptr;
  };
  PairTable(RelayContext& context, uint32_t capacity, const Events& events, void* owner);
  ~PairTable();
  PairTable(const PairTable&) = delete;
  PairTable& operator=(const PairTable&) = delete;

  // Starts a whole pair: both pumps begin to wait. nullptr: no slot.
  Pair* start(Conn& front, Conn& back, uint32_t owner, bool chunks = false);
  // A ready data channel: the down pump begins to wait, so its end is noticed and its first byte comes at no cost.
  Pair* start_waiting(Conn& back, uint32_t owner);
  // The visitor came. The caller has sent Start on the channel already: what the pair sends there is the visitor's.
  void attach_front(Pair& pair, Conn& front, bool chunks = false);
  // Ends a pair: both sides are closed. on_end follows, perhaps inside this call: the caller does not touch the pair
  // afterwards. A ready channel leaves its list first (on_unready).
  void end(Pair& pair, EndReason reason, Resets resets);
  // A waiting pair gives its back descriptor away: on_end with kMoved, fd in back_conn().fd is not closed.
  void move_out(Pair& pair);
  // Ends all: those that have a visitor are reset, and none waits any longer to reset.
  void end_all(EndReason reason);

  uint32_t live() const { return live_; }
  // Pairs that have a visitor, also those that wait to reset behind its last bytes.
  uint32_t with_visitor() const { return with_visitor_; }
  uint32_t index_of(const Pair& pair) const { return static_cast<uint32_t>(&pair - slots_); }
  Pair& at(uint32_t index) { return slots_[index]; }

  // Lists, used by the role's code for its ready channels.
  void push(PairList& list, Pair& pair);
  void remove(PairList& list, Pair& pair);

  // Called by the splice pump: the pair is in SPLICE and wants to be looked at.
  void watch_bulk(Pump& pump);
  static Pair& pair_of(Pump& pump);

 private:
  friend void teardown_begin(PairTable& table, Pair& pair);
  friend void teardown_step(PairTable& table, Pair& pair);
  friend bool teardown_visitor(PairTable& table, Pair& pair);
  static void on_op(Op& op);
  void on_patrol();
  void began_to_flow(Pair& pair);
  void patrol(Pair& pair);
  bool is_silent(const Conn& conn);
  bool sink_took_nothing(Pair& pair, const Pump& pump, uint32_t for_ms);
  bool needs_buffer_of_another(const Pump& pump) const;
  void reclaim_buffers();
  Pair* claim();
  void release(Pair& pair);
  void settle(Pair& pair, Pump& pump);
  void on_eof(Pair& pair, Pump& pump);
  bool tell_end(Pair& pair, Pump& pump);
  void on_end_sent(Pair& pair, Pump& pump);
  void end_told(Pair& pair, Pump& pump);
  void watch_later(Pair& pair, Pump& pump);
  void finish(Pair& pair);
  bool can_return(Pair& pair) const;
  void hand_back(Pair& pair);
  void on_returning(Pair& pair, Pump& pump);
  bool returns_in_time(Pair& pair);
  void wait_for_channel(Pair& pair);
  void on_source_reset(Pair& pair, Pump& pump);
  void on_sink_broken(Pair& pair, Pump& pump);
  void on_watch(Pair& pair, Pump& pump);
  void on_waiting(Pair& pair, Pump& pump);
  void enter_sweep(Pair& pair);
  void leave_sweep(Pair& pair);
  void sweep();
  bool begin_watch(Pair& pair, Pump& pump);
  void look_for_stall(Pair& pair, Pump& pump);
  uint64_t sweep_interval() const;
  void arm_sweep(uint64_t delay_ms);  // at the latest then

  RelayContext& context_;
  const Events events_;
  void* const owner_;
  Pair* slots_ = nullptr;
  uint32_t capacity_;
  uint32_t touched_ = 0;
  uint32_t free_ = PairList::kEnd;
  uint32_t live_ = 0;
  uint32_t with_visitor_ = 0;
  PairList sweep_list_;
  uint32_t sweep_next_ = PairList::kEnd;  // the running sweep's next pair: it may leave while another is looked at
  uint32_t resetting_ = 0;  // pairs in the sweep that want the short interval
  uint64_t stalls_looked_for_ms_ = 0;
  OwnedTimer<&PairTable::sweep> sweep_timer_{*this};
  OwnedTimer<&PairTable::on_patrol> patrol_timer_{*this};
};

}  // namespace natrp
