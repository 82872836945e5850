// control/auth.h
//
// The few cryptographic words of the control path that are not TLS: a hash, a comparison that takes as long
// for unequal as for equal bytes, and random bytes.
//
// Thread   any. No state.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace natrp {

using Sha256 = std::array<uint8_t, 32>;

// What the edge stores of a join token's secret. The secret is 256 random bits, so a slow hash would buy nothing.
Sha256 sha256(std::span<const uint8_t> bytes);

// False at once when the lengths differ: lengths are no secret here.
bool constant_time_equal(std::span<const uint8_t> a, std::span<const uint8_t> b);

// Aborts the process when the system has no randomness to give: every use of it is a secret or an identity.
void random_bytes(std::span<uint8_t> to);

}  // namespace natrp
