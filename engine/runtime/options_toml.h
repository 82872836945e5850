// runtime/options_toml.h
//
// The configuration file, read off an OptionTable. Strict: an unknown key, a wrong type or a value that does
// not fit is an error with file, line and key, and what was expected. toml++ does the reading; nobody else includes it.
#pragma once

#include <functional>
#include <string>

#include "base/result.h"
#include "runtime/options_table.h"

namespace natrp {

// An array of tables, like [[tunnel]].
struct TomlList {
  std::string key;
  std::function<OptionTable()> begin_element;  // what the keys of the next element set
  std::function<Status()> end_element;  // is the element whole? An error is told with the element's line.
};

// Applies every key of the file. Of several mistakes, the error is about the first in the file. list: may be null.
Status read_toml(const std::string& path, const OptionTable& table, const TomlList* list);

// The whole of a small file, for configuration, tokens and certificates. what: "the configuration file".
Result<std::string> read_small_file(const std::string& what, const std::string& path);

}  // namespace natrp
