// agent/channel_opener.h
//
// ChannelOpener: in one worker of the agent, keeps data channels ready for the edge and turns each into a pair when
// its visitor comes.
//
// Life of a channel   dialling the edge ─▶ showing its ticket ─▶ ready ──Start──▶ dialling the service ─▶ Pair
//                                                                  ▲                                       │
//                                                                  └── take_back(): it carried a short visitor
//                     ready ──Start, and the service's address is not known yet──▶ awaiting it ─▶ dialling the service
//                     every failure: closed (with a RST once a visitor is on it), and counted
//                     ready ──its session ends in peace──▶ parting ──Start that was on its way──▶ dialling the service
//                                                          parting ──the edge closes it, or kPartingMs──▶ closed
// Thread   its worker's.
// Memory   one record per channel that is not yet a pair, from a pool.
// Never    reads past the 64 bytes of Start.
#pragma once

#include <array>
#include <functional>
#include <memory>

#include "agent/agent_session.h"
#include "base/limits.h"
#include "base/record_pool.h"
#include "loop/owned.h"
#include "net/dialer.h"
#include "runtime/worker.h"

namespace natrp {

// Instead of an errno: the name of the service has no address (yet).
inline constexpr int kServiceUnresolved = -1;

// What a worker tells the agent's control thread. Called from workers; implementations post letters.
class AgentControlPort {
 public:
  // A visitor of the tunnel was reset because the service could not be reached. error: errno, or kServiceUnresolved.
  virtual void service_failed(uint32_t tunnel_index, int error) = 0;
  // No data channel came of a dial of the edge. error: errno.
  virtual void dial_failed(int error) = 0;

 protected:
  ~AgentControlPort() = default;
};

class ChannelOpener {
 public:
  // on_nobody_comes runs when visitors_coming() falls to 0, in this thread; until the end.
  ChannelOpener(Worker& worker, AgentControlPort& control, std::function<void()> on_nobody_comes);
  ~ChannelOpener();
  ChannelOpener(const ChannelOpener&) = delete;
  ChannelOpener& operator=(const ChannelOpener&) = delete;

  void open_session(std::shared_ptr<AgentSession> session, std::shared_ptr<const ServiceAddresses> services);
  // What becomes of ready channels when their session ends. Dials end, and pairs flow on.
  enum class Ready : uint8_t {
    kEnd,   // the session is lost
    kPart,  // the edge lives, and closes those that it has given to nobody. A Start may be on its way in the others
  };
  void close_session(Ready ready);
  // With a session or without one.
  void set_services(std::shared_ptr<const ServiceAddresses> services);
  // Hold `ready` unused channels from now on, and dial `extra` at once, for visitors that wait at the edge.
  void demand(uint32_t ready, uint32_t extra);
  // Whether a data channel that is free again shall stay. tag: of its session, in Pair::tag.
  bool wants_back(uint8_t tag) const;
  // conn: a data channel that carried a visitor and is free again; owned here. The edge has been told.
  void take_back(Conn& conn, uint8_t tag);
  // Channels with a visitor, or whose Start may be on its way: they are no pairs yet, and a drain waits for them.
  uint32_t visitors_coming() const { return with_visitor_ + parting_; }

 private:
  enum class State : uint8_t { kDiallingEdge, kReady, kParting, kAwaitingAddress, kDiallingService };
  struct Channel {
    explicit Channel(ChannelOpener& its)
        : self(&its), dial(std::make_unique<Dial>(its.worker_.loop(), on_dialled, this)) {
      op.handler = on_op;
    }
    Op op;  // first: handlers find the channel by a cast
    ListLink pool_link;
    ChannelOpener* const self;
    const std::unique_ptr<Dial> dial;
    std::shared_ptr<AgentSession> session;
    Conn* conn = nullptr;
    uint32_t got = 0;
    uint32_t tunnel_index = 0;
    bool chunks = false;
    bool carried = false;  // a visitor before
    State state = State::kDiallingEdge;
    bool has_visitor() const { return state == State::kAwaitingAddress || state == State::kDiallingService; }
    std::array<uint8_t, kStartBytes> bytes{};
  };
  static_assert(kStartBytes == kHelloBytes, "one array holds the ticket, then the Start");

  static void on_dialled(void* channel, int fd, int error);
  static void on_op(Op& op);
  uint32_t at_hand() const { return unused_ + to_dial_ - held_up_; }
  void no_longer_unused(const Channel& channel);
  void no_longer_ready(const Channel& channel);
  void part(Channel& channel);
  void end_parting();
  void dial_extra(uint32_t count);
  void dial_some();
  void dial_one();
  void dial_up_to(uint32_t count);
  void refill();
  void hold_back();
  void hold_back_no_longer();
  void top_up();
  void on_edge_dialled(Channel& channel, int fd, int error);
  void tell_failed_dial(int error);
  void receive_start(Channel& channel);
  void on_start(Channel& channel);
  void dial_service(Channel& channel);
  void on_service_dialled(Channel& channel, int fd, int error);
  void fail_service(Channel& channel, int error);
  void drop(Channel& channel);  // with a reset, or with a FIN behind what it carried
  void free_channel(Channel& channel);

  Worker& worker_;
  AgentControlPort& control_;
  std::shared_ptr<AgentSession> session_;
  std::shared_ptr<const ServiceAddresses> services_;
  RecordPool<Channel, &Channel::pool_link> channels_{kRecordsKept};
  uint32_t ready_wanted_ = 0;
  uint32_t refill_pause_ms_ = 0;  // the next one
  uint32_t to_dial_ = 0;    // extra ones, in the next turns
  bool dials_next_turn_ = false;
  uint32_t unused_ = 0;     // channels that no visitor has yet: dialling the edge, ready
  uint32_t unused_carried_ = 0;  // how many of unused_ came back from a visitor
  // How many of unused_ were not ready at the edge when it last had no ready channel: the bytes that they carried
  // waited there for a visitor that reads slowly or not at all, and FREE behind them. It may be too many, since some
  // may have become ready meanwhile.
  uint32_t held_up_ = 0;
  uint32_t with_visitor_ = 0;
  uint32_t parting_ = 0;
  uint32_t returned_ = 0;   // channels that came back since top_up_timer_ was armed
  uint8_t session_tag_ = 0; // changes with the session
  bool ended_in_peace_ = false;  // the last session did: its channels that come back part, too
  bool ending_ = false;     // no pair begins any more
  std::function<void()> on_nobody_comes_;
  OwnedTimer<&ChannelOpener::refill> refill_timer_{*this};
  OwnedTimer<&ChannelOpener::top_up> top_up_timer_{*this};
  OwnedTimer<&ChannelOpener::end_parting> parting_timer_{*this};
};

}  // namespace natrp
