// agent/agent.h
//
// Agent: the side behind NAT. Its code is the control thread (the process's main thread): it stays connected to the
// edge, registers its tunnels, and tells its workers how many data channels to hold.
//
// Life     resolving ─▶ dialling ─▶ TLS, Hello, Auth ─▶ session ──lost──▶ back-off ─▶ resolving …
//          SIGTERM ─▶ draining: Drain ──Bye─▶ no session, what flows ─▶ exit 0.   A final refusal ─▶ the same, exit 2
// Thread   the control thread, but for AgentControlPort, which posts letters to it.
// Never    gives up on network faults (or, when told so, refusals); never talks to an edge that it has not verified.
#pragma once

#include <unistd.h>

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/agent_worker.h"
#include "agent/backoff.h"
#include "agent/service_names.h"
#include "base/line_out.h"
#include "base/pace.h"
#include "control/control_channel.h"
#include "control/status_info.h"
#include "loop/owned.h"
#include "net/dialer.h"
#include "net/resolver.h"
#include "runtime/crew.h"
#include "runtime/options.h"
#include "runtime/process.h"
#include "runtime/start_trim.h"

namespace natrp {

class Agent final : public AgentControlPort, private ControlChannelEvents {
 public:
  explicit Agent(AgentOptions options);
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  Status start();
  // Serves until SIGTERM or a final refusal. The process's exit code.
  int run();

  // For the admin server; any thread, from start() on.
  std::vector<const Counters*> counters() const;
  const ConnTable& conns() const { return crew_.conns(); }
  bool has_session() const { return has_session_.load(std::memory_order_relaxed); }
  // Asks the control thread; nullopt when it does not answer within two seconds, or when it is over.
  std::optional<AgentStatus> status(const std::atomic<bool>& over);

  // From workers, any thread.
  void service_failed(uint32_t tunnel_index, int error) override;
  void dial_failed(int error) override;

 private:
  struct Failures {
    uint32_t count = 0;
    int error = 0;
  };
  // What the edge has said of a tunnel.
  struct Leasing {
    std::string public_address{};      // empty: it has none
    std::string refusal{};             // why, as the log has it
    std::string to_print{};            // the line with it, until standard output has taken it
    uint64_t again_ms = 0;             // refused for now: when to ask again. 0: no need
    bool given_up = false;             // refused for good
    bool had = false;                  // this process has had its tunnel
    uint16_t port = 0;                 // … with this port, last
  };

  void connect();
  void dial(std::vector<Address> addresses);
  static void on_dialled(void* agent, int fd, int error);
  void on_connected(int fd);
  void on_secure() override;
  void on_frame(const wire::Frame& frame) override;
  void on_closed(const std::string& why, bool fatal) override;
  void on_welcome(const wire::Welcome& welcome);
  void on_leased(const wire::Leased& leased);
  bool is_the_end(const wire::Refused& refused) const;
  void on_refused(const wire::Refused& refused);
  bool print(Leasing& leasing);
  void on_tunnel_refused(const wire::TunnelRefused& refused);
  void on_demand(const wire::ChannelDemand& demand);
  void register_tunnel(uint32_t index);
  void end_session();
  void retry(Backoff::Cause cause, const std::string& why, bool had_session = false);
  // For good: what flows may finish, then the process ends with this code.
  void stop(int exit_code, const std::string& why);
  void on_signal(int signal);
  void drain();
  void leave();
  void report_failures();
  void report_dials();
  void share_services();
  void on_tick();
  void on_edge_silent();

  AgentOptions options_;
  std::optional<TrustedCa> ca_;  // of --ca
  std::array<uint8_t, 16> instance_{};
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Mailbox> mailbox_;
  std::unique_ptr<Resolver> edge_resolver_;  // of its own: a service's name that takes long must not keep the edge away
  std::unique_ptr<ServiceNames> service_names_;
  Crew<AgentWorker> crew_;
  std::unique_ptr<SignalWatch> signals_;
  std::unique_ptr<Dial> dial_;
  std::unique_ptr<ControlChannel> channel_;
  std::shared_ptr<AgentSession> session_;
  std::vector<Address> edge_addresses_;
  std::string client_;             // who we are, as the edge has it; of the last session
  std::vector<Leasing> leasings_;  // of options_.tunnels
  LineOut standard_output_{STDOUT_FILENO};
  std::map<uint32_t, Failures> failures_;
  Failures dials_;  // of the edge, for data channels; not in the log yet
  Pace dials_pace_{kLogPaceMs};
  OwnedTimer<&Agent::connect> retry_timer_{*this};
  OwnedTimer<&Agent::on_tick> tick_timer_{*this};
  OwnedTimer<&Agent::on_edge_silent> drain_timer_{*this};  // until no visitor waits at the edge for our channels
  std::optional<StartTrim> start_trim_;
  Backoff backoff_;
  uint64_t session_since_ms_ = 0;
  unsigned next_worker_ = 0;
  std::atomic<bool> has_session_{false};
  bool edge_drains_ = false;
  bool draining_ = false;
  bool told_to_stop_ = false;  // by a signal
  bool stopped_ = false;
  int exit_code_ = 0;
  uint64_t drain_deadline_ms_ = 0;
  unsigned workers_flowing_ = 0;
};

}  // namespace natrp
