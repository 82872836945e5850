// How long a peer has been silent, as the kernel tells it: a real connection whose far end takes no packet any more.
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <string>

#include "base/clock.h"
#include "loop/loop_of.h"
#include "loop/recorder.h"
#include "net/loopback.h"

namespace natrp {
namespace {

using loopback::Two;

// As if its host were gone: what comes for it is dropped before TCP sees it.
void cut_off(const Fd& fd) {
  sock_filter drop_all[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
  const sock_fprog program{1, drop_all};
  loopback::must(::setsockopt(fd.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0, "a filter");
}

void is_back(const Fd& fd) {
  const int ignored = 0;
  loopback::must(::setsockopt(fd.get(), SOL_SOCKET, SO_DETACH_FILTER, &ignored, sizeof ignored) == 0, "no filter");
}

void say(const Fd& fd) { loopback::must(::send(fd.get(), "x", 1, 0) == 1, "a byte"); }

class PeerSilentTest : public LoopSuite {
 protected:
  // Waits for it, 5 s at most; 0: there was none.
  int first_silence_ms(const Fd& fd) {
    run_until([] { ::poll(nullptr, 0, 5); }, [&] { return loop->peer_silent_ms(fd.get()) > 0; }, 5000);
    return loop->peer_silent_ms(fd.get());
  }
};

TEST_P(PeerSilentTest, OneThatWasAskedNothingIsNotSilent) {
  Two two = loopback::connected();
  say(two.near);
  ::poll(nullptr, 0, 300);
  EXPECT_EQ(loop->peer_silent_ms(two.near.get()), 0);
  cut_off(two.far);
  ::poll(nullptr, 0, 300);
  EXPECT_EQ(loop->peer_silent_ms(two.near.get()), 0) << "nothing was sent";
  close(two.near);
}

TEST_P(PeerSilentTest, ItsSilenceBeginsWithTheQuestionAndNotWithItsLastAnswer) {
  Two two = loopback::connected();
  say(two.near);
  ::poll(nullptr, 0, 1500);  // nothing to say, and so no answer
  cut_off(two.far);
  const uint64_t asked_ms = now_ms();
  say(two.near);
  const int silent_ms = first_silence_ms(two.near);
  // Two retransmissions later.
  EXPECT_GT(silent_ms, 200);
  EXPECT_LE(silent_ms, static_cast<int>(now_ms() - asked_ms));
  // It grows with the time, whatever the kernel repeats meanwhile.
  while (now_ms() - asked_ms < 3000) {
    ::poll(nullptr, 0, 5);
    const int silent_now_ms = loop->peer_silent_ms(two.near.get());
    const int ago_ms = static_cast<int>(now_ms() - asked_ms);
    EXPECT_LE(silent_now_ms, ago_ms);
    EXPECT_GE(silent_now_ms, ago_ms - 500);
    if (HasFailure()) break;
  }
  is_back(two.far);
  EXPECT_TRUE(run_until(*loop, [&] { return loop->peer_silent_ms(two.near.get()) == 0; }));
  close(two.near);
}

TEST_P(PeerSilentTest, NorDoesThatOfOneWhoseWindowWasClosedBefore) {
  Two two = loopback::connected();
  const std::string much(1 << 16, 'x');
  while (::send(two.near.get(), much.data(), much.size(), 0) > 0) {
  }
  ::poll(nullptr, 0, 400);  // it answers every probe
  EXPECT_EQ(loop->peer_silent_ms(two.near.get()), 0);
  cut_off(two.far);
  const uint64_t cut_ms = now_ms();
  const int silent_ms = first_silence_ms(two.near);
  EXPECT_GT(silent_ms, 200);
  EXPECT_LE(silent_ms, static_cast<int>(now_ms() - cut_ms));
  close(two.near);
}

INSTANTIATE_TEST_SUITE_P(Loops, PeerSilentTest, testing::Values(IoKind::kUring, IoKind::kEpoll), loop_of);

}  // namespace
}  // namespace natrp
