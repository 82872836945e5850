#include "control/auth.h"

#include <gtest/gtest.h>

#include <string_view>

namespace natrp {
namespace {

std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

TEST(Auth, HashesTheExampleOfFips180) {
  const Sha256 hash = sha256(bytes_of("abc"));
  const Sha256 expected = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40,
                           0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17,
                           0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad};
  EXPECT_EQ(hash, expected);
}

TEST(Auth, ComparesEqualBytesAsEqualAndAllElseAsUnequal) {
  EXPECT_TRUE(constant_time_equal(bytes_of("secret"), bytes_of("secret")));
  EXPECT_TRUE(constant_time_equal({}, {}));
  EXPECT_FALSE(constant_time_equal(bytes_of("secret"), bytes_of("secreT")));
  EXPECT_FALSE(constant_time_equal(bytes_of("secret"), bytes_of("xecret")));
  EXPECT_FALSE(constant_time_equal(bytes_of("secret"), bytes_of("secre")));
}

TEST(Auth, TwoDrawsOfRandomBytesDiffer) {
  Sha256 one{};
  Sha256 two{};
  random_bytes(one);
  random_bytes(two);
  EXPECT_NE(one, two);
  EXPECT_NE(one, Sha256{});
}

}  // namespace
}  // namespace natrp
