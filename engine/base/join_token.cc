#include "base/join_token.h"

#include <algorithm>
#include <cstring>

namespace natrp {
namespace {

constexpr std::string_view kPinPrefix = "sha256:";
constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
constexpr size_t kTokenBytes = 64;
constexpr size_t kTokenDigits = (kTokenBytes * 8 + 5) / 6;

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

Result<JoinToken> parse_join_token(std::string_view text) {
  text = trimmed(text);
  if (text.empty()) {
    return Error{"the join token is empty: give the one that `natrpctl client add NAME` printed"};
  }
  if (!text.starts_with(kTokenPrefix)) {
    return Error{
        "this is not a join token: one begins with \"ntrp1_\"; `natrpctl client add NAME` prints it"};
  }
  text.remove_prefix(kTokenPrefix.size());
  if (text.size() != kTokenDigits) {
    return Error{"the join token has " + std::to_string(kTokenPrefix.size() + text.size()) +
                 " characters instead of " + std::to_string(kTokenPrefix.size() + kTokenDigits) +
                 ": part of it was lost or added when it was copied; copy it again"};
  }
  std::array<uint8_t, kTokenBytes> bytes;
  uint32_t held = 0;
  unsigned bits = 0;
  size_t at = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const size_t digit = kAlphabet.find(text[i]);
    if (digit == std::string_view::npos) {
      return Error{
          "character " + std::to_string(kTokenPrefix.size() + i + 1) +
          " of the join token cannot be in one: only letters, digits, '-' and '_' are; copy it again"};
    }
    held = (held << 6) | static_cast<uint32_t>(digit);
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes[at++] = static_cast<uint8_t>(held >> bits);
    }
  }
  if ((held & ((1u << bits) - 1)) != 0) {
    return Error{"the last character of the join token is not the one that was printed: copy it again"};
  }
  JoinToken token;
  std::copy_n(bytes.begin(), token.secret.size(), token.secret.begin());
  std::copy_n(bytes.begin() + token.secret.size(), token.pin.size(), token.pin.begin());
  return token;
}

std::string format_join_token(const JoinToken& token) {
  std::array<uint8_t, kTokenBytes> bytes;
  std::copy(token.secret.begin(), token.secret.end(), bytes.begin());
  std::copy(token.pin.begin(), token.pin.end(), bytes.begin() + token.secret.size());
  std::string text(kTokenPrefix);
  uint32_t held = 0;
  unsigned bits = 0;
  for (const uint8_t byte : bytes) {
    held = (held << 8) | byte;
    bits += 8;
    while (bits >= 6) {
      bits -= 6;
      text += kAlphabet[(held >> bits) & 63];
    }
  }
  if (bits > 0) text += kAlphabet[(held << (6 - bits)) & 63];
  return text;
}

Result<Pin> parse_pin(std::string_view text) {
  text = trimmed(text);
  if (!text.starts_with(kPinPrefix)) {
    return Error{"the pin \"" + std::string(text) +
                 "\" does not begin with \"sha256:\": the edge logs its pin when it "
                 "starts, copy it from there"};
  }
  const std::string_view digits = text.substr(kPinPrefix.size());
  Pin pin;
  if (digits.size() != pin.size() * 2) {
    return Error{"the pin \"" + std::string(text) + "\" has " + std::to_string(digits.size()) +
                 " hexadecimal digits instead of 64: copy it again"};
  }
  for (size_t i = 0; i < pin.size(); ++i) {
    const int high = hex_digit(digits[2 * i]);
    const int low = hex_digit(digits[2 * i + 1]);
    if (high < 0 || low < 0) {
      return Error{"the pin \"" + std::string(text) +
                   "\" has a character that is no hexadecimal digit: copy it again"};
    }
    pin[i] = static_cast<uint8_t>(high << 4 | low);
  }
  return pin;
}

std::string format_pin(const Pin& pin) {
  std::string text(kPinPrefix);
  for (const uint8_t byte : pin) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

}  // namespace natrp
