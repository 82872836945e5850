// When a loop looks for an answer before it sleeps, and what teaches it not to.
#include "loop/brief_wait.h"

#include <gtest/gtest.h>

#include <vector>

#include "loop/loop_of.h"
#include "loop/recorder.h"
#include "net/loopback.h"

namespace natrp {
namespace {

class BriefWaitTest : public ::testing::Test {
 protected:
  BriefWaitTest() { wait_.set(true); }
  // One message came, and the loop would sleep at now_ms.
  bool after_message(uint64_t now_ms = 1) { return wait_.is_worth_it(now_ms, ++receives_); }
  unsigned waits_passed_over() {
    unsigned passed = 0;
    while (passed < 1000 && !after_message()) ++passed;
    return passed;
  }

  BriefWait wait_;
  uint64_t receives_ = 0;
};

TEST_F(BriefWaitTest, WithoutAMessageTheLoopSleeps) {
  EXPECT_FALSE(wait_.is_worth_it(1, 0));
  EXPECT_TRUE(after_message());
  EXPECT_FALSE(wait_.is_worth_it(1, receives_));
}

TEST_F(BriefWaitTest, WhereItIsOffTheLoopSleeps) {
  EXPECT_FALSE(BriefWait().is_worth_it(1, 1)) << "it is off at first";
  wait_.set(false);
  EXPECT_FALSE(after_message());
  wait_.set(true);
  EXPECT_TRUE(after_message());
}

TEST_F(BriefWaitTest, AfterManyMessagesTheLoopSleeps) {
  EXPECT_TRUE(wait_.is_worth_it(1, kBriefWaitReceivesMax));
  EXPECT_FALSE(wait_.is_worth_it(1, 2 * kBriefWaitReceivesMax + 1));
}

TEST_F(BriefWaitTest, WaitsForNothingBecomeRareAndOneAnswerBringsThemBack) {
  std::vector<unsigned> passed;
  for (int i = 0; i < 9; ++i) {
    wait_.unanswered();
    passed.push_back(waits_passed_over());
  }
  EXPECT_EQ(passed, (std::vector<unsigned>{1, 2, 4, 8, 16, 32, 64, 64, 64}));
  wait_.answered();
  EXPECT_EQ(waits_passed_over(), 0u);
  wait_.unanswered();
  EXPECT_EQ(waits_passed_over(), 1u);
}

TEST_F(BriefWaitTest, BesideThoseWhoComputeItRestsLongerEachTime) {
  uint64_t now_ms = 100'000;
  std::vector<uint64_t> rests;
  for (int i = 0; i < 7; ++i) {
    wait_.contended(now_ms);
    const uint64_t began = now_ms;
    while (!after_message(now_ms)) ++now_ms;
    rests.push_back(now_ms - began);
  }
  EXPECT_EQ(rests, (std::vector<uint64_t>{50, 100, 200, 400, 800, 1600, 1600}));
}

TEST_F(BriefWaitTest, OneWhoCameByIsForgotten) {
  wait_.contended(100'000);
  wait_.contended(100'000 + kBriefWaitRestMs + 1);  // again at once
  EXPECT_FALSE(after_message(100'000 + 2 * kBriefWaitRestMs));
  wait_.contended(200'000);
  EXPECT_FALSE(after_message(200'000 + kBriefWaitRestMs - 1));
  EXPECT_TRUE(after_message(200'000 + kBriefWaitRestMs));
}

TEST_F(BriefWaitTest, WhatIsThereAlreadyIsSeenWithoutAWait) {
  unsigned looks = 0;
  EXPECT_TRUE(wait_.wait([&] {
    ++looks;
    return true;
  }));
  EXPECT_EQ(looks, 1u);
  EXPECT_TRUE(after_message());
}

TEST_F(BriefWaitTest, AWaitForNothingEndsAndIsNotRepeatedAtOnce) {
  EXPECT_FALSE(wait_.wait([] { return false; }));
  EXPECT_FALSE(after_message());
}

// Through a loop: what comes while it looks is handled as what comes while it sleeps.
class BriefWaitOfLoopTest : public LoopSuite {};

TEST_P(BriefWaitOfLoopTest, AnExchangeIsHandledWhateverTheLoopDoesBetweenItsMessages) {
  loopback::Two conns = loopback::connected();
  for (int i = 0; i < 300; ++i) {
    Recorder receive(OpKind::kRecvBuffer, conns.near.get(), nullptr, 64);
    loop->submit(receive.op);
    if (i % 3 == 0) loop->run_once(1);  // the peer is slow: nothing comes in this wait
    loopback::must(::send(conns.far.get(), "x", 1, 0) == 1, "send");
    ASSERT_TRUE(run_until(*loop, [&] { return receive.over(); }));
    ASSERT_EQ(receive.op.result, 1);
    EXPECT_EQ(loop->buffers().data(receive.op.buffer)[0], 'x');
    loop->buffers().release(receive.op.buffer);
  }
  close(conns.near);
}

TEST_P(BriefWaitOfLoopTest, ALoopThatIsWokenWhileItLooksSaysSo) {
  loopback::Two conns = loopback::connected();
  unsigned woken = 0;
  loop->set_wake_handler([](void* count) { ++*static_cast<unsigned*>(count); }, &woken);
  for (unsigned i = 0; i < 100; ++i) {
    Recorder receive(OpKind::kRecvBuffer, conns.near.get(), nullptr, 64);
    loop->submit(receive.op);
    loopback::must(::send(conns.far.get(), "x", 1, 0) == 1, "send");
    ASSERT_TRUE(run_until(*loop, [&] { return receive.over(); }));
    loop->buffers().release(receive.op.buffer);
    loop->wake();
    ASSERT_TRUE(run_until(*loop, [&] { return woken == i + 1; }));
  }
  close(conns.near);
}

INSTANTIATE_TEST_SUITE_P(Loops, BriefWaitOfLoopTest, testing::Values(IoKind::kUring, IoKind::kEpoll), loop_of);

}  // namespace
}  // namespace natrp
