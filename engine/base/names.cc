#include "base/names.h"

#include "base/limits.h"

namespace natrp {
namespace {

bool is_letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

}  // namespace

Status check_name(std::string_view what, std::string_view name) {
  const std::string kind(what);
  if (name.empty()) return Error{"the name of a " + kind + " is empty: give it one, like 'demo'"};
  if (name.size() > kNameBytesMax) {
    return Error{"the name of a " + kind + " has " + std::to_string(name.size()) + " bytes: use at most " +
                 std::to_string(kNameBytesMax)};
  }
  bool good = is_letter_or_digit(name.front());
  for (const char c : name) good = good && (is_letter_or_digit(c) || c == '.' || c == '_' || c == '-');
  if (good) return Done{};
  return Error{"'" + std::string(name) + "' cannot be the name of a " + kind +
               ": use letters, digits, '.', '_' and '-', and begin with a letter or digit"};
}

}  // namespace natrp
