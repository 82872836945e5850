// runtime/options_table.h
//
// OptionTable: every option of a program, declared once: its flag, its key in the configuration file, what it
// accepts, its default and a sentence of help. The command line, the file and --help are all read off it.
//
// Life     declared → bound to what it sets → applied: first the file's values, then the flags'.
// Thread   main, before there are others.
// Never    repeats a value of free text in an error: it may be a secret. The option's own `set` decides.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace natrp {

enum class ValueType : uint8_t { kInteger, kChoice, kSwitch, kText };

struct Knob {
  std::string flag{};        // "drain-seconds": --drain-seconds on the command line, drain_seconds in the file
  std::string value_name{};  // "N"
  std::string fallback{};    // the default as --help shows it; empty: none
  std::string help{};
  ValueType type = ValueType::kText;
  int64_t min = 0;  // of a kInteger
  int64_t max = 0;
  std::vector<std::string> choices{};  // of a kChoice
  std::string section{};               // of the file; empty: its top
  bool in_file = true;
  std::function<Status(const std::string&)> set{};  // gets text that fits the type

  std::string key() const;       // "natrp_grpc"
  std::string expected() const;  // "a whole number from 1 to 64"
  // Checks text against the type, then sets. The error does not name the option: the caller knows where it came from.
  Status apply(const std::string& text) const;
};

// Whether a may be b with a slip of the finger in it.
bool resembles(std::string_view a, std::string_view b);

class OptionTable {
 public:
  Knob& integer(std::string flag, int64_t min, int64_t max, std::string fallback, std::string help,
                std::function<void(int64_t)> set);
  // set gets the index of the choice.
  Knob& choice(std::string flag, std::vector<std::string> choices, std::string fallback, std::string help,
               std::function<void(size_t)> set);
  // on|off as a flag, true or false in the file.
  Knob& on_off(std::string flag, std::string fallback, std::string help, std::function<void(bool)> set);
  Knob& text(std::string flag, std::string value_name, std::string fallback, std::string help,
             std::function<Status(const std::string&)> set);

  const std::deque<Knob>& knobs() const { return knobs_; }
  const Knob* find_key(std::string_view section, std::string_view key) const;
  // The option with this key, whatever its section.
  const Knob* find_misplaced_key(std::string_view key) const;
  bool has_section(std::string_view section) const;
  // "; did you mean --workers?", or nothing when no flag resembles the word.
  std::string nearest_flag(std::string_view word) const;
  std::string nearest_key(std::string_view section, std::string_view word) const;

 private:
  Knob& add(Knob knob);
  std::deque<Knob> knobs_;  // a deque: what add() returns stays where it is
};

}  // namespace natrp
