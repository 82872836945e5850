#include <algorithm>
#include <cstdlib>

#include "base/join_token.h"
#include "base/limits.h"
#include "base/names.h"
#include "runtime/options.h"
#include "runtime/options_engine.h"
#include "runtime/options_flags.h"
#include "runtime/options_toml.h"

namespace natrp {
namespace {

// What one source (the file, the environment, the flags) says about who we are and who the edge is. A later
// source replaces an earlier one as a whole: a --token-file is not in conflict with the file's token. Files are
// read when the last source has spoken, and only those that won: a flag wins over a file that cannot be read.
struct Credentials {
  std::optional<JoinToken> token;
  std::string token_file;
  std::string secret_file;  // that holds the token: token_file, or the configuration; empty: none does
  std::optional<Pin> pin;
  std::string ca_file;
};

struct AgentDraft {
  AgentOptions options;
  Credentials credentials;    // of the source that is being read
  Credentials taken;          // what holds so far, by the sources before it
  TunnelOptions tunnel;       // the [[tunnel]] that is being read, or the flags'
  bool tunnel_flags = false;  // --name or --remote-port was given
};

Status set_token(std::optional<JoinToken>& to, const std::string& text) {
  const auto token = parse_join_token(text);
  if (!token.ok()) return token.error();
  to = token.value();
  return Done{};
}

// What the source says about the token and about verification holds from now on. config: the file that it is; empty: it
// is the flags.
Status take_credentials(AgentDraft& draft, const std::string& config) {
  const std::string source = config.empty() ? "the flags" : "the keys of " + config;
  Credentials given = std::move(draft.credentials);
  draft.credentials = {};
  if (given.token && !given.token_file.empty()) {
    return Error{source + " give both a token and a token file: leave one of them away"};
  }
  if (given.pin && !given.ca_file.empty()) {
    return Error{source +
                 " give both a pin and a CA file: the edge is verified by one of them, leave one away"};
  }
  Credentials& taken = draft.taken;
  if (given.token || !given.token_file.empty()) {
    taken.token = given.token;
    taken.token_file = std::move(given.token_file);
    taken.secret_file = taken.token_file.empty() ? config : taken.token_file;
  }
  if (given.pin || !given.ca_file.empty()) {
    taken.pin = given.pin;
    taken.ca_file = std::move(given.ca_file);
  }
  return Done{};
}

Status read_credentials(AgentDraft& draft) {
  Credentials& taken = draft.taken;
  if (!taken.token_file.empty()) {
    const auto text = read_small_file("the token file", taken.token_file);
    if (!text.ok()) return text.error();
    if (Status status = set_token(taken.token, text.value()); !status.ok()) {
      return Error{"the token file " + taken.token_file + ": " + status.error().message};
    }
  }
  if (!taken.ca_file.empty()) {
    const auto text = read_small_file("the CA file", taken.ca_file);
    if (!text.ok()) return text.error();
    if (text.value().find("-----BEGIN CERTIFICATE-----") == std::string::npos) {
      return Error{"the CA file " + taken.ca_file + " holds no certificate: it has to be in PEM form"};
    }
  }
  if (taken.token) draft.options.token = *taken.token;
  draft.options.secret_file = taken.secret_file;
  draft.options.pin = taken.pin;
  draft.options.ca_file = taken.ca_file;
  return Done{};
}

// The keys of a [[tunnel]] and the flags of a single tunnel are the same three.
void add_tunnel_options(OptionTable& table, AgentDraft& draft, bool in_file) {
  TunnelOptions& tunnel = draft.tunnel;
  table
      .text("local", "HOST:PORT|unix:PATH", "", "The service to expose.",
            [&](const std::string& text) -> Status {
              if (auto target = parse_target(text); !target.ok()) {
                const bool unix_meant = text.rfind("unix:", 0) == 0;
                return Error{target.error().message + (unix_meant ? "" : "; a unix socket is unix:PATH")};
              }
              tunnel.local = text;
              return Done{};
            })
      .in_file = in_file;
  table
      .integer("remote-port", 1, 65535, "any", "The public port to ask for.",
               [&](int64_t n) {
                 tunnel.remote_port = static_cast<uint16_t>(n);
                 draft.tunnel_flags = true;
               })
      .in_file = in_file;
  table
      .text("name", "NAME", "default", "The tunnel's name: the same name gets its last port back.",
            [&](const std::string& text) -> Status {
              draft.tunnel_flags = true;
              tunnel.name = text;
              return check_name("tunnel", text);
            })
      .in_file = in_file;
}

OptionTable agent_table(AgentDraft& draft) {
  AgentOptions& options = draft.options;
  Credentials& credentials = draft.credentials;
  OptionTable table;
  table.text("server", "HOST:PORT", "", "The edge.", [&](const std::string& text) -> Status {
    auto parsed = parse_host_port(text);
    if (!parsed.ok()) return parsed.error();
    if (parsed.value().port == 0)
      return Error{"'" + text + "': port 0 cannot be dialled, an edge listens on 10022"};
    options.server = std::move(parsed).value();
    options.server_text = text;
    return Done{};
  });
  table.text("token", "TOKEN", "",
             "The client's join token. Other users see it in ps: prefer --token-file or the "
             "environment's NATRP_TOKEN.",
             [&](const std::string& text) { return set_token(credentials.token, text); });
  table.text("token-file", "FILE", "", "A file that holds the token.",
             [&](const std::string& text) -> Status {
               if (text.empty()) return Error{"the name of the token file is empty: name a file"};
               credentials.token_file = text;
               return Done{};
             });
  add_tunnel_options(table, draft, false);
  table.text("pin", "sha256:HEX", "the pin inside the token", "The edge's key, by its SHA-256.",
             [&](const std::string& text) -> Status {
               auto pin = parse_pin(text);
               if (!pin.ok()) return pin.error();
               credentials.pin = pin.value();
               return Done{};
             });
  table.text("ca", "FILE", "",
             "Verify the edge by this authority (PEM) and its host name, instead of by a pin.",
             [&](const std::string& text) -> Status {
               if (text.empty()) return Error{"the name of the CA file is empty: name a file"};
               credentials.ca_file = text;
               return Done{};
             });
  table.choice("on-conflict", {"refuse", "replace"}, "refuse",
               "When another living agent holds the tunnel: be refused, or take it over.",
               [&](size_t i) { options.on_conflict_replace = i == 1; });
  table.choice("on-refusal", {"exit", "retry"}, "exit",
               "When the edge refuses this agent for good, or is not who it should be: end, or go on trying.",
               [&](size_t i) { options.on_refusal_retry = i == 1; });
  add_engine_options(table, options);
  return table;
}

TomlList tunnel_list(AgentDraft& draft) {
  TomlList list;
  list.key = "tunnel";
  list.begin_element = [&draft] {
    draft.tunnel = {};
    OptionTable keys;
    add_tunnel_options(keys, draft, true);
    return keys;
  };
  list.end_element = [&draft]() -> Status {
    const TunnelOptions& tunnel = draft.tunnel;
    auto& tunnels = draft.options.tunnels;
    if (tunnels.size() == kTunnelsPerSessionMax) {
      return Error{"one [[tunnel]] too many: expected at most " + std::to_string(kTunnelsPerSessionMax) +
                   ", which is what one agent's session carries; give the others to a second agent"};
    }
    if (tunnel.local.empty()) return Error{"tunnel '" + tunnel.name + "' has no 'local': name its service"};
    const bool twice = std::any_of(tunnels.begin(), tunnels.end(),
                                   [&](const TunnelOptions& other) { return other.name == tunnel.name; });
    if (twice) return Error{"a second tunnel is named '" + tunnel.name + "': give each a name of its own"};
    const auto rival = std::find_if(tunnels.begin(), tunnels.end(), [&](const TunnelOptions& other) {
      return tunnel.remote_port != 0 && other.remote_port == tunnel.remote_port;
    });
    if (rival != tunnels.end()) {
      return Error{"tunnels '" + rival->name + "' and '" + tunnel.name + "' both ask for remote_port " +
                   std::to_string(tunnel.remote_port) + ": give each a port of its own, or none"};
    }
    tunnels.push_back(tunnel);
    return Done{};
  };
  return list;
}

// -local=, -server= and -token= of the original client; CLI11 would read them as -l, -o, …
std::vector<std::string> with_double_dashes(std::vector<std::string> words) {
  for (std::string& word : words) {
    const std::string flag = word.substr(0, word.find('='));
    if (flag == "-local" || flag == "-server" || flag == "-token") word.insert(0, "-");
  }
  return words;
}

Status read_agent(AgentDraft& draft, const OptionTable& table, const Flags& flags) {
  if (!flags.config.empty()) {
    const TomlList list = tunnel_list(draft);
    if (Status status = read_toml(flags.config, table, &list); !status.ok()) return status;
    if (Status status = take_credentials(draft, flags.config); !status.ok()) return status;
  }
  draft.tunnel = {};
  draft.tunnel_flags = false;
  if (Status status = apply_flags(flags); !status.ok()) return status;
  const bool by_flag = draft.credentials.token || !draft.credentials.token_file.empty();
  const char* token = std::getenv("NATRP_TOKEN");
  if (!by_flag && token != nullptr && token[0] != '\0') {
    if (Status status = set_token(draft.taken.token, token); !status.ok()) {
      return Error{"the environment's NATRP_TOKEN: " + status.error().message};
    }
    draft.taken.token_file.clear();
    draft.taken.secret_file.clear();
  }
  if (Status status = take_credentials(draft, {}); !status.ok()) return status;
  if (Status status = read_credentials(draft); !status.ok()) return status;

  AgentOptions& options = draft.options;
  if (!draft.tunnel.local.empty()) {
    options.tunnels = {draft.tunnel};
  } else if (draft.tunnel_flags && !options.tunnels.empty()) {
    return Error{"--name and --remote-port need --local: the tunnels of the file have their own"};
  }
  if (options.server_text.empty()) return Error{"no edge is named: give it with --server HOST:PORT"};
  if (!draft.taken.token) {
    return Error{
        "there is no token: give one with --token-file FILE, --token or the environment's NATRP_TOKEN; "
        "`natrpctl client add NAME` on the edge makes one"};
  }
  if (options.on_conflict_replace && options.on_refusal_retry) {
    return Error{"--on-conflict replace and --on-refusal retry do not go together: two such agents would take the "
                 "tunnel from each other for ever"};
  }
  if (options.tunnels.empty()) {
    return Error{"there is no service to expose: name one with --local HOST:PORT or --local unix:PATH"};
  }
  return Done{};
}

const ProgramText kProgram{
    "natrp", "The agent: exposes a service behind NAT at a public port of an edge.",
    "Prints `public address: HOST:PORT` for each tunnel on standard output. Several tunnels: [[tunnel]] in the\n"
    "configuration file, each with name, local and remote_port; --local replaces them all.\n"
    "NATRP_TOKEN in the environment is a token too; a flag overrides it, and it overrides the file.\n"
    "-local=, -server= and -token= are accepted as the original natrp wrote them."};

}  // namespace

ParseOutcome<AgentOptions> parse_agent_options(int argc, const char* const* argv) {
  AgentDraft draft;
  const OptionTable table = agent_table(draft);
  return parse_daemon(kProgram, table, with_double_dashes(words_of(argc, argv)), draft.options,
                      [&](const Flags& flags) { return read_agent(draft, table, flags); });
}

}  // namespace natrp
