#include "base/port_set.h"

#include <algorithm>
#include <charconv>

#include "base/check.h"

namespace natrp {
namespace {

// Nobody reads more than that, and most sets are no longer.
constexpr size_t kRangesShown = 8;

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

}  // namespace

Result<uint16_t> parse_port(std::string_view text) {
  unsigned value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || end != text.data() + text.size() || value < 1 || value > 65535) {
    return Error{"'" + std::string(text) + "' is not a port: use a number from 1 to 65535"};
  }
  return static_cast<uint16_t>(value);
}

Result<PortSet> PortSet::parse(std::string_view text) {
  PortSet set;
  while (true) {
    const size_t comma = text.find(',');
    const std::string_view item = trimmed(text.substr(0, comma));
    if (item.empty()) return Error{"a port is missing: use ports and ranges like 20000-29999,443"};
    const size_t dash = item.find('-');
    const auto first = parse_port(trimmed(item.substr(0, dash)));
    if (!first.ok()) return first.error();
    const auto last = dash == std::string_view::npos ? first : parse_port(trimmed(item.substr(dash + 1)));
    if (!last.ok()) return last.error();
    if (first.value() > last.value()) {
      return Error{"the port range '" + std::string(item) +
                   "' ends before it begins: write the lower port first"};
    }
    set.ranges_.push_back({first.value(), last.value()});
    if (comma == std::string_view::npos) break;
    text.remove_prefix(comma + 1);
  }
  std::sort(set.ranges_.begin(), set.ranges_.end(), [](Range a, Range b) { return a.first < b.first; });
  std::vector<Range> joined;
  for (const Range range : set.ranges_) {
    if (!joined.empty() && range.first <= joined.back().last + 1u) {
      joined.back().last = std::max(joined.back().last, range.last);
    } else {
      joined.push_back(range);
    }
  }
  set.ranges_ = std::move(joined);
  return set;
}

bool PortSet::contains(uint16_t port) const {
  const auto after = std::upper_bound(ranges_.begin(), ranges_.end(), port,
                                      [](uint16_t p, const Range& range) { return p < range.first; });
  return after != ranges_.begin() && port <= (after - 1)->last;
}

size_t PortSet::size() const {
  size_t total = 0;
  for (const Range range : ranges_) total += range.last - range.first + 1u;
  return total;
}

uint16_t PortSet::nth(size_t index) const {
  for (const Range range : ranges_) {
    const size_t count = range.last - range.first + 1u;
    if (index < count) return static_cast<uint16_t>(range.first + index);
    index -= count;
  }
  NATRP_CHECK(false, "nth() of a PortSet beyond its size");
}

uint16_t PortSet::next(uint16_t port) const {
  NATRP_CHECK(!ranges_.empty(), "next() of an empty PortSet");
  // The first range that has a greater port.
  const auto at = std::upper_bound(ranges_.begin(), ranges_.end(), port,
                                   [](uint16_t p, const Range& range) { return p < range.last; });
  if (at == ranges_.end()) return ranges_.front().first;
  return std::max(at->first, static_cast<uint16_t>(port + 1u));
}

PortSet PortSet::without(const PortSet& others) const {
  PortSet left;
  auto other = others.ranges_.begin();
  for (const Range& range : ranges_) {
    unsigned first = range.first;  // of what nobody has looked at yet; 65536 behind the last port
    while (other != others.ranges_.end() && other->last < first) ++other;
    for (auto at = other; at != others.ranges_.end() && at->first <= range.last; ++at) {
      if (at->first > first) {
        left.ranges_.push_back({static_cast<uint16_t>(first), static_cast<uint16_t>(at->first - 1)});
      }
      first = at->last + 1u;
    }
    if (first <= range.last) left.ranges_.push_back({static_cast<uint16_t>(first), range.last});
  }
  return left;
}

std::string PortSet::format() const { return format_first(ranges_.size()); }

std::string PortSet::format_short() const {
  if (ranges_.size() <= kRangesShown) return format();
  return format_first(kRangesShown) + ",… (" + std::to_string(size()) + " ports)";
}

std::string PortSet::format_first(size_t ranges) const {
  std::string text;
  for (size_t i = 0; i < ranges; ++i) {
    const Range range = ranges_[i];
    if (!text.empty()) text += ',';
    text += std::to_string(range.first);
    if (range.last != range.first) text += '-' + std::to_string(range.last);
  }
  return text;
}

}  // namespace natrp
