#include "loop/mailbox.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "loop/loop_of.h"
#include "loop/recorder.h"

namespace natrp {
namespace {

class MailboxTest : public LoopSuite {};

TEST_P(MailboxTest, EightThreadsPostTenThousandLettersEachAndEachSendersOrderHolds) {
  constexpr unsigned kThreads = 8;
  constexpr unsigned kLetters = 10'000;
  Mailbox mailbox(*loop);
  std::vector<unsigned> next(kThreads, 0);
  unsigned out_of_order = 0;
  unsigned delivered = 0;
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (unsigned i = 0; i < kLetters; ++i) {
        mailbox.post([&, t, i] {
          if (next[t]++ != i) ++out_of_order;
          ++delivered;
        });
      }
    });
  }
  // Long waits on purpose: a lost wake-up becomes a lost minute.
  const uint64_t deadline = now_ms() + 60'000;
  while (delivered < kThreads * kLetters && now_ms() < deadline) loop->run_once(20'000);
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(delivered, kThreads * kLetters);
  EXPECT_EQ(out_of_order, 0u);
  EXPECT_LT(now_ms(), deadline - 40'000) << "a wake-up was lost";
}

TEST_P(MailboxTest, ALetterMayPostAnotherOne) {
  Mailbox mailbox(*loop);
  int depth = 0;
  struct Chain {
    Mailbox& mailbox;
    int& depth;
    void operator()() {
      if (++depth < 100) mailbox.post(Chain{mailbox, depth});
    }
  };
  mailbox.post(Chain{mailbox, depth});
  EXPECT_TRUE(run_until(*loop, [&] { return depth == 100; }));
}

TEST_P(MailboxTest, LettersThatWereNeverDeliveredAreDestroyedWithTheMailbox) {
  auto token = std::make_shared<int>(0);
  bool ran = false;
  {
    Mailbox mailbox(*loop);
    for (int i = 0; i < 3; ++i) mailbox.post([token, &ran] { ran = true; });
    EXPECT_EQ(token.use_count(), 4);
  }
  EXPECT_EQ(token.use_count(), 1);
  loop->run_once(0);
  EXPECT_FALSE(ran);
}

INSTANTIATE_TEST_SUITE_P(Loops, MailboxTest, testing::Values(IoKind::kUring, IoKind::kEpoll), loop_of);

}  // namespace
}  // namespace natrp
