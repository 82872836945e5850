#include <CLI/CLI.hpp>
#include <algorithm>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "base/names.h"
#include "runtime/options.h"
#include "runtime/options_engine.h"
#include "runtime/options_flags.h"

namespace natrp {
namespace {

constexpr const char* kName = "natrpctl";
constexpr const char* kFooter =
    "client add NAME [--ports PORTS] [--tunnels-max N] [--conns-max N] [--plain-token]\n"
    "client set NAME [--ports PORTS] [--tunnels-max N] [--conns-max N]\n"
    "client list\n"
    "client remove NAME\n"
    "token rotate NAME [--plain-token]\n"
    "session list [--admin ADDR:PORT]\n\n"
    "Works beside a running edge, which honours a change at once, and beside a stopped one; session list asks the\n"
    "admin server of a running edge.\n"
    "A token is printed once: the edge keeps only its SHA-256.\n"
    "--ports any is all ports of the edge; 0 of --tunnels-max and --conns-max is no limit.";
// No set of ports looks like it, and `client list` prints it.
constexpr std::string_view kAnyPort = "any";

// What a client may have. fallbacks: of a new one; where one is changed, what is not given stays as it is.
OptionTable policy_table(CtlOptions& options, bool fallbacks) {
  const auto fallback = [fallbacks](const char* text) { return fallbacks ? text : "as it is"; };
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  OptionTable table;
  table.text("ports", "PORTS", fallback("any"),
             "The public ports the client may have, like 20000-20099,443; any: all of the edge's.",
             [&](const std::string& text) -> Status {
               if (text == kAnyPort) {
                 options.ports = "";
                 return Done{};
               }
               const auto ports = PortSet::parse(text);
               if (!ports.ok()) return ports.error();
               options.ports = ports.value().format();
               return Done{};
             });
  table.integer("tunnels-max", 0, kMost, fallback("0"), "The most tunnels at once; 0 is no limit.",
                [&](int64_t n) { options.tunnels_max = static_cast<uint32_t>(n); });
  table.integer("conns-max", 0, kMost, fallback("0"), "The most visitors at once; 0 is no limit.",
                [&](int64_t n) { options.conns_max = static_cast<uint32_t>(n); });
  return table;
}

void add_admin_option(OptionTable& table, CtlOptions& options) {
  constexpr const char* kUsual = "127.0.0.1:9022";  // in packaging/engine.toml
  options.admin = Address::parse(kUsual).value();
  table.text("admin", "ADDR:PORT", kUsual, "Where the edge has its admin server: its own --admin.",
             [&](const std::string& text) -> Status {
               auto address = Address::parse(text);
               if (!address.ok()) return address.error();
               options.admin = address.value();
               return Done{};
             });
}

struct Commands {
  CLI::App* add;
  CLI::App* set;
  CLI::App* list;
  CLI::App* remove;
  CLI::App* rotate;
  CLI::App* sessions;

  std::optional<CtlAction> given() const {
    if (add->parsed()) return CtlAction::kClientAdd;
    if (set->parsed()) return CtlAction::kClientSet;
    if (list->parsed()) return CtlAction::kClientList;
    if (remove->parsed()) return CtlAction::kClientRemove;
    if (rotate->parsed()) return CtlAction::kTokenRotate;
    if (sessions->parsed()) return CtlAction::kSessionList;
    return std::nullopt;
  }
};

Commands add_commands(CLI::App& app, CtlOptions& options) {
  CLI::App* client = app.add_subcommand("client", "Add, change, list and remove clients.");
  CLI::App* token = app.add_subcommand("token", "Tokens of clients.");
  CLI::App* session = app.add_subcommand("session", "The live sessions of agents.");
  const Commands commands{
      .add = client->add_subcommand("add", "Add a client and print its join token, as the last word."),
      .set = client->add_subcommand("set", "Change what a client may have; its token stays as it is."),
      .list = client->add_subcommand("list", "Show all clients, what they may have and the ports they had last."),
      .remove = client->add_subcommand("remove", "Remove a client: its sessions end, its ports close."),
      .rotate = token->add_subcommand("rotate", "Print a token that replaces the client's, as the last word."),
      .sessions = session->add_subcommand("list", "Show who is connected, with each tunnel's port and bytes."),
  };
  const auto& [add, set, list, remove, rotate, sessions] = commands;
  for (CLI::App* command : {client, add, set, list, remove, token, rotate, session, sessions}) command->fallthrough();
  for (CLI::App* command : {add, set, remove, rotate}) {
    command->add_option("NAME", options.name, "The client's name.")->required();
  }
  return commands;
}

// What CLI11 says of words that fit nothing, and of what is missing; a sentence of ours where it does not help.
std::string sentence_for(std::string said, const OptionTable& table) {
  std::replace(said.begin(), said.end(), '\n', ' ');
  const std::string stray = "not expected: ";
  if (const size_t at = said.find(stray); at != std::string::npos) {
    const std::string word = said.substr(at + stray.size());
    return unexpected_word(kName, table, word.substr(0, word.find(' ')));
  }
  return said + ": `natrpctl --help` shows the commands";
}

std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

// Of the program or of any of its commands.
const CLI::Option* find_flag(const CLI::App& app, const std::string& flag) {
  const CLI::Option* found = app.get_option_no_throw(flag);
  for (const CLI::App* command : commands_of(app)) {
    if (found == nullptr) found = find_flag(*command, flag);
  }
  return found;
}

bool takes(const CLI::App* command, const std::string& flag) {
  for (; command != nullptr; command = command->get_parent()) {
    if (command->get_option_no_throw(flag) != nullptr) return true;
  }
  return false;
}

// "--ports is a flag of 'client add' and 'client set': write it behind one of them"
std::string misplaced_flag(const CLI::App& app, const std::string& flag) {
  std::string owners;
  size_t count = 0;
  for (const CLI::App* command : commands_of(app)) {
    for (const CLI::App* below : commands_of(*command)) {
      if (below->get_option_no_throw(flag) == nullptr) continue;
      owners += (count++ == 0 ? "'" : " and '") + command->get_name() + " " + below->get_name() + "'";
    }
  }
  return flag + " is a flag of " + owners + ": write it behind " + (count == 1 ? "that" : "one of them");
}

// "'ad' is no command of 'client': add, set, list, remove; did you mean 'add'?"
std::string no_command(const CLI::App& app, const std::string& word) {
  std::string sentence = "'" + word + "' is no command";
  if (app.get_parent() != nullptr) sentence += " of '" + app.get_name() + "'";
  std::string meant;
  std::string separator = ": ";
  for (const CLI::App* command : commands_of(app)) {
    sentence += std::exchange(separator, ", ") + command->get_name();
    if (meant.empty() && resembles(word, command->get_name())) meant = command->get_name();
    for (const CLI::App* below : commands_of(*command)) {
      if (word != below->get_name()) continue;
      meant += (meant.empty() ? "" : "' or '") + command->get_name() + " " + word;
    }
  }
  return sentence + (meant.empty() ? "; `natrpctl --help` tells what they do" : "; did you mean '" + meant + "'?");
}

// What is wrong with the first word that belongs nowhere; empty: there is none. CLI11 takes a word that is no command
// as something left over, goes on, and complains about one behind it.
std::string first_stray_word(const CLI::App& app, const std::vector<std::string>& words, const OptionTable& table) {
  const CLI::App* command = &app;
  bool named = false;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--" || word == "-h" || word == "--help" || word == "--version") return {};
    if (word.size() > 1 && word.front() == '-') {
      const std::string flag = word.substr(0, word.find('='));
      const CLI::Option* option = find_flag(app, flag);
      if (option == nullptr) return unexpected_word(kName, table, word);
      if (!takes(command, flag)) return misplaced_flag(app, flag);
      if (flag == word && option->get_items_expected_max() > 0) ++i;
      continue;
    }
    const auto commands = commands_of(*command);
    const auto next = std::find_if(commands.begin(), commands.end(),
                                   [&](const CLI::App* each) { return each->get_name() == word; });
    if (next != commands.end()) {
      command = *next;
    } else if (!commands.empty()) {
      return no_command(*command, word);
    } else if (named || command->get_option_no_throw("NAME") == nullptr) {
      return unexpected_word(kName, table, word);
    } else {
      named = true;
    }
  }
  return {};
}

}  // namespace

ParseOutcome<CtlOptions> parse_ctl_options(int argc, const char* const* argv) {
  ParseOutcome<CtlOptions> outcome;
  CtlOptions& options = outcome.options;
  OptionTable shared;
  add_state_option(shared, options.state_dir);
  const OptionTable policy = policy_table(options, true);
  const OptionTable change = policy_table(options, false);
  OptionTable admin;
  add_admin_option(admin, options);
  OptionTable known = policy;  // whatever a mistyped flag may have meant
  add_admin_option(known, options);

  CLI::App app("Who may open sessions at an edge (clients and their tokens), and who has one.", kName);
  app.footer(kFooter);
  app.set_help_flag("-h,--help", "Print this help and exit.");  // each command inherits it, for itself
  app.set_version_flag("--version", version_text(kName), "Print the version and exit.");
  const BoundFlags shared_flags(app, shared);
  const Commands commands = add_commands(app, options);
  const BoundFlags policy_flags(*commands.add, policy);
  const BoundFlags change_flags(*commands.set, change);
  const BoundFlags admin_flags(*commands.sessions, admin);
  for (CLI::App* command : {commands.add, commands.rotate}) {
    command->add_flag("--plain-token", options.plain_token,
                      "Also make a plain token, for agents of the original natrp only.");
  }

  if (const std::string stray = first_stray_word(app, words_of(argc, argv), known); !stray.empty()) {
    outcome.end = refusal(kName, stray);
    return outcome;
  }
  const auto end = parse_words(app, words_of(argc, argv),
                               [&](const std::string& said) { return sentence_for(said, known); });
  if (end) {
    outcome.end = *end;
    return outcome;
  }
  // Checked here and not by CLI11, which would say "a subcommand is required" to whoever mistyped one.
  const auto action = commands.given();
  if (!action) {
    outcome.end = refusal(kName, "no command is given: `natrpctl --help` shows the commands");
    return outcome;
  }
  options.action = *action;
  Status status = shared_flags.apply();
  if (status.ok()) status = policy_flags.apply();
  if (status.ok()) status = change_flags.apply();
  if (status.ok()) status = admin_flags.apply();
  const bool names_a_client = action != CtlAction::kClientList && action != CtlAction::kSessionList;
  if (status.ok() && names_a_client) status = check_name("client", options.name);
  if (status.ok() && action == CtlAction::kClientSet && !options.ports && !options.tunnels_max && !options.conns_max) {
    status = Error{"client set changes what it is given, and nothing is: give --ports, --tunnels-max or --conns-max"};
  }
  if (!status.ok()) {
    outcome.end = refusal(kName, status.error().message);
    return outcome;
  }
  outcome.run = true;
  return outcome;
}

}  // namespace natrp
