#include "control/auth.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/check.h"

namespace natrp {

Sha256 sha256(std::span<const uint8_t> bytes) {
  Sha256 hash;
  unsigned length = 0;
  const int done = EVP_Digest(bytes.data(), bytes.size(), hash.data(), &length, EVP_sha256(), nullptr);
  NATRP_CHECK(done == 1 && length == hash.size(), "SHA-256 is in every build of OpenSSL");
  return hash;
}

bool constant_time_equal(std::span<const uint8_t> a, std::span<const uint8_t> b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

void random_bytes(std::span<uint8_t> to) {
  NATRP_CHECK(RAND_bytes(to.data(), static_cast<int>(to.size())) == 1, "the system's random generator works");
}

}  // namespace natrp
