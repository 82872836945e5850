// base/join_token.h
//
// JoinToken: what `natrpctl client add` prints once and an agent is started with: who the client is (a secret of 256
// random bits) and who the edge is (its pin). Text: "ntrp1_" + base64url without padding of secret ‖ pin.
//
// Thread   any; values.
// Never    repeated in an error message: a token is a secret.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace natrp {

// SHA-256 of the edge's SubjectPublicKeyInfo (DER). Of the key and not of the certificate, so that a
// certificate may be renewed for the same key without a new token for every agent.
using Pin = std::array<uint8_t, 32>;

// What every token's text begins with.
inline constexpr std::string_view kTokenPrefix = "ntrp1_";

struct JoinToken {
  std::array<uint8_t, 32> secret;
  Pin pin;
};

// Spaces and line ends around the token are ignored: it was copied by hand or read from a file.
Result<JoinToken> parse_join_token(std::string_view text);
std::string format_join_token(const JoinToken& token);

// "sha256:" and 64 hexadecimal digits, in either case.
Result<Pin> parse_pin(std::string_view text);
std::string format_pin(const Pin& pin);

}  // namespace natrp
