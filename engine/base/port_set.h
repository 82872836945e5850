// base/port_set.h
//
// PortSet: a set of TCP ports as an operator writes it: "20000-29999,443". Kept as sorted ranges that neither
// overlap nor touch, so equal sets have equal text.
//
// Thread   a value type; belongs to whoever holds it.
// Never    holds port 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace natrp {

class PortSet {
 public:
  PortSet() = default;
  // Ports and ranges, separated by commas; spaces around them are allowed. An empty text is an error.
  static Result<PortSet> parse(std::string_view text);

  bool contains(uint16_t port) const;
  bool empty() const { return ranges_.empty(); }
  size_t size() const;
  // The index-th port in ascending order; index < size().
  uint16_t nth(size_t index) const;
  // The next greater port; behind the last comes the first. Not of an empty set.
  uint16_t next(uint16_t port) const;
  PortSet without(const PortSet& others) const;
  bool intersects(const PortSet& others) const { return without(others) != *this; }
  // "443,20000-29999"; parse(format()) gives the same set.
  std::string format() const;
  // For a sentence or a line of the log: "1,3,5,7,9,11,13,15,… (20000 ports)" where there are many ranges.
  std::string format_short() const;

  friend bool operator==(const PortSet&, const PortSet&) = default;

 private:
  std::string format_first(size_t ranges) const;

  struct Range {
    uint16_t first;
    uint16_t last;
    friend bool operator==(const Range&, const Range&) = default;
  };
  std::vector<Range> ranges_;
};

// One port, 1 to 65535, and nothing around it.
Result<uint16_t> parse_port(std::string_view text);

}  // namespace natrp
