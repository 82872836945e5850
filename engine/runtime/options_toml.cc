#include "runtime/options_toml.h"

#include <toml++/toml.h>

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

#include "base/fd.h"

namespace natrp {
namespace {

constexpr size_t kFileBytesMax = 1u << 20;

const char* type_name(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table: return "a table";
    case toml::node_type::array: return "an array";
    case toml::node_type::string: return "a string";
    case toml::node_type::integer: return "an integer";
    case toml::node_type::floating_point: return "a fraction";
    case toml::node_type::boolean: return "a boolean";
    default: return "a date or time";
  }
}

const char* wanted_type(ValueType type) {
  switch (type) {
    case ValueType::kInteger: return "an integer";
    case ValueType::kSwitch: return "true or false";
    default: return "a string in quotes";
  }
}

class Reader {
 public:
  Reader(const std::string& path, const OptionTable& table, const TomlList* list)
      : path_(path), table_(table), list_(list) {}

  Status read(const toml::table& root) {
    for (const auto& [name, node] : root) {
      const std::string key(name.str());
      const unsigned line = name.source().begin.line;
      if (const Knob* knob = table_.find_key("", key)) {
        read_value(*knob, key, node);
      } else if (list_ != nullptr && key == list_->key) {
        read_list(node);
      } else if (table_.has_section(key) && !key.empty()) {
        read_section(key, node);
      } else {
        report(line, unknown("", key));
      }
    }
    if (first_line_ == 0) return Done{};
    return Error{first_};
  }

 private:
  // A key that is written in another place than its own, as a sentence; empty: it is none.
  std::string where_it_belongs(const std::string& key) const {
    if (list_ != nullptr && list_->begin_element().find_key("", key) != nullptr) {
      return "'" + key + "' belongs to a tunnel: write it below a line [[" + list_->key + "]]";
    }
    const Knob* knob = table_.find_misplaced_key(key);
    if (knob == nullptr) return "";
    return "'" + key + "' belongs " +
           (knob->section.empty() ? "to the top of the file: write it above the first line in brackets"
                                  : "to [" + knob->section + "]: write it below such a line");
  }

  std::string unknown(const std::string& section, const std::string& key) const {
    if (const std::string misplaced = where_it_belongs(key); !misplaced.empty()) return misplaced;
    std::string nearest = table_.nearest_key(section, key);
    if (nearest.empty() && section.empty() && list_ != nullptr && resembles(key, list_->key)) {
      nearest = "; did you mean [[" + list_->key + "]]?";
    }
    return "unknown key '" + (section.empty() ? key : section + "." + key) + "'" +
           (nearest.empty() ? ": keys are the flags of --help, with '_' for '-'" : nearest);
  }

  void report(unsigned line, const std::string& sentence) {
    ++reports_;
    if (first_line_ != 0 && first_line_ <= line) return;
    first_line_ = line == 0 ? 1 : line;
    first_ = path_ + ":" + std::to_string(first_line_) + ": " + sentence;
  }

  void read_value(const Knob& knob, const std::string& key, const toml::node& node) {
    const unsigned line = node.source().begin.line;
    std::string text;
    if (knob.type == ValueType::kInteger && node.is_integer()) {
      text = std::to_string(node.as_integer()->get());
    } else if (knob.type == ValueType::kSwitch && node.is_boolean()) {
      text = node.as_boolean()->get() ? "on" : "off";
    } else if ((knob.type == ValueType::kText || knob.type == ValueType::kChoice) && node.is_string()) {
      text = node.as_string()->get();
    } else {
      std::string what = knob.type == ValueType::kInteger ? knob.expected() : wanted_type(knob.type);
      if (knob.type == ValueType::kText || knob.type == ValueType::kChoice)
        what += " (" + knob.expected() + ")";
      report(line, key + ": expected " + what + ", got " + type_name(node));
      return;
    }
    if (Status status = knob.apply(text); !status.ok()) report(line, key + ": " + status.error().message);
  }

  void read_section(const std::string& section, const toml::node& node) {
    const toml::table* table = node.as_table();
    if (table == nullptr) {
      report(node.source().begin.line,
             section + ": expected a table [" + section + "], got " + type_name(node));
      return;
    }
    for (const auto& [name, value] : *table) {
      const std::string key(name.str());
      const Knob* knob = table_.find_key(section, key);
      if (knob != nullptr) {
        read_value(*knob, section + "." + key, value);
      } else {
        report(name.source().begin.line, unknown(section, key));
      }
    }
  }

  void read_list(const toml::node& node) {
    const toml::array* array = node.as_array();
    if (array == nullptr) {
      report(node.source().begin.line,
             list_->key + ": expected tables [[" + list_->key + "]] (two brackets), got " + type_name(node));
      return;
    }
    for (const toml::node& element : *array) {
      const unsigned line = element.source().begin.line;
      const toml::table* table = element.as_table();
      if (table == nullptr) {
        report(line, list_->key + ": expected a table, got " + type_name(element));
        continue;
      }
      const OptionTable keys = list_->begin_element();
      const size_t reports = reports_;
      for (const auto& [name, value] : *table) {
        const std::string key(name.str());
        const Knob* knob = keys.find_key("", key);
        if (knob != nullptr) {
          read_value(*knob, key, value);
        } else {
          const std::string misplaced = where_it_belongs(key);
          report(name.source().begin.line,
                 misplaced.empty() ? "unknown key '" + key + "' of a " + list_->key + keys.nearest_key("", key)
                                   : misplaced);
        }
      }
      // What a refused key leaves unset is no second mistake, and would hide the first, which stands further down.
      if (reports_ != reports) continue;
      if (Status status = list_->end_element(); !status.ok()) report(line, status.error().message);
    }
  }

  const std::string& path_;
  const OptionTable& table_;
  const TomlList* list_;
  size_t reports_ = 0;
  unsigned first_line_ = 0;
  std::string first_;
};

// What an operator does about a file that cannot be read.
Error unreadable(const std::string& what, const std::string& path, int errno_value) {
  Error error = Error::from_errno("cannot read " + what + " " + path, errno_value);
  if (errno_value == ENOENT) {
    error.message += path.front() == '/' ? "; check its name" : "; check its name, which begins in this folder";
  } else if (errno_value == EACCES || errno_value == EPERM) {
    error.message += "; give the user who runs this (uid " + std::to_string(geteuid()) +
                     ") the right to read it and to enter its folders, or run as the one who has it";
  } else if (errno_value == EISDIR) {
    error.message += "; name the file in it";
  }
  return error;
}

// "workers: " when the line gives a key its value; else nothing. Never the value: it may be a token.
std::string key_of_line(std::string_view text, size_t line) {
  for (; line > 1; --line) {
    const size_t end = text.find('\n');
    if (end == std::string_view::npos) return {};
    text.remove_prefix(end + 1);
  }
  text = text.substr(0, text.find('\n'));
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  text.remove_prefix(begin);
  const size_t key = text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
  const size_t after = text.find_first_not_of(" \t", key);
  if (key == 0 || after == std::string_view::npos || text[after] != '=') return {};
  return std::string(text.substr(0, key)) + ": ";
}

}  // namespace

Result<std::string> read_small_file(const std::string& what, const std::string& path) {
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return unreadable(what, path, errno);
  std::string text;
  char buffer[4096];
  while (true) {
    const ssize_t got = read(fd.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return unreadable(what, path, errno);
    if (got == 0) return text;
    text.append(buffer, static_cast<size_t>(got));
    if (text.size() > kFileBytesMax)
      return Error{what + " " + path + " is larger than 1 MiB: it cannot be the right file"};
  }
}

Status read_toml(const std::string& path, const OptionTable& table, const TomlList* list) {
  const auto text = read_small_file("the configuration file", path);
  if (!text.ok()) return text.error();
  try {
    return Reader(path, table, list).read(toml::parse(text.value(), path));
  } catch (const toml::parse_error& error) {  // the one place where toml++ throws
    const auto line = error.source().begin.line;
    return Error{path + ":" + std::to_string(line) + ": " + key_of_line(text.value(), line) +
                 "this is not TOML: " + std::string(error.description())};
  }
}

}  // namespace natrp
