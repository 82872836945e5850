#include "runtime/options_table.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <utility>

namespace natrp {
namespace {

// "a, b or c"
std::string listed(const std::vector<std::string>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 == words.size() ? " or " : ", ";
    text += words[i];
  }
  return text;
}

// How many letters have to be put in, taken out, changed, or swapped with their neighbour to make a into b.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before_last;
  std::vector<size_t> last;
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    before_last = std::exchange(last, row);
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t changed = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({changed, row[j - 1] + 1, last[j] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before_last[j - 2] + 1);
      }
    }
  }
  return row.back();
}

}  // namespace

bool resembles(std::string_view a, std::string_view b) {
  return edit_distance(a, b) <= std::max<size_t>(1, b.size() / 4);
}

std::string Knob::key() const {
  std::string key = flag;
  std::replace(key.begin(), key.end(), '-', '_');
  return key;
}

std::string Knob::expected() const {
  switch (type) {
    case ValueType::kInteger:
      return "a whole number from " + std::to_string(min) + " to " + std::to_string(max);
    case ValueType::kChoice: return listed(choices);
    case ValueType::kSwitch: return "on or off";
    case ValueType::kText: break;
  }
  return value_name;
}

Status Knob::apply(const std::string& text) const {
  bool fits = true;
  if (type == ValueType::kInteger) {
    int64_t value = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
    fits = failure == std::errc() && end == text.data() + text.size() && value >= min && value <= max;
  } else if (type == ValueType::kChoice) {
    fits = std::find(choices.begin(), choices.end(), text) != choices.end();
  } else if (type == ValueType::kSwitch) {
    fits = text == "on" || text == "off";
  }
  if (!fits) return Error{"expected " + expected() + ", got '" + text + "'"};
  return set(text);
}

Knob& OptionTable::add(Knob knob) {
  knobs_.push_back(std::move(knob));
  return knobs_.back();
}

Knob& OptionTable::integer(std::string flag, int64_t min, int64_t max, std::string fallback, std::string help,
                           std::function<void(int64_t)> set) {
  return add({.flag = std::move(flag),
              .value_name = "N",
              .fallback = std::move(fallback),
              .help = std::move(help),
              .type = ValueType::kInteger,
              .min = min,
              .max = max,
              .set = [set = std::move(set)](const std::string& text) -> Status {
                int64_t value = 0;
                std::from_chars(text.data(), text.data() + text.size(), value);
                set(value);
                return Done{};
              }});
}

Knob& OptionTable::choice(std::string flag, std::vector<std::string> choices, std::string fallback,
                          std::string help, std::function<void(size_t)> set) {
  std::string value_name;
  for (const std::string& one : choices) value_name += (value_name.empty() ? "" : "|") + one;
  return add({.flag = std::move(flag),
              .value_name = std::move(value_name),
              .fallback = std::move(fallback),
              .help = std::move(help),
              .type = ValueType::kChoice,
              .choices = choices,
              .set = [set = std::move(set), choices](const std::string& text) -> Status {
                set(static_cast<size_t>(std::find(choices.begin(), choices.end(), text) - choices.begin()));
                return Done{};
              }});
}

Knob& OptionTable::on_off(std::string flag, std::string fallback, std::string help,
                          std::function<void(bool)> set) {
  return add({.flag = std::move(flag),
              .value_name = "on|off",
              .fallback = std::move(fallback),
              .help = std::move(help),
              .type = ValueType::kSwitch,
              .set = [set = std::move(set)](const std::string& text) -> Status {
                set(text == "on");
                return Done{};
              }});
}

Knob& OptionTable::text(std::string flag, std::string value_name, std::string fallback, std::string help,
                        std::function<Status(const std::string&)> set) {
  return add({.flag = std::move(flag),
              .value_name = std::move(value_name),
              .fallback = std::move(fallback),
              .help = std::move(help),
              .type = ValueType::kText,
              .set = std::move(set)});
}

const Knob* OptionTable::find_key(std::string_view section, std::string_view key) const {
  for (const Knob& knob : knobs_) {
    if (knob.in_file && knob.section == section && knob.key() == key) return &knob;
  }
  return nullptr;
}

const Knob* OptionTable::find_misplaced_key(std::string_view key) const {
  for (const Knob& knob : knobs_) {
    if (knob.in_file && knob.key() == key) return &knob;
  }
  return nullptr;
}

bool OptionTable::has_section(std::string_view section) const {
  return std::any_of(knobs_.begin(), knobs_.end(), [&](const Knob& knob) { return knob.section == section; });
}

std::string OptionTable::nearest_flag(std::string_view word) const {
  word = word.substr(std::min(word.size(), word.find_first_not_of('-')));
  word = word.substr(0, word.find('='));
  for (const Knob& knob : knobs_) {
    if (resembles(word, knob.flag)) return "; did you mean --" + knob.flag + "?";
  }
  return "";
}

std::string OptionTable::nearest_key(std::string_view section, std::string_view word) const {
  for (const Knob& knob : knobs_) {
    if (knob.in_file && knob.section == section && resembles(word, knob.key())) {
      return "; did you mean '" + knob.key() + "'?";
    }
  }
  return "";
}

}  // namespace natrp
