// runtime/options_flags.h
//
// The command line, read off an OptionTable. CLI11 does the reading; nobody but options_flags.cc and
// options_ctl.cc includes it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "runtime/options.h"
#include "runtime/options_table.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace natrp {

struct ProgramText {
  std::string name;   // "natrp-engine"
  std::string about;  // one or two sentences at the top of --help
  std::string notes;  // at its end
};

// The flags of a table on one CLI11 command. table and app outlive it.
class BoundFlags {
 public:
  BoundFlags(CLI::App& app, const OptionTable& table);
  // After CLI11 has read the words: applies each flag that was given. An error names the flag.
  Status apply() const;

 private:
  struct Bound {
    const Knob* knob;
    CLI::Option* option;
  };
  std::vector<Bound> bound_;
};

// "natrp: …" on standard error, exit code 2. Whatever looks like a token is taken out.
ParseEnd refusal(const std::string& program, const std::string& sentence);

// What a daemon's command line says before its values are looked at.
struct Flags {
  std::optional<ParseEnd> end;  // by --help, --version and words that make no sense: all that holds
  bool check = false;           // --check
  std::string config;           // --config FILE; empty: none
  struct Given {
    const Knob* knob;
    std::string value;
  };
  std::vector<Given> given;
};
Flags read_flags(const ProgramText& program, const OptionTable& table, std::vector<std::string> words);
// An error names the flag.
Status apply_flags(const Flags& flags);

// A daemon's options. read: Status(const Flags&), sets options by all that the operator said.
template <typename Options, typename Read>
ParseOutcome<Options> parse_daemon(const ProgramText& program, const OptionTable& table, std::vector<std::string> words,
                                   Options& options, const Read& read) {
  ParseOutcome<Options> outcome;
  const Flags flags = read_flags(program, table, std::move(words));
  if (flags.end) {
    outcome.end = *flags.end;
    return outcome;
  }
  if (Status status = read(flags); !status.ok()) {
    outcome.end = refusal(program.name, status.error().message);
    return outcome;
  }
  outcome.run = !flags.check;
  outcome.checked = flags.check;
  if (flags.check) outcome.end = ParseEnd{0, program.name + ": the configuration is good; nothing was started\n"};
  outcome.options = std::move(options);
  return outcome;
}

std::string version_text(const std::string& program);
// argv without the program's name.
std::vector<std::string> words_of(int argc, const char* const* argv);
// Lets CLI11 read the words. Gives the program's end where they ask for one, or make no sense: then sentence_for()
// makes a sentence of what CLI11 says, where there is no better one.
std::optional<ParseEnd> parse_words(CLI::App& app, std::vector<std::string> words,
                                    const std::function<std::string(const std::string& said)>& sentence_for);
// A word of the command line that belongs nowhere.
std::string unexpected_word(const std::string& program, const OptionTable& table, const std::string& word);

}  // namespace natrp
