#include "net/acceptor.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/limits.h"
#include "base/no_descriptors.h"
#include "loop/loop_of.h"
#include "loop/recorder.h"
#include "net/loopback.h"

namespace natrp {
namespace {

class AcceptorTest : public LoopSuite {
 protected:
  void SetUp() override {
    LoopSuite::SetUp();
    if (IsSkipped()) return;
    listener = loopback::listener();
    acceptor = std::make_unique<Acceptor>(
        *loop, counters, listener.fd.get(),
        [](void* self, int fd) { static_cast<AcceptorTest*>(self)->accepted.emplace_back(fd); }, this);
  }
  void TearDown() override {
    if (acceptor != nullptr && !acceptor->stopping()) stop();
    if (acceptor == nullptr) return;
    EXPECT_TRUE(run_until(*loop, [&] { return landed == 1; }));
  }
  void stop() {
    acceptor->stop([](void* self) { ++static_cast<AcceptorTest*>(self)->landed; }, this);
  }
  bool comes(size_t conns) { return run_until(*loop, [&] { return accepted.size() == conns; }); }

  Counters counters;
  loopback::Listener listener;
  std::unique_ptr<Acceptor> acceptor;
  std::vector<Fd> accepted;
  int landed = 0;
};

TEST_P(AcceptorTest, EveryVisitorIsHandedOverOnce) {
  acceptor->start();
  std::vector<Fd> visitors;
  for (int i = 0; i < 150; ++i) visitors.push_back(loopback::connect_to(listener.address));
  EXPECT_TRUE(comes(150));
  run_for(*loop, 20);
  EXPECT_EQ(accepted.size(), 150u);
}

TEST_P(AcceptorTest, StoppingLandsOnceAndNotInsideTheCall) {
  acceptor->start();
  loop->run_once(0);
  stop();
  EXPECT_EQ(landed, 0);
  ASSERT_TRUE(run_until(*loop, [&] { return landed > 0; }));
  run_for(*loop, 20);
  EXPECT_EQ(landed, 1);
}

TEST_P(AcceptorTest, OneThatNeverStartedLandsToo) {
  stop();
  EXPECT_EQ(landed, 0);
  EXPECT_TRUE(run_until(*loop, [&] { return landed == 1; }));
}

TEST_P(AcceptorTest, ItMayBeStoppedByTheVisitorItJustHandedOverAndResetsNobody) {
  struct Stopper {
    std::unique_ptr<Acceptor> acceptor;
    std::vector<Fd> accepted;
    bool gone = false;
  } stopper;
  stopper.acceptor = std::make_unique<Acceptor>(
      *loop, counters, listener.fd.get(),
      [](void* context, int fd) {
        auto& self = *static_cast<Stopper*>(context);
        self.accepted.emplace_back(fd);
        if (self.acceptor->stopping()) return;
        self.acceptor->stop(
            [](void* inner) {
              static_cast<Stopper*>(inner)->acceptor.reset();
              static_cast<Stopper*>(inner)->gone = true;
            },
            context);
      },
      &stopper);
  stopper.acceptor->start();
  std::vector<Fd> visitors;
  for (int i = 0; i < 5; ++i) visitors.push_back(loopback::connect_to(listener.address));
  EXPECT_TRUE(run_until(*loop, [&] { return stopper.gone; }));
  // A ring may have accepted all of them before its worker heard of the first.
  EXPECT_GE(stopper.accepted.size(), 1u);
  for (const Fd& visitor : visitors) EXPECT_FALSE(loop->is_reset(visitor.get()));
}

TEST_P(AcceptorTest, OneThatTellsNobodyOfItsLandingHandsNobodyOverAnyMore) {
  acceptor->start();
  loop->run_once(0);
  const Fd visitor = loopback::connect_to(listener.address);
  acceptor->stop(nullptr, nullptr);
  run_for(*loop, 20);
  EXPECT_TRUE(accepted.empty());
  acceptor.reset();
}

// A ring may have accepted all of them before its worker hears of the first.
TEST_P(AcceptorTest, BehindTheVisitorThatStopsOneThatTellsNobodyAllAreReset) {
  struct Stopper {
    std::unique_ptr<Acceptor> acceptor;
    std::vector<Fd> accepted;
  } stopper;
  stopper.acceptor = std::make_unique<Acceptor>(
      *loop, counters, listener.fd.get(),
      [](void* context, int fd) {
        auto& self = *static_cast<Stopper*>(context);
        self.accepted.emplace_back(fd);
        if (!self.acceptor->stopping()) self.acceptor->stop(nullptr, nullptr);
      },
      &stopper);
  std::vector<Fd> visitors;
  for (int i = 0; i < 5; ++i) visitors.push_back(loopback::connect_to(listener.address));
  stopper.acceptor->start();
  ASSERT_TRUE(run_until(*loop, [&] { return !stopper.accepted.empty(); }));
  run_for(*loop, 20);
  EXPECT_EQ(stopper.accepted.size(), 1u);
  listener.fd.reset();  // whom nobody accepted is reset by the kernel
  for (size_t i = 1; i < visitors.size(); ++i) EXPECT_TRUE(loop->is_reset(visitors[i].get())) << i;
}

TEST_P(AcceptorTest, OneThatSteppedBackGoesOnWithoutAPause) {
  acceptor->start();
  loop->run_once(0);
  std::vector<Fd> visitors;
  for (size_t i = 1; i <= 3; ++i) {
    acceptor->step_back();
    visitors.push_back(loopback::connect_to(listener.address));
    ASSERT_TRUE(comes(i));
  }
  EXPECT_EQ(counters.get(Counter::kAcceptsFailed), 0u);
  EXPECT_EQ(counters.get(Counter::kAcceptPauses), 0u);
}

TEST_P(AcceptorTest, OneWhoseListenerWasShutDownWaitsForItsStopAndComplainsOfNothing) {
  acceptor->start();
  loop->run_once(0);
  stop_listening(listener.fd.get());
  run_for(*loop, 20);
  EXPECT_EQ(counters.get(Counter::kAcceptsFailed), 0u);
  EXPECT_EQ(counters.get(Counter::kAcceptPauses), 0u);
  stop();
  EXPECT_TRUE(run_until(*loop, [&] { return landed == 1; }));
}

TEST_P(AcceptorTest, WithoutADescriptorItPausesAndTakesTheVisitorLater) {
  Fd visitor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  auto none = std::make_unique<NoDescriptors>();
  acceptor->start();  // not before: a ring's accept keeps the limit that it was made under
  const bool connected = ::connect(visitor.get(), listener.address.get(), listener.address.length()) == 0;
  const bool paused = run_until(*loop, [&] { return counters.get(Counter::kAcceptPauses) == 1; });
  run_for(*loop, 30);
  const uint64_t pauses = counters.get(Counter::kAcceptPauses);
  none.reset();
  EXPECT_TRUE(connected);
  EXPECT_TRUE(paused);
  EXPECT_LE(pauses, 2u) << "it burns the processor";
  EXPECT_TRUE(comes(1));
}

TEST_P(AcceptorTest, WhereTheKernelRefusesItPausesAndTriesAgain) {
  // A socket that no connection can come to, and has something to read: accept(2) says EOPNOTSUPP.
  const Fd refusing(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_in any = loopback::any_port();
  ASSERT_EQ(::bind(refusing.get(), reinterpret_cast<sockaddr*>(&any), sizeof any), 0);
  const Address address = local_address(refusing.get());
  ASSERT_EQ(::sendto(refusing.get(), "x", 1, 0, address.get(), address.length()), 1);
  Acceptor refused(*loop, counters, refusing.get(), [](void*, int) {}, nullptr);
  refused.start();
  const bool paused = run_until(*loop, [&] { return counters.get(Counter::kAcceptsFailed) == 1; });
  EXPECT_TRUE(paused);
  run_for(*loop, 30);
  EXPECT_LE(counters.get(Counter::kAcceptsFailed), 2u) << "it burns the processor";
  EXPECT_TRUE(run_until(*loop, [&] { return counters.get(Counter::kAcceptsFailed) > 1; }));
  bool over = false;
  refused.stop([](void* done) { *static_cast<bool*>(done) = true; }, &over);
  EXPECT_TRUE(run_until(*loop, [&] { return over; }));
}

// The descriptor of the epoll instance that was made last.
int newest_epoll() {
  int newest = -1;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (std::filesystem::read_symlink(entry.path(), gone) != "anon_inode:[eventpoll]") continue;
    newest = std::max(newest, std::stoi(entry.path().filename()));
  }
  return newest;
}

// The ring needs no such room.
class EpollAcceptorTest : public AcceptorTest {};

TEST_P(EpollAcceptorTest, WhereEpollHasNoRoomForTheListenerItTriesAgain) {
  // In its place already: epoll refuses it a second time, as it does beyond fs.epoll.max_user_watches.
  const int epoll = newest_epoll();
  epoll_event interest{};
  ASSERT_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, listener.fd.get(), &interest), 0);
  acceptor->start();
  EXPECT_TRUE(run_until(*loop, [&] { return counters.get(Counter::kAcceptPauses) > 0; }));
  std::vector<Fd> visitors;
  for (unsigned i = 0; i < 3 * kAcceptsPerTurn; ++i) visitors.push_back(loopback::connect_to(listener.address));
  EXPECT_TRUE(comes(visitors.size())) << "those that are there are taken without epoll";
  const uint64_t at_rest = counters.get(Counter::kAcceptPauses);
  EXPECT_TRUE(run_until(*loop, [&] { return counters.get(Counter::kAcceptPauses) > at_rest; }));
  ASSERT_EQ(epoll_ctl(epoll, EPOLL_CTL_DEL, listener.fd.get(), nullptr), 0);
  run_for(*loop, 2 * kAcceptPauseMs);
  const uint64_t pauses = counters.get(Counter::kAcceptPauses);
  const Fd second = loopback::connect_to(listener.address);
  EXPECT_TRUE(comes(visitors.size() + 1));
  EXPECT_EQ(counters.get(Counter::kAcceptPauses), pauses) << "it is watched again";
}

INSTANTIATE_TEST_SUITE_P(Loops, AcceptorTest, testing::Values(IoKind::kUring, IoKind::kEpoll), loop_of);
INSTANTIATE_TEST_SUITE_P(Loops, EpollAcceptorTest, testing::Values(IoKind::kEpoll), loop_of);

}  // namespace
}  // namespace natrp
