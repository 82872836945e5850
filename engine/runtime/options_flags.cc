#include "runtime/options_flags.h"

#include <CLI/CLI.hpp>

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/join_token.h"
#include "base/log.h"
#include "base/version.h"

namespace natrp {
namespace {

constexpr size_t kHelpColumn = 34;
constexpr size_t kHelpWidth = 76;  // of the sentences' column

// CLI11 indents a line break, but makes none.
std::string wrapped(const std::string& text) {
  std::string out;
  size_t line_length = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t space = std::min(text.find(' ', at), text.size());
    const size_t length = space - at;
    if (line_length > 0 && line_length + 1 + length > kHelpWidth) {
      out += '\n';
      line_length = 0;
    } else if (line_length > 0) {
      out += ' ';
      ++line_length;
    }
    out.append(text, at, length);
    line_length += length;
    at = space + 1;
  }
  return out;
}

CLI::Option* add_flag_of(CLI::App& app, const Knob& knob) {
  std::string help = knob.help;
  if (!knob.fallback.empty()) help += " Default: " + knob.fallback + ".";
  return app
      .add_option_function<std::string>(
          "--" + knob.flag, [](const std::string&) {}, wrapped(help))
      ->type_name(knob.value_name)
      ->expected(1);
}

// A token in the wrong place, like --check=ntrp1_…, is not repeated by whoever complains about the place.
std::string without_tokens(const std::string& text) {
  std::string out;
  size_t at = 0;
  for (size_t found; (found = text.find(kTokenPrefix, at)) != std::string::npos;) {
    out.append(text, at, found + kTokenPrefix.size() - at).append("...");
    at = std::min(text.find_first_of(" \t\n'\":,;", found), text.size());
  }
  return out.append(text, at);
}

Status apply_one(const Knob& knob, const std::string& value) {
  Status status = knob.apply(value);
  if (status.ok()) return status;
  return Error{"--" + knob.flag + ": " + status.error().message};
}

// What is wrong with a word like "--config=", or nothing. CLI11 would take the next word as its value, and with it a
// --check or another flag.
std::string flag_without_value(const std::vector<std::string>& words) {
  for (const std::string& word : words) {
    if (word.rfind("--", 0) != 0 || word.find('=') != word.size() - 1) continue;
    const std::string flag = word.substr(0, word.size() - 1);
    return flag + ": nothing is behind the '=': write " + flag + "=VALUE, or leave the flag away";
  }
  return "";
}

// CLI11's complaint about a flag with too few, too many or unwanted values, as a sentence; empty: it is about something
// else.
std::string misplaced_value(const CLI::ParseError& error) {
  const std::string what = error.what();
  const std::string flag = what.substr(0, what.find(':'));
  if (what.find("At Most 1 required") != std::string::npos) return flag + " is given more than once: keep one of them";
  const std::string missing = ": 1 required ";
  if (const size_t at = what.find(missing); at != std::string::npos) {
    const size_t name = at + missing.size();
    return flag + " needs a value: write " + flag + " " + what.substr(name, what.find(' ', name) - name);
  }
  // "Could not convert: --check = yes"
  if (const size_t at = what.find("--"); dynamic_cast<const CLI::ConversionError*>(&error) != nullptr &&
                                         at != std::string::npos) {
    return what.substr(at, what.find(' ', at) - at) + " takes no value: leave what is behind the '=' away";
  }
  return "";
}

Flags ended_by(ParseEnd end) {
  Flags flags;
  flags.end = std::move(end);
  return flags;
}

}  // namespace

int ParseEnd::say() const {
  const int fd = exit_code == 0 ? STDOUT_FILENO : STDERR_FILENO;
  // So that the journal shows it among the errors: what a program says before its log begins may be one, too.
  const std::string said = exit_code != 0 && is_journal(fd) ? "<3>" + text : text;
  for (size_t at = 0; at < said.size();) {
    const ssize_t wrote = write(fd, said.data() + at, said.size() - at);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) break;  // nobody listens: the exit code still tells
    at += static_cast<size_t>(wrote);
  }
  return exit_code;
}

ParseEnd refusal(const std::string& program, const std::string& sentence) {
  return ParseEnd{2, program + ": " + without_tokens(sentence) + "\n"};
}

std::string version_text(const std::string& program) { return program + " " + kVersion; }

std::vector<std::string> words_of(int argc, const char* const* argv) {
  return argc > 1 ? std::vector<std::string>(argv + 1, argv + argc) : std::vector<std::string>();
}

std::string unexpected_word(const std::string& program, const OptionTable& table, const std::string& word) {
  const std::string see = ": `" + program + " --help` lists what there is";
  if (word.rfind('-', 0) != 0) return "unexpected word '" + word + "'" + see;
  const std::string flag = word.substr(0, word.find('='));
  return "unknown flag " + flag + see + table.nearest_flag(word);
}

std::optional<ParseEnd> parse_words(CLI::App& app, std::vector<std::string> words,
                                    const std::function<std::string(const std::string& said)>& sentence_for) {
  if (const std::string sentence = flag_without_value(words); !sentence.empty()) {
    return refusal(app.get_name(), sentence);
  }
  std::reverse(words.begin(), words.end());  // as CLI11 wants them
  try {
    app.parse(std::move(words));
  } catch (const CLI::CallForHelp&) {
    return ParseEnd{0, app.help()};
  } catch (const CLI::CallForVersion& version) {
    return ParseEnd{0, std::string(version.what()) + "\n"};
  } catch (const CLI::ParseError& error) {
    const std::string sentence = misplaced_value(error);
    return refusal(app.get_name(), sentence.empty() ? sentence_for(error.what()) : sentence);
  }
  return std::nullopt;
}

BoundFlags::BoundFlags(CLI::App& app, const OptionTable& table) {
  for (const Knob& knob : table.knobs()) bound_.push_back({&knob, add_flag_of(app, knob)});
}

Status BoundFlags::apply() const {
  for (const Bound& bound : bound_) {
    if (bound.option->count() == 0) continue;
    if (Status status = apply_one(*bound.knob, bound.option->results().front()); !status.ok()) return status;
  }
  return Done{};
}

Flags read_flags(const ProgramText& program, const OptionTable& table, std::vector<std::string> words) {
  Flags flags;
  CLI::App app(program.about, program.name);
  app.footer(program.notes);
  app.get_formatter()->column_width(kHelpColumn);
  app.set_help_flag("-h,--help", "Print this help and exit.");
  app.set_version_flag("--version", version_text(program.name), "Print the version and exit.");
  app.allow_extras();
  app.add_flag("--check", flags.check,
               "Check the flags and the configuration file, say what is wrong, and exit.");
  const CLI::Option* config =
      app.add_option("--config", flags.config,
                     "A configuration file (TOML). Its keys are these flags with '_' for '-';\n"
                     "a flag overrides the file.")
          ->type_name("FILE");
  std::vector<CLI::Option*> options;
  for (const Knob& knob : table.knobs()) options.push_back(add_flag_of(app, knob));

  const std::string see = ": `" + program.name + " --help` lists what there is";
  const auto sentence_for = [&see](const std::string& said) { return said + see; };
  if (auto end = parse_words(app, std::move(words), sentence_for)) return ended_by(std::move(*end));
  if (const auto extras = app.remaining(); !extras.empty()) {
    return ended_by(refusal(program.name, unexpected_word(program.name, table, extras.front())));
  }
  if (config->count() > 0 && flags.config.empty()) {
    return ended_by(refusal(program.name, "--config: the name of the configuration file is empty: name a file, or "
                                          "leave the flag away"));
  }
  for (size_t i = 0; i < options.size(); ++i) {
    if (options[i]->count() > 0) flags.given.push_back({&table.knobs()[i], options[i]->results().front()});
  }
  return flags;
}

Status apply_flags(const Flags& flags) {
  for (const Flags::Given& given : flags.given) {
    if (Status status = apply_one(*given.knob, given.value); !status.ok()) return status;
  }
  return Done{};
}

}  // namespace natrp
