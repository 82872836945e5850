// runtime/options.h
//
// What an operator may say to each program, read and checked. Flags override the environment, the environment
// overrides the file, the file overrides the defaults.
//
// Thread   read by main before there are others, never changed afterwards.
// Never    starts anything, makes a file or asks the network.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/join_token.h"
#include "base/log.h"
#include "base/port_set.h"
#include "loop/loop.h"
#include "net/address.h"
#include "relay/pump_kind.h"

namespace natrp {

// Both daemons.
struct EngineOptions {
  unsigned workers = 1;  // parse: the CPUs this process may use
  IoKind io = IoKind::kAuto;
  PumpKind pump = PumpKind::kAuto;
  unsigned pipes_max = 0;  // per worker; 0: computed from the kernel's budget
  bool brief_wait = true;
  unsigned drain_seconds = 30;
  LogLevel log_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kText;
  std::optional<Address> admin;  // nullopt: off
};

struct EdgeOptions : EngineOptions {
  Address bind;                // port 0: the kernel chooses
  Address public_bind;         // its port means nothing: with_port() gives a public port's address
  std::string public_address;  // a host, without brackets; empty: the host that the agent dialled
  std::string state_dir;
  PortSet ports;
  unsigned grace_seconds = 60;
  bool natrp_grpc = false;
};

struct TunnelOptions {
  std::string name = "default";
  std::string local;         // "HOST:PORT" or "unix:PATH"; parse_target() accepts it
  uint16_t remote_port = 0;  // 0: any
};

struct AgentOptions : EngineOptions {
  HostPort server;
  std::string server_text;  // as the operator wrote it
  JoinToken token{};       // a secret: not for any log
  std::string secret_file;  // where it was read; empty: no file
  std::optional<Pin> pin;  // instead of the token's
  std::string ca_file;     // empty: verify by pin. Readable, holds a PEM certificate
  bool on_conflict_replace = false;
  bool on_refusal_retry = false;
  std::vector<TunnelOptions> tunnels;  // at least one, each name once
};

enum class CtlAction : uint8_t { kClientAdd, kClientSet, kClientList, kClientRemove, kTokenRotate, kSessionList };

struct CtlOptions {
  CtlAction action = CtlAction::kClientList;
  std::string state_dir;
  std::string name;  // of the client
  // As the store has them; nullopt: not given.
  std::optional<std::string> ports;     // PortSet text; empty: any of the edge's
  std::optional<uint32_t> tunnels_max;  // 0: no limit
  std::optional<uint32_t> conns_max;    // 0: no limit
  bool plain_token = false;
  Address admin;  // of the edge's admin server
};

// The program ends here: --help, --version and --check with 0, a mistake with 2.
struct ParseEnd {
  int exit_code = 0;
  std::string text;
  // Prints text, on standard error when it is about a mistake. Gives the exit code.
  int say() const;
};

template <typename Options>
struct ParseOutcome {
  bool run = false;      // true: options hold. False: end does
  bool checked = false;  // by --check, and nothing wrong was found here: both hold
  ParseEnd end;
  Options options;
};

ParseOutcome<EdgeOptions> parse_edge_options(int argc, const char* const* argv);
// Also reads the environment's NATRP_TOKEN: a token there is not shown by ps.
ParseOutcome<AgentOptions> parse_agent_options(int argc, const char* const* argv);
ParseOutcome<CtlOptions> parse_ctl_options(int argc, const char* const* argv);

// /var/lib/natrp-engine for root, else $XDG_STATE_HOME/natrp-engine, else ~/.local/state/natrp-engine.
std::string default_state_dir();
// The CPUs that this process may run on, 1 to kWorkersMax.
unsigned default_workers();

}  // namespace natrp
