// base/utf8.h
//
// UTF-8 in text that may be none: a path or a host's name has the bytes that its operator gave it.
//
// Thread   any. No state.
#pragma once

#include <cstddef>
#include <string_view>

namespace natrp {

// The bytes of the character that begins there (RFC 3629, section 4); 0: none does.
inline size_t utf8_bytes(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  // What else the first byte says of the second: no longer form than it needs, no surrogate, nothing past U+10FFFF.
  const unsigned least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const unsigned most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  if (byte(1) < least || byte(1) > most) return 0;
  const size_t length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  for (size_t i = 2; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  return length;
}

}  // namespace natrp
