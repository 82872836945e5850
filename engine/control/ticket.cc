// The low-level SHA-256 calls are deprecated in OpenSSL 3 in favour of EVP, which allocates for every MAC.
#define OPENSSL_SUPPRESS_DEPRECATED
#include "control/ticket.h"

#include <openssl/crypto.h>

#include <cstring>

namespace natrp {
namespace {

constexpr uint8_t kVersion = 1;
constexpr size_t kMacAt = 32;

void put_u64(uint8_t* at, uint64_t value) {
  for (int i = 7; i >= 0; --i, value >>= 8) at[i] = static_cast<uint8_t>(value);
}

uint64_t get_u64(const uint8_t* at) {
  uint64_t value = 0;
  for (int i = 0; i < 8; ++i) value = value << 8 | at[i];
  return value;
}

}  // namespace

Result<HelloFields> parse_hello(std::span<const uint8_t> hello) {
  if (hello.size() != kHelloBytes) return Error{"a data channel's hello has 64 bytes"};
  if (std::memcmp(hello.data(), "NTRP", 4) != 0) return Error{"a data channel's hello begins with NTRP"};
  if (hello[4] != kVersion) {
    return Error{"a data channel's hello has version " + std::to_string(hello[4]) +
                 ", this edge speaks version 1"};
  }
  if (hello[5] != 0) return Error{"a data channel's hello has flags that this edge does not know"};
  for (const size_t at : {6u, 7u, 24u, 25u, 26u, 27u, 28u, 29u, 30u, 31u}) {
    if (hello[at] != 0) return Error{"a reserved byte of a data channel's hello is not zero"};
  }
  return HelloFields{SlotId{get_u64(hello.data() + 8)}, get_u64(hello.data() + 16)};
}

TicketMac::TicketMac(const TicketKey& key) {
  // RFC 2104: H(key ^ opad ‖ H(key ^ ipad ‖ text)), the key filled up with zeros to one block of 64 bytes.
  uint8_t block[SHA256_CBLOCK];
  std::memset(block, 0x36, sizeof block);
  for (size_t i = 0; i < key.size(); ++i) block[i] ^= key[i];
  SHA256_Init(&inner_);
  SHA256_Update(&inner_, block, sizeof block);
  for (uint8_t& byte : block) byte ^= 0x36 ^ 0x5c;
  SHA256_Init(&outer_);
  SHA256_Update(&outer_, block, sizeof block);
  OPENSSL_cleanse(block, sizeof block);
}

std::array<uint8_t, 32> TicketMac::over(std::span<const uint8_t> bytes) const {
  std::array<uint8_t, 32> mac;
  SHA256_CTX hash = inner_;
  SHA256_Update(&hash, bytes.data(), bytes.size());
  SHA256_Final(mac.data(), &hash);
  hash = outer_;
  SHA256_Update(&hash, mac.data(), mac.size());
  SHA256_Final(mac.data(), &hash);
  return mac;
}

void TicketSealer::seal(SlotId session, uint64_t counter, uint8_t out[kHelloBytes]) const {
  std::memset(out, 0, kHelloBytes);
  std::memcpy(out, "NTRP", 4);
  out[4] = kVersion;
  put_u64(out + 8, session.word);
  put_u64(out + 16, counter);
  const auto mac = mac_.over({out, kMacAt});
  std::memcpy(out + kMacAt, mac.data(), mac.size());
}

bool TicketChecker::check(const uint8_t hello[kHelloBytes]) const {
  const auto mac = mac_.over({hello, kMacAt});
  return CRYPTO_memcmp(mac.data(), hello + kMacAt, mac.size()) == 0;
}

bool TicketWindow::use(uint64_t counter) {
  if (counter == 0) return false;
  const uint64_t round = counter / kTicketWindow + 1;  // 0 in a slot: not used yet
  if (round > UINT32_MAX) return false;  // no session has 2^42 channels
  std::atomic<uint32_t>& last = last_[counter % kTicketWindow];
  // Relaxed: the slot's own order of modification is all that is needed, nothing else is published through it.
  uint32_t seen = last.load(std::memory_order_relaxed);
  while (seen < round) {
    if (last.compare_exchange_weak(seen, static_cast<uint32_t>(round), std::memory_order_relaxed)) return true;
  }
  return false;
}

}  // namespace natrp
