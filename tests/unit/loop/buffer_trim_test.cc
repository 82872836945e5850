// What a burst leaves of the receive buffers' pages, and that nobody's bytes suffer from it.
#include "loop/buffer_trim.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <string>
#include <vector>

#include "base/limits.h"
#include "loop/loop_of.h"
#include "loop/recorder.h"
#include "net/loopback.h"

namespace natrp {
namespace {

using loopback::Two;

class BufferTrimTest : public LoopSuite {
 protected:
  static constexpr unsigned kConns = 200;
  static constexpr size_t kPageBytes = 4096;
  static constexpr unsigned kRestingPages = kBuffersOfferedFirst + kBuffersSpare;

  struct Receiver {
    explicit Receiver(Two its) : two(std::move(its)), receive(OpKind::kRecvBuffer, two.near.get(), nullptr, 4096) {}
    Two two;
    Recorder receive;
  };

  void SetUp() override {
    LoopSuite::SetUp();
    if (IsSkipped()) return;
    for (unsigned i = 0; i < kConns; ++i) {
      Receiver& one = receivers.emplace_back(loopback::connected());
      one.receive.then = [this](Recorder& receive) {
        if (receive.results.back() != -ENOBUFS) return;
        loop->buffers().offer_more();
        loop->submit(receive.op);
      };
    }
  }
  void TearDown() override {
    for (Receiver& one : receivers) close(one.two.near);
  }

  size_t resident_pages() {
    const size_t bytes = kBufferBytes * kBuffersMax;
    std::vector<unsigned char> pages(bytes / kPageBytes);
    loopback::must(mincore(loop->buffers().data(0) - kBufferHeadBytes, bytes, pages.data()) == 0, "mincore");
    return static_cast<size_t>(std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return page & 1; }));
  }
  static std::string message(unsigned number) { return "message " + std::to_string(number) + std::string(500, '.'); }
  // What came, and its buffer is released.
  std::string taken(Recorder& receive) {
    const uint16_t id = receive.buffers.back();
    std::string bytes(reinterpret_cast<char*>(loop->buffers().data(id)), static_cast<size_t>(receive.results.back()));
    loop->buffers().release(id);
    return bytes;
  }
  // The next receive of this conn, and what it will get.
  void begin(Receiver& one, const std::string& bytes) {
    loop->submit(one.receive.op);
    ASSERT_EQ(::send(one.two.far.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  }
  void serve(Receiver& one, const std::string& bytes) {
    ASSERT_NO_FATAL_FAILURE(begin(one, bytes));
    ASSERT_TRUE(run_until(*loop, [&] { return one.receive.over(); }));
    ASSERT_EQ(taken(one.receive), bytes);
  }
  // Every conn receives a message, and all of their buffers are held at the same time.
  void burst() {
    for (unsigned i = 0; i < kConns; ++i) ASSERT_NO_FATAL_FAILURE(begin(receivers[i], message(i)));
    ASSERT_TRUE(run_until(*loop, [&] {
      return std::all_of(receivers.begin(), receivers.end(), [](Receiver& one) { return one.receive.over(); });
    }));
    EXPECT_GE(resident_pages(), kConns);
    for (unsigned i = 0; i < kConns; ++i) EXPECT_EQ(taken(receivers[i].receive), message(i));
    EXPECT_EQ(loop->buffers().held(), 0u);
  }

  std::deque<Receiver> receivers;
};

TEST_P(BufferTrimTest, ASecondAfterABurstItsPagesAreGivenBackAndTheLoopSleeps) {
  for (int round = 0; round < 2; ++round) {
    burst();
    EXPECT_TRUE(run_until(*loop, [&] { return resident_pages() <= kRestingPages; })) << resident_pages();
    EXPECT_EQ(loop->buffers().surplus(), 0u);
    EXPECT_FALSE(loop->buffers().has_grown());
    loop->run_once(0);
    EXPECT_EQ(loop->timers().armed(), 0u);
  }
}

TEST_P(BufferTrimTest, WhileConnsReceiveThePagesStay) {
  burst();
  unsigned number = 0;
  for (const uint64_t until_ms = now_ms() + 2 * kBufferTrimMs; now_ms() < until_ms; ++number) {
    ASSERT_NO_FATAL_FAILURE(serve(receivers[0], message(number)));
  }
  EXPECT_GT(number, 3 * kBufferTrimUses);
  EXPECT_GE(resident_pages(), kConns);
}

// The ring's alone: the other loop has no buffers on offer.
class BufferDrainTest : public BufferTrimTest {};

TEST_P(BufferDrainTest, WhoReceivesWhileItDrainsGetsItsOwnBytes) {
  burst();
  ASSERT_TRUE(run_until(*loop, [&] { return loop->buffers().surplus() > 0; }));
  unsigned served = 0;
  for (; loop->buffers().surplus() > 0 && served < 1000; ++served) {
    ASSERT_NO_FATAL_FAILURE(serve(receivers[served % kConns], message(served)));
  }
  EXPECT_GT(served, 1u);
  EXPECT_EQ(loop->buffers().surplus(), 0u);
  EXPECT_TRUE(run_until(*loop, [&] { return resident_pages() <= kRestingPages; })) << resident_pages();
}

INSTANTIATE_TEST_SUITE_P(Loops, BufferTrimTest, testing::Values(IoKind::kEpoll, IoKind::kUring), loop_of);
INSTANTIATE_TEST_SUITE_P(Loops, BufferDrainTest, testing::Values(IoKind::kUring), loop_of);

}  // namespace
}  // namespace natrp
