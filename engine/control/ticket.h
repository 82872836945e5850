// control/ticket.h
//
// Ticket: the 64 bytes a data channel begins with, so that the edge knows whose it is:
//   0 "NTRP" · 4 version 1 · 5 flags 0 · 6 reserved 2 · 8 session u64 BE · 16 counter u64 BE · 24 reserved 8
//   32 HMAC-SHA256 of bytes 0…31 under the session's ticket key
// The agent seals with a counter that it never repeats; the edge checks the MAC, then uses the counter up.
//
// Thread   TicketSealer, TicketChecker: read-only after construction, any thread, no lock.
//          TicketWindow: use() from any thread at once.
// Never    allocates after construction: a hello is checked on the data path's threads.
#pragma once

#include <openssl/sha.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <span>

#include "base/limits.h"
#include "base/result.h"
#include "base/slot_id.h"

namespace natrp {

// Exported from the session's TLS by both ends; see ControlChannel::ticket_key.
using TicketKey = std::array<uint8_t, 32>;

struct HelloFields {
  SlotId session;
  uint64_t counter = 0;
};

// What a hello says, before anybody knows whether it is true. An error says which byte is wrong.
Result<HelloFields> parse_hello(std::span<const uint8_t> hello);

// HMAC-SHA256 under one key, with both padded key blocks hashed ahead: two compressions a MAC, none for the
// key, and no allocation, which OpenSSL's EVP_MAC makes on each reuse of a context.
class TicketMac {
 public:
  explicit TicketMac(const TicketKey& key);
  std::array<uint8_t, 32> over(std::span<const uint8_t> bytes) const;

 private:
  SHA256_CTX inner_;
  SHA256_CTX outer_;
};

class TicketSealer {
 public:
  explicit TicketSealer(const TicketKey& key) : mac_(key) {}
  // counter: from 1, and never the same twice under one key.
  void seal(SlotId session, uint64_t counter, uint8_t out[kHelloBytes]) const;

 private:
  TicketMac mac_;
};

class TicketChecker {
 public:
  explicit TicketChecker(const TicketKey& key) : mac_(key) {}
  // True when the hello was sealed with the key. Says nothing about its counter: that is TicketWindow's.
  bool check(const uint8_t hello[kHelloBytes]) const;

 private:
  TicketMac mac_;
};

// Lets each counter through at most once, ever, in whatever order they come. A counter's slot is its remainder by
// kTicketWindow; the slot holds the largest counter used in it, as the quotient. A counter that is not greater
// than that of its slot is refused: it was used, or came kTicketWindow or more behind.
class TicketWindow {
 public:
  bool use(uint64_t counter);

 private:
  std::array<std::atomic<uint32_t>, kTicketWindow> last_{};
};

}  // namespace natrp
