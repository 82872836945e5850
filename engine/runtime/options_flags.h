// runtime/options_flags.h
//
// The command line, read off an OptionTable. CLI11 does the reading; nobody but options_flags.cc and
// options_ctl.cc includes it.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "runtime/options.h"
#include "runtime/options_table.h"

namespace CLI {
class App;
class Option;
class ParseError;
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

// What a daemon's command line says before its values are looked at.
struct Flags {
  ParseEnd end;        // of --help, --version and words that make no sense: done
  bool ended = false;  // end holds
  bool check = false;  // --check
  std::string config;  // --config FILE; empty: none
  struct Given {
    const Knob* knob;
    std::string value;
  };
  std::vector<Given> given;
};
Flags read_flags(const ProgramText& program, const OptionTable& table, std::vector<std::string> words);
// An error names the flag.
Status apply_flags(const Flags& flags);

// "natrp: …" on standard error, exit code 2. Whatever looks like a token is taken out.
ParseEnd refusal(const std::string& program, const std::string& sentence);
std::string version_text(const std::string& program);
// argv without the program's name.
std::vector<std::string> words_of(int argc, const char* const* argv);
// What is wrong with a word like "--config=", or nothing. CLI11 would take the next word as its value, and with it a
// --check or another flag.
std::string flag_without_value(const std::vector<std::string>& words);
// CLI11's complaint about a flag with too few, too many or unwanted values, as a sentence; empty: it is about something
// else.
std::string misplaced_value(const CLI::ParseError& error);
// A word of the command line that belongs nowhere.
std::string unexpected_word(const std::string& program, const OptionTable& table, const std::string& word);

}  // namespace natrp
