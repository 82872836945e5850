// Ops that wait for a hang-up, over both backends: they go beside the ring, and many end at once.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <vector>

#include "base/limits.h"
#include "loop/loop_of.h"
#include "loop/recorder.h"
#include "net/loopback.h"
#include "relay/allocations.h"

namespace natrp {
namespace {

using loopback::Two;

class HangUpTest : public LoopSuite {};

TEST_P(HangUpTest, AHangUpOpIgnoresAFinAndFiresOnTheResetBehindIt) {
  Two two = loopback::connected();
  Recorder hang_up(OpKind::kHangUp, two.near.get());
  ASSERT_EQ(::shutdown(two.far.get(), SHUT_WR), 0);
  loop->submit(hang_up.op);
  run_for(*loop, 50);
  EXPECT_EQ(hang_up.calls(), 0u) << "a FIN is no hang-up";
  loopback::reset(two.far);
  ASSERT_TRUE(until_over(*loop, hang_up));
  EXPECT_NE(hang_up.results[0] & POLLERR, 0);
  close(two.near);
}

TEST_P(HangUpTest, AHangUpOpOnASocketThatWasResetBeforeFiresAtOnce) {
  Two two = loopback::connected();
  loopback::reset(two.far);
  ASSERT_TRUE(run_until(*loop, [&] {
    pollfd p{two.near.get(), 0, 0};
    return ::poll(&p, 1, 0) == 1;
  }));
  Recorder hang_up(OpKind::kHangUp, two.near.get());
  loop->submit(hang_up.op);
  ASSERT_TRUE(until_over(*loop, hang_up));
  EXPECT_NE(hang_up.results[0] & POLLERR, 0);
  close(two.near);
}

TEST_P(HangUpTest, TwoHundredHangUpsAtOnceAllFire) {
  std::vector<Two> all;
  std::vector<std::unique_ptr<Recorder>> ops;
  for (int i = 0; i < 200; ++i) {
    all.push_back(loopback::connected());
    ops.push_back(std::make_unique<Recorder>(OpKind::kHangUp, all.back().near.get()));
    loop->submit(ops.back()->op);
  }
  loop->run_once(0);
  for (Two& two : all) loopback::reset(two.far);
  EXPECT_TRUE(run_until(*loop, [&] {
    for (const auto& op : ops) {
      if (!op->over()) return false;
    }
    return true;
  }, 2000));
  for (auto& op : ops) {
    EXPECT_EQ(op->calls(), 1u);
    if (!op->over()) land(*loop, *op);
  }
  for (Two& two : all) close(two.near);
}

TEST_P(HangUpTest, AsManyOpsCancelledInATurnAsItListsAllocateNothing) {
  static size_t ended;
  ended = 0;
  std::vector<Two> all;
  std::vector<Op> ops(kOpsListed);
  for (unsigned i = 0; i < kOpsListed; ++i) all.push_back(loopback::connected());
  // The epoll loop's table grows with the numbers of descriptors: that is not what is asked here.
  Recorder last(OpKind::kHangUp, all.back().near.get());
  loop->submit(last.op);
  ASSERT_TRUE(land(*loop, last));
  for (unsigned i = 0; i < kOpsListed; ++i) {
    ops[i].kind = OpKind::kHangUp;
    ops[i].fd = all[i].near.get();
    ops[i].handler = [](Op&) { ++ended; };
  }
  const uint64_t before = allocations();
  for (Op& op : ops) loop->submit(op);
  loop->run_once(0);
  for (Op& op : ops) loop->cancel(op);
  for (int turn = 0; turn < 10 && ended < kOpsListed; ++turn) loop->run_once(10);
  EXPECT_EQ(allocations() - before, 0u);
  EXPECT_EQ(ended, kOpsListed);
  for (Two& two : all) close(two.near);
}

TEST_P(HangUpTest, AHangUpOpOnADescriptorThatCannotBeWatchedEndsOnceEvenWhenCancelled) {
  char path[] = "/tmp/natrp_loop_test_XXXXXX";
  Fd file(::mkstemp(path));
  ASSERT_TRUE(file.valid());
  ::unlink(path);
  Recorder hang_up(OpKind::kHangUp, file.get());
  loop->submit(hang_up.op);
  loop->cancel(hang_up.op);
  ASSERT_TRUE(until_over(*loop, hang_up));
  run_for(*loop, 10);
  EXPECT_EQ(hang_up.calls(), 1u);
  close(file);
}

INSTANTIATE_TEST_SUITE_P(Loops, HangUpTest, testing::Values(IoKind::kUring, IoKind::kEpoll), loop_of);

}  // namespace
}  // namespace natrp
