#include "runtime/options.h"
#include "runtime/options_engine.h"
#include "runtime/options_flags.h"
#include "runtime/options_toml.h"

namespace natrp {
namespace {

constexpr const char* kDefaultBind = "0.0.0.0:10022";
constexpr const char* kDefaultPorts = "20000-29999";

// An IP address without a port, IPv6 with or without brackets.
Result<Address> parse_ip(const std::string& text) {
  const bool bare_v6 = text.find(':') != std::string::npos && text.front() != '[';
  auto address = Address::parse((bare_v6 ? "[" + text + "]" : text) + ":0");
  if (!address.ok())
    return Error{"'" + text + "' is not an IP address: write one like 0.0.0.0 or ::1, without a port"};
  return address;
}

Result<std::string> parse_public_address(std::string text) {
  if (text.size() > 2 && text.front() == '[' && text.back() == ']') text = text.substr(1, text.size() - 2);
  const std::string rule = ": write a host name or an IP address, without a port";
  if (text.empty()) return Error{"the public address is empty" + rule};
  if (text.size() > kHostBytesMax) {
    return Error{"the public address has " + std::to_string(text.size()) + " characters: a host name has at most " +
                 std::to_string(kHostBytesMax)};
  }
  const bool v6 = parse_ip(text).ok() && text.find(':') != std::string::npos;
  for (const char c : text) {
    const bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '.' || c == '-' || c == '_' || (v6 && c == ':');
    if (!good) return Error{"'" + text + "' is not a host" + rule};
  }
  return text;
}

template <typename T>
Status set_parsed(T& to, Result<T> parsed) {
  if (!parsed.ok()) return parsed.error();
  to = std::move(parsed).value();
  return Done{};
}

// The edge's own ports are no public ones: an agent would be told that another process has them.
Status settle_ports(EdgeOptions& options) {
  const bool admin_listens = options.admin && options.admin->port() != 0;
  if (admin_listens && overlap(*options.admin, options.bind)) {
    return Error{"--admin " + options.admin->text() + " is in the way of --bind " + options.bind.text() +
                 ": choose another port"};
  }
  for (const Address& own : {options.bind, options.admin.value_or(options.bind)}) {
    if (own.port() == 0 || !overlap(own, options.public_bind.with_port(own.port()))) continue;
    options.ports = options.ports.without(PortSet::parse(std::to_string(own.port())).value());
  }
  if (options.ports.empty()) {
    return Error{"--ports has no other port than those of --bind and --admin: give it some that agents may have"};
  }
  return Done{};
}

struct EdgeDraft {
  EdgeOptions options;
  bool public_bind_given = false;
};

OptionTable edge_table(EdgeDraft& draft) {
  EdgeOptions& options = draft.options;
  OptionTable table;
  table.text("bind", "ADDR:PORT", kDefaultBind,
             "Where agents connect: their sessions and their data channels.",
             [&](const std::string& text) { return set_parsed(options.bind, Address::parse(text)); });
  table.text("public-bind", "ADDR", "the address of --bind", "The address that public ports listen on.",
             [&](const std::string& text) {
               draft.public_bind_given = true;
               return set_parsed(options.public_bind, parse_ip(text));
             });
  table.text("public-address", "HOST", "the host that the agent dialled",
             "The host that agents print as theirs.", [&](const std::string& text) {
               return set_parsed(options.public_address, parse_public_address(text));
             });
  table.text("ports", "PORTS", kDefaultPorts,
             "The public ports that agents may have, like 20000-29999,443; not those of --bind and --admin.",
             [&](const std::string& text) { return set_parsed(options.ports, PortSet::parse(text)); });
  add_state_option(table, options.state_dir);
  table.integer("grace-seconds", 0, 86400, "60",
                "How long a public port is kept for its client after its session is lost.",
                [&](int64_t n) { options.grace_seconds = static_cast<unsigned>(n); });
  add_engine_options(table, options);
  table
      .on_off(
          "natrp-grpc", "off",
          "Also serve agents of the original natrp (gRPC without encryption: tokens and bytes in the clear). "
          "In the file: natrp_grpc = true below [compat].",
          [&](bool on) { options.natrp_grpc = on; })
      .section = "compat";
  return table;
}

const ProgramText kProgram{
    "natrp-engine",
    "The edge: leases public ports to agents and carries each visitor of a port to the service behind its "
    "agent.",
    "With no flags at all it serves. `natrpctl client add NAME` makes the token that an agent needs."};

}  // namespace

ParseOutcome<EdgeOptions> parse_edge_options(int argc, const char* const* argv) {
  EdgeDraft draft;
  draft.options.bind = Address::parse(kDefaultBind).value();
  draft.options.ports = PortSet::parse(kDefaultPorts).value();
  const OptionTable table = edge_table(draft);
  return parse_daemon(kProgram, table, words_of(argc, argv), draft.options, [&](const Flags& flags) -> Status {
    if (!flags.config.empty()) {
      if (Status status = read_toml(flags.config, table, nullptr); !status.ok()) return status;
    }
    if (Status status = apply_flags(flags); !status.ok()) return status;
    if (!draft.public_bind_given) draft.options.public_bind = draft.options.bind.with_port(0);
    return settle_ports(draft.options);
  });
}

}  // namespace natrp
