// edge/registration.h
//
// Registration: one agent at the edge: its control channel, who it is, its tunnels and its leases.
//
// Life     TLS ──Hello, Auth──▶ session (Welcome) ──Register──▶ tunnels live ──▶ lost: leases in grace, ports closed
//             its agent's Drain ──▶ leases in grace, ports closed ──nobody waits──▶ ended
// Thread   the control thread.
// Never    closes a pair: what flows when a session is lost flows on.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/pace.h"
#include "base/port_set.h"
#include "control/control_channel.h"
#include "control/registry.h"
#include "control/status_info.h"
#include "edge/edge_session.h"
#include "edge/public_port.h"
#include "store/store.h"

namespace natrp {

class Edge;

class Registration final : public ControlChannelEvents {
 public:
  // Its session has to be open by deadline_ms.
  Registration(Edge& edge, Fd fd, TlsStream tls, std::string_view prefix, uint64_t deadline_ms);
  ~Registration();

  const std::string& client() const { return client_.name; }
  int64_t client_id() const { return client_.id; }
  // The hash of the token that the agent has shown.
  const TokenHash& token_hash() const { return client_.token_hash; }
  // client: the same one, with the same token. Its limits hold from now on; what it has already stays.
  void set_client(const ClientRecord& client) { client_ = client; }
  // The port of a tunnel, if there is one that is not in ports.
  std::optional<uint16_t> port_outside(const PortSet& ports) const;
  size_t tunnels() const { return tunnels_.size(); }
  SlotId session() const { return session_ ? session_->id : SlotId{}; }
  SessionInfo info() const;
  uint64_t last_heard_ms() const { return channel_.last_heard_ms(); }
  bool closing() const { return channel_.closing(); }

  // Tells the agent and ends the session; its public ports close at once, and its tunnels are nobody's. final: the
  // agent must stop (exit 2).
  void refuse(wire::Refused::Code code, const std::string& message, bool final);
  // Ends the session with a Bye: the agent is welcome to come back.
  void close(const std::string& why);
  // Another session has the tunnel now. The agent is told, or its session ends when it has no other tunnel.
  void lose_tunnel(const std::string& name, Takeover how);
  // The edge is going to stop.
  void drain(uint32_t seconds, Backlog backlog);
  // If the agent is going to stop: ends the session when no visitor waits for its data channels. Its tunnels were given
  // up before.
  void end_if_drained();
  // Asks whether the agent lives: any answer moves last_heard_ms().
  void probe();
  // count visitors wait for channels: asked of the agent with the next adjust_demand().
  void want_channels(uint32_t count) { extra_ += count; }
  // Sends a new ChannelDemand when it changed.
  void adjust_demand();
  // With each Edge::on_tick: takes a sample of the visitors' rate, which the demand follows.
  void tick();

  void on_secure() override {}
  void on_frame(const wire::Frame& frame) override;
  void on_closed(const std::string& why, bool fatal) override;

 private:
  struct Tunnel {
    std::string name;
    uint32_t id = 0;
    uint16_t port = 0;
    int listener = -1;
    std::shared_ptr<TunnelStats> stats;
    uint32_t failures_untold = 0;  // visitors that its service did not get, not in the log yet
    std::string failure;
  };
  // A Register that waits to learn whether the tunnel's present holder lives.
  struct Contest {
    Timer timer;  // first: the handler finds its contest by a cast
    Registration* self = nullptr;
    wire::Register wanted;
    SlotId rival;           // the holder that was asked
    uint64_t began_ms = 0;  // when
    // Looks for its answer since then, kContestStepMs apart. By the clock alone, an edge that stood still would take
    // its own silence for the rival's: the answer may wait behind more than one turn takes.
    uint32_t looks = 0;
  };
  void on_hello(const wire::Hello& hello);
  void on_auth(const wire::Auth& auth);
  void on_service_failed(const wire::ServiceFailed& failed);
  // One line a second at most, about the tunnel with the most visitors untold.
  void tell_failures();
  void on_register(const wire::Register& wanted);
  void on_drain();
  void end_contests(const std::string& why);
  std::optional<uint32_t> index_of(const std::string& name) const;
  bool take_tunnel(const wire::Register& wanted, Contest* contest);
  bool may_have_port(const wire::Register& wanted);
  void hear_rival(Registration& rival, Contest* contest);
  bool await_rival(const wire::Register& wanted, Registration& rival, Contest* contest);
  void lease_tunnel(const wire::Register& wanted);
  void send_leased(uint32_t index, const Tunnel& tunnel);
  void tell_refusal(const std::string& tunnel, const std::string& sentence);
  // The agent and the log.
  void tell_and_refuse(const wire::Register& wanted, wire::Refused::Code code, const std::string& sentence, bool final);
  void refuse_wrong_tunnel(const wire::Register& wanted, wire::Refused::Code code, const std::string& sentence);
  void refuse_tunnel(uint32_t index, wire::Refused::Code code, const std::string& message, bool final);
  void end_contest(uint32_t index);
  void close_ports(Backlog backlog);
  void give_up_tunnels(Backlog backlog);
  uint32_t ready_wanted() const;
  void share_ready_max();
  static void on_contest(Timer& timer);
  void protocol_error(const std::string& what);

  Edge& edge_;
  const std::string peer_;  // the agent's address, as this host sees it
  ControlChannel channel_;
  ClientRecord client_;
  bool garbage_ = false;  // what it said before its session was not our protocol
  std::string software_;
  std::string instance_;
  bool agent_drains_ = false;
  bool chunks_ = false;  // its agent understands them (relay/chunks.h)
  std::shared_ptr<EdgeSession> session_;
  std::map<uint32_t, Tunnel> tunnels_;  // by the agent's index
  std::map<uint32_t, std::unique_ptr<Contest>> contests_;
  std::map<std::string, std::string> refusals_told_;  // by tunnel: the last refusal that is in the log
  uint32_t refusals_left_ = kTunnelsPerSessionMax;    // how many more lines about refusals this session may cause
  uint64_t visitors_before_ = 0;
  double visitors_per_tick_ = 0;
  uint32_t ready_told_ = 0;
  uint32_t extra_ = 0;
  uint32_t extra_told_ = 0;  // falls by a tenth each tick
  uint64_t failures_ = 0;  // visitors that its services did not get, as the agent says
  Pace failures_pace_{kLogPaceMs};  // an agent reports as often as it likes
};

}  // namespace natrp
