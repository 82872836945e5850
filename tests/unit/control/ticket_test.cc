#include "control/ticket.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "control/auth.h"

namespace natrp {
namespace {

using Hello = std::array<uint8_t, kHelloBytes>;

TicketKey random_key() {
  TicketKey key;
  random_bytes(key);
  return key;
}

Hello sealed(const TicketKey& key, SlotId session, uint64_t counter) {
  Hello hello;
  TicketSealer(key).seal(session, counter, hello.data());
  return hello;
}

TEST(Ticket, IsReadAndAcceptedAsItWasSealed) {
  const TicketKey key = random_key();
  const SlotId session = SlotId::make(3, 77, 9);
  const Hello hello = sealed(key, session, 0x0102030405060708u);
  const Result<HelloFields> fields = parse_hello(hello);
  ASSERT_TRUE(fields) << fields.error().message;
  EXPECT_EQ(fields.value().session, session);
  EXPECT_EQ(fields.value().counter, 0x0102030405060708u);
  EXPECT_TRUE(TicketChecker(key).check(hello.data()));
}

TEST(Ticket, HasTheBytesOfTheProtocol) {
  const TicketKey key = random_key();
  const Hello hello = sealed(key, SlotId{0x1122334455667788u}, 5);
  const uint8_t expected[32] = {'N',  'T',  'R',  'P',  1,    0, 0, 0, 0x11, 0x22, 0x33,
                                0x44, 0x55, 0x66, 0x77, 0x88, 0, 0, 0, 0,    0,    0,
                                0,    5,    0,    0,    0,    0, 0, 0, 0,    0};
  EXPECT_EQ(std::memcmp(hello.data(), expected, sizeof expected), 0);
  uint8_t mac[32];
  unsigned length = 0;
  ASSERT_NE(HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), hello.data(), 32, mac, &length),
            nullptr);
  EXPECT_EQ(std::memcmp(hello.data() + 32, mac, sizeof mac), 0) << "the MAC is not what OpenSSL's HMAC makes";
}

TEST(Ticket, AChangeOfAnyBitIsRefused) {
  const TicketKey key = random_key();
  const TicketChecker checker(key);
  const Hello good = sealed(key, SlotId::make(0, 1, 1), 1);
  for (size_t bit = 0; bit < kHelloBytes * 8; ++bit) {
    Hello hello = good;
    hello[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    EXPECT_FALSE(checker.check(hello.data())) << "bit " << bit;
  }
}

TEST(Ticket, AnotherSessionsKeyIsRefused) {
  EXPECT_FALSE(TicketChecker(random_key()).check(sealed(random_key(), SlotId::make(0, 1, 1), 1).data()));
}

TEST(Ticket, AHelloOfAnotherShapeIsRefusedWithASentence) {
  const Hello good = sealed(random_key(), SlotId::make(0, 1, 1), 1);
  EXPECT_FALSE(parse_hello(std::span(good).first(63)));
  for (const size_t at : {0, 3, 4, 5, 6, 7, 24, 31}) {
    Hello hello = good;
    hello[at] ^= 2;
    const Result<HelloFields> fields = parse_hello(hello);
    ASSERT_FALSE(fields) << "byte " << at;
    EXPECT_FALSE(fields.error().message.empty());
  }
}

TEST(TicketWindow, EachCounterIsUsedOnceInWhateverOrder) {
  TicketWindow window;
  EXPECT_FALSE(window.use(0));
  for (const uint64_t counter : {5u, 1u, 4u, 1023u, 2u, 1024u}) {
    EXPECT_TRUE(window.use(counter)) << counter;
    EXPECT_FALSE(window.use(counter)) << counter << " again";
  }
  EXPECT_TRUE(window.use(3));
}

TEST(TicketWindow, ACounterThatComesAWindowTooLateIsRefused) {
  TicketWindow window;
  EXPECT_TRUE(window.use(7 + kTicketWindow));
  EXPECT_FALSE(window.use(7));
  EXPECT_TRUE(window.use(8));  // its slot has seen nothing younger
}

TEST(TicketWindow, ASessionHasTwoToThe42Counters) {
  TicketWindow window;
  const uint64_t last = uint64_t{UINT32_MAX} * kTicketWindow - 1;
  EXPECT_TRUE(window.use(last));
  EXPECT_FALSE(window.use(last));
  for (const uint64_t counter : {last + 1, last + 2, UINT64_MAX}) {
    EXPECT_FALSE(window.use(counter)) << counter;
  }
  EXPECT_TRUE(window.use(1));
}

TEST(TicketWindow, ThreadsThatShowTheSameTicketsLetEachThroughOnce) {
  constexpr uint64_t kCounters = 200'000;
  constexpr unsigned kThreads = 4;
  TicketWindow window;
  std::vector<std::atomic<uint32_t>> used(kCounters + 1);
  std::atomic<unsigned> waiting{kThreads};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      --waiting;
      while (waiting.load() != 0) std::this_thread::yield();
      for (uint64_t counter = 1; counter <= kCounters; ++counter) {
        if (window.use(counter)) used[counter].fetch_add(1, std::memory_order_relaxed);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  uint64_t through = 0;
  for (uint64_t counter = 1; counter <= kCounters; ++counter) {
    ASSERT_LE(used[counter].load(), 1u) << counter;
    through += used[counter].load();
  }
  // Whoever came first used it; a counter is lost only to one a whole window ahead in another thread.
  EXPECT_GE(through, kCounters / kThreads);
  EXPECT_EQ(used[kCounters].load(), 1u);
}

}  // namespace
}  // namespace natrp
