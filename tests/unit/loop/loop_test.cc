// One suite for every backend: what op.h and loop.h promise, on real sockets.
#include "loop/loop.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/limits.h"
#include "loop/loop_of.h"
#include "loop/recorder.h"
#include "net/loopback.h"

namespace natrp {
namespace {

using loopback::Two;

class LoopTest : public LoopSuite {};

std::string pattern(size_t bytes) {
  std::string out(bytes, 0);
  for (size_t i = 0; i < bytes; ++i) out[i] = static_cast<char>((i * 2654435761u) >> 13);
  return out;
}

std::string read_all(Loop& loop, int fd, size_t bytes, uint32_t patience_ms = 5000) {
  std::string got;
  char buffer[16384];
  run_until(loop, [&] {
    ssize_t n;
    while (got.size() < bytes && (n = ::recv(fd, buffer, sizeof buffer, MSG_DONTWAIT)) > 0) {
      got.append(buffer, static_cast<size_t>(n));
    }
    return got.size() >= bytes;
  }, patience_ms);
  return got;
}

// --- Every kind completes -----------------------------------------------------------------------------------------

TEST_P(LoopTest, AReceiveCompletesWithTheBytesAndWithZeroAtTheEndOfTheStream) {
  Two two = loopback::connected();
  char buffer[16] = "";
  Recorder receive(OpKind::kRecv, two.near.get(), buffer, sizeof buffer);
  loop->submit(receive.op);
  EXPECT_TRUE(receive.op.in_flight);
  loop->run_once(0);
  EXPECT_EQ(receive.calls(), 0u);
  ASSERT_EQ(::send(two.far.get(), "hello", 5, 0), 5);
  ASSERT_TRUE(until_over(*loop, receive));
  EXPECT_EQ(receive.results[0], 5);
  EXPECT_EQ(std::string(buffer, 5), "hello");
  two.far.reset();
  loop->submit(receive.op);
  ASSERT_TRUE(run_until(*loop, [&] { return receive.calls() == 2; }));
  EXPECT_EQ(receive.results[1], 0);
  close(two.near);
}

TEST_P(LoopTest, AReceiveIntoASharedBufferNamesTheBufferAndItsReceiverOwnsIt) {
  Two two = loopback::connected();
  Recorder receive(OpKind::kRecvBuffer, two.near.get(), nullptr, kBufferBytes);
  loop->submit(receive.op);
  ASSERT_EQ(::send(two.far.get(), "hello", 5, 0), 5);
  ASSERT_TRUE(until_over(*loop, receive));
  ASSERT_EQ(receive.results[0], 5);
  EXPECT_EQ(loop->buffers().held(), 1u);
  EXPECT_EQ(std::string(reinterpret_cast<char*>(loop->buffers().data(receive.buffers[0])), 5), "hello");
  loop->buffers().release(receive.buffers[0]);
  two.far.reset();
  loop->submit(receive.op);
  ASSERT_TRUE(run_until(*loop, [&] { return receive.calls() == 2; }));
  EXPECT_EQ(receive.results[1], 0);
  EXPECT_EQ(loop->buffers().held(), 0u) << "an end of stream holds no buffer";
  close(two.near);
}

TEST_P(LoopTest, ASendLargerThanTheSocketsBufferCompletesWhole) {
  Two two = loopback::connected(16384);
  const std::string bytes = pattern(3 << 20);
  Recorder send(OpKind::kSend, two.near.get(), const_cast<char*>(bytes.data()), bytes.size());
  loop->submit(send.op);
  for (int i = 0; i < 5; ++i) loop->run_once(10);
  EXPECT_EQ(send.calls(), 0u) << "nobody read yet";
  EXPECT_EQ(read_all(*loop, two.far.get(), bytes.size()), bytes);
  ASSERT_TRUE(until_over(*loop, send));
  ASSERT_EQ(send.calls(), 1u);
  EXPECT_EQ(send.results[0], static_cast<int32_t>(bytes.size()));
  close(two.near);
}

TEST_P(LoopTest, ASendToAResetSocketFails) {
  Two two = loopback::connected();
  loopback::reset(two.far);
  Recorder send(OpKind::kSend, two.near.get(), const_cast<char*>("x"), 1);
  loop->submit(send.op);
  ASSERT_TRUE(until_over(*loop, send));
  EXPECT_TRUE(send.results[0] == -ECONNRESET || send.results[0] == -EPIPE) << send.results[0];
  close(two.near);
}

TEST_P(LoopTest, OneAcceptTakesManyConnsAndEachIsNonBlocking) {
  loopback::Listener listener = loopback::listener();
  Recorder accept(OpKind::kAccept, listener.fd.get());
  std::vector<Fd> accepted;
  accept.then = [&](Recorder& r) {
    if (r.op.result >= 0) accepted.emplace_back(r.op.result);
    if (!r.op.in_flight && !r.op.cancelled) loop->submit(r.op);
  };
  loop->submit(accept.op);
  std::vector<Fd> dialled;
  for (int i = 0; i < 200; ++i) {
    dialled.push_back(loopback::connect_to(listener.address));
    if (i % 7 == 0) loop->run_once(0);
  }
  ASSERT_TRUE(run_until(*loop, [&] { return accepted.size() == 200; }));
  for (const Fd& fd : accepted) {
    EXPECT_NE(::fcntl(fd.get(), F_GETFL) & O_NONBLOCK, 0);
    EXPECT_NE(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, 0);
  }
  ASSERT_TRUE(land(*loop, accept));
  EXPECT_EQ(accept.results.back(), -ECANCELED);
  close(listener.fd);
}

TEST_P(LoopTest, APollSeesReadinessAndMultishotPollSeesItAgainAndAgain) {
  Fd event(eventfd(0, EFD_NONBLOCK));
  Recorder once(OpKind::kPoll, event.get(), nullptr, POLLIN);
  loop->submit(once.op);
  ASSERT_EQ(eventfd_write(event.get(), 1), 0);
  ASSERT_TRUE(until_over(*loop, once));
  EXPECT_EQ(once.results[0] & POLLIN, POLLIN);
  eventfd_t value;
  eventfd_read(event.get(), &value);
  Recorder multi(OpKind::kPollMulti, event.get(), nullptr, POLLIN);
  multi.then = [&](Recorder& r) {
    if (r.op.result > 0) eventfd_read(event.get(), &value);
  };
  loop->submit(multi.op);
  loop->run_once(0);
  for (size_t i = 1; i <= 20; ++i) {
    ASSERT_EQ(eventfd_write(event.get(), 1), 0);
    ASSERT_TRUE(run_until(*loop, [&] { return multi.calls() == i; })) << i;
    EXPECT_TRUE(multi.op.in_flight);
  }
  ASSERT_TRUE(land(*loop, multi));
  close(event);
}

// --- Cancelling ---------------------------------------------------------------------------------------------------

TEST_P(LoopTest, ACancelledOpRunsItsHandlerOnceWithECANCELED) {
  Two two = loopback::connected();
  loopback::Listener listener = loopback::listener();
  char buffer[16];
  for (const bool turn_between : {false, true}) {
    Recorder receive(OpKind::kRecv, two.near.get(), buffer, sizeof buffer);
    loop->submit(receive.op);
    if (turn_between) loop->run_once(0);
    loop->cancel(receive.op);
    loop->cancel(receive.op);
    EXPECT_TRUE(receive.op.in_flight) << "never inside cancel()";
    ASSERT_TRUE(until_over(*loop, receive));
    run_for(*loop, 20);
    EXPECT_EQ(receive.results, std::vector<int32_t>{-ECANCELED});
  }
  for (const OpKind kind : {OpKind::kRecvBuffer, OpKind::kPoll, OpKind::kPollMulti, OpKind::kHangUp}) {
    Recorder op(kind, two.near.get(), nullptr, kind == OpKind::kRecvBuffer ? kBufferBytes : POLLIN);
    loop->submit(op.op);
    loop->run_once(0);
    ASSERT_TRUE(land(*loop, op)) << static_cast<int>(kind);
    run_for(*loop, 10);
    EXPECT_EQ(op.results, std::vector<int32_t>{-ECANCELED}) << static_cast<int>(kind);
  }
  close(two.near);
}

TEST_P(LoopTest, CancellingAnOpThatIsNotInFlightDoesNothing) {
  Two two = loopback::connected();
  char buffer[16];
  Recorder receive(OpKind::kRecv, two.near.get(), buffer, sizeof buffer);
  loop->cancel(receive.op);
  run_for(*loop, 10);
  EXPECT_EQ(receive.calls(), 0u);
  loop->submit(receive.op);
  ASSERT_EQ(::send(two.far.get(), "a", 1, 0), 1);
  ASSERT_TRUE(until_over(*loop, receive));
  loop->cancel(receive.op);
  run_for(*loop, 10);
  EXPECT_EQ(receive.results, std::vector<int32_t>{1});
  close(two.near);
}

TEST_P(LoopTest, ACancelThatRacesWithItsCompletionLosesNoByte) {
  Two two = loopback::connected();
  std::string got;
  for (int round = 0; round < 300; ++round) {
    Recorder receive(OpKind::kRecvBuffer, two.near.get(), nullptr, kBufferBytes);
    loop->submit(receive.op);
    if (round % 3 != 0) loop->run_once(0);
    const char byte = static_cast<char>('a' + round % 26);
    ASSERT_EQ(::send(two.far.get(), &byte, 1, 0), 1);
    if (round % 2 == 0) loop->run_once(0);
    loop->cancel(receive.op);
    ASSERT_TRUE(until_over(*loop, receive));
    ASSERT_EQ(receive.calls(), 1u);
    if (receive.results[0] > 0) {
      got.append(reinterpret_cast<char*>(loop->buffers().data(receive.buffers[0])),
                 static_cast<size_t>(receive.results[0]));
      loop->buffers().release(receive.buffers[0]);
    }
  }
  char rest[512];
  const ssize_t n = ::recv(two.near.get(), rest, sizeof rest, MSG_DONTWAIT);
  if (n > 0) got.append(rest, static_cast<size_t>(n));
  ASSERT_EQ(got.size(), 300u);
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], static_cast<char>('a' + i % 26)) << i;
  EXPECT_EQ(loop->buffers().held(), 0u);
  close(two.near);
}

TEST_P(LoopTest, ACancelledSendTellsHowMuchWasSentBefore) {
  Two two = loopback::connected(16384);
  const std::string bytes = pattern(1 << 20);
  Recorder send(OpKind::kSend, two.near.get(), const_cast<char*>(bytes.data()), bytes.size());
  loop->submit(send.op);
  for (int i = 0; i < 3; ++i) loop->run_once(5);
  ASSERT_TRUE(land(*loop, send));
  ASSERT_EQ(send.calls(), 1u);
  const size_t sent = send.results[0] > 0 ? static_cast<size_t>(send.results[0]) : 0;
  EXPECT_GT(sent, 0u);
  EXPECT_LT(sent, bytes.size());
  close(two.near);
  EXPECT_EQ(read_all(*loop, two.far.get(), bytes.size(), 300), bytes.substr(0, sent));
}

// --- Buffers ------------------------------------------------------------------------------------------------------

TEST_P(LoopTest, WhenEveryBufferIsHeldAReceiveSaysENOBUFSAndTheBytesAreThereAfterARelease) {
  BufRing& buffers = loop->buffers();
  Two filler = loopback::connected();
  std::vector<uint16_t> held;
  uint16_t id = 0;
  while (buffers.take(id)) held.push_back(id);
  while (!buffers.exhausted()) {  // the ring has some on offer: they go to receives
    Recorder receive(OpKind::kRecvBuffer, filler.near.get(), nullptr, kBufferBytes);
    ASSERT_EQ(::send(filler.far.get(), "x", 1, 0), 1);
    loop->submit(receive.op);
    ASSERT_TRUE(until_over(*loop, receive));
    ASSERT_EQ(receive.results[0], 1);
    held.push_back(receive.buffers[0]);
  }
  EXPECT_EQ(held.size(), kBuffersMax);
  ASSERT_EQ(::send(filler.far.get(), "late", 4, 0), 4);
  Recorder receive(OpKind::kRecvBuffer, filler.near.get(), nullptr, kBufferBytes);
  loop->submit(receive.op);
  ASSERT_TRUE(until_over(*loop, receive));
  EXPECT_EQ(receive.results[0], -ENOBUFS);
  buffers.release(held.back());
  held.pop_back();
  loop->submit(receive.op);
  ASSERT_TRUE(run_until(*loop, [&] { return receive.calls() == 2; }));
  ASSERT_EQ(receive.results[1], 4);
  EXPECT_EQ(std::string(reinterpret_cast<char*>(buffers.data(receive.buffers[0])), 4), "late");
  buffers.release(receive.buffers[0]);
  for (const uint16_t one : held) buffers.release(one);
  EXPECT_EQ(buffers.held(), 0u);
  close(filler.near);
}

// --- Edges --------------------------------------------------------------------------------------------------------

TEST_P(LoopTest, APollAfterEAGAINLosesNoEdgeWheneverTheBytesCome) {
  Two two = loopback::connected();
  Recorder poll(OpKind::kPoll, two.near.get(), nullptr, POLLIN);
  for (int round = 0; round < 200; ++round) {
    char byte = 0;
    ASSERT_EQ(loop->try_recv(two.near.get(), &byte, 1), -EAGAIN);
    // Before the submit, between submit and turn, or after a turn.
    if (round % 3 == 0) {
      ASSERT_EQ(::send(two.far.get(), "a", 1, 0), 1);
    }
    poll.op.drained = true;
    loop->submit(poll.op);
    if (round % 3 == 1) {
      ASSERT_EQ(::send(two.far.get(), "a", 1, 0), 1);
    }
    if (round % 3 == 2) {
      loop->run_once(0);
      ASSERT_EQ(::send(two.far.get(), "a", 1, 0), 1);
    }
    ASSERT_TRUE(until_over(*loop, poll)) << "round " << round;
    ASSERT_EQ(loop->try_recv(two.near.get(), &byte, 1), 1);
    poll.results.clear();
  }
  close(two.near);
}

TEST_P(LoopTest, AFinThatArrivedWithTheBytesIsSeenByADrainedPoll) {
  for (const bool polled_before : {false, true}) {
    Two two = loopback::connected();
    Recorder poll(OpKind::kPoll, two.near.get(), nullptr, POLLIN);
    char buffer[64];
    if (polled_before) {  // the descriptor is known to the loop already
      loop->submit(poll.op);
      loop->run_once(0);
    }
    ASSERT_EQ(::send(two.far.get(), "bye", 3, 0), 3);
    two.far.reset();
    if (polled_before) {
      ASSERT_TRUE(until_over(*loop, poll));
    }
    // The short read says "drained" with the FIN already there: its edge has come and will not come again.
    ASSERT_TRUE(run_until(*loop, [&] { return loop->try_recv(two.near.get(), buffer, sizeof buffer) == 3; }));
    poll.results.clear();
    poll.op.drained = true;
    loop->submit(poll.op);
    ASSERT_TRUE(until_over(*loop, poll)) << polled_before;
    EXPECT_EQ(loop->try_recv(two.near.get(), buffer, sizeof buffer), 0);
    close(two.near);
  }
}

// Sends until nothing moves any more: what the peer's socket takes makes room for a while. Returns what was sent.
size_t fill(Loop& loop, int fd) {
  const std::string bytes = pattern(65536);
  size_t sent = 0;
  for (int quiet = 0; quiet < 5;) {
    const ssize_t n = loop.try_send(fd, bytes.data(), bytes.size());
    EXPECT_TRUE(n > 0 || n == -EAGAIN);
    if (n > 0) {
      sent += static_cast<size_t>(n);
      quiet = 0;
    } else {
      ++quiet;
      run_for(loop, 20);
    }
  }
  return sent;
}

// Turns of the loop in duration_ms in which nothing should happen.
size_t turns_in(Loop& loop, uint32_t duration_ms) {
  size_t turns = 0;
  run_until([&] { loop.run_once(20); ++turns; }, [] { return false; }, duration_ms);
  return turns;
}

size_t threads_of_this_process() {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                                           std::filesystem::directory_iterator()));
}

TEST_P(LoopTest, APollForRoomFiresAfterAFullSocketWasDrained) {
  for (const bool half_closed : {false, true}) {
    Two two = loopback::connected(16384);
    const size_t sent = fill(*loop, two.near.get());
    if (half_closed) {
      ASSERT_EQ(::shutdown(two.far.get(), SHUT_WR), 0);
    }
    Recorder poll(OpKind::kPoll, two.near.get(), nullptr, POLLOUT);
    // The other direction's: on the same socket at the same time.
    Recorder hang_up(OpKind::kHangUp, two.near.get());
    poll.op.drained = true;
    loop->submit(poll.op);
    loop->submit(hang_up.op);
    EXPECT_LT(turns_in(*loop, 200), 40u);
    EXPECT_EQ(poll.calls(), 0u);
    read_all(*loop, two.far.get(), sent);
    ASSERT_TRUE(until_over(*loop, poll));
    EXPECT_NE(poll.results[0] & POLLOUT, 0);
    EXPECT_EQ(hang_up.calls(), 0u);
    ASSERT_TRUE(land(*loop, hang_up));
    close(two.near);
  }
}

// By a handler in the very batch in which its socket says that there is room.
TEST_P(LoopTest, ASendThatIsCancelledJustWhenThereIsRoomTellsNoByteThatItDidNotSend) {
  Two two = loopback::connected(16384);
  const size_t before = fill(*loop, two.near.get());
  const std::string bytes = pattern(1 << 20);
  const Fd event(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  Recorder first(OpKind::kPoll, event.get(), nullptr, POLLIN);
  Recorder send(OpKind::kSend, two.near.get(), const_cast<char*>(bytes.data()), bytes.size());
  first.then = [&](Recorder&) { loop->cancel(send.op); };
  loop->submit(first.op);
  loop->submit(send.op);
  run_for(*loop, 30);
  ASSERT_EQ(send.calls(), 0u);
  const uint64_t one = 1;
  ASSERT_EQ(::write(event.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
  char away[65536];
  size_t got = 0;
  while (got < before) {
    const ssize_t n = ::recv(two.far.get(), away, sizeof away, 0);
    ASSERT_GT(n, 0);
    got += static_cast<size_t>(n);
  }
  ASSERT_TRUE(until_over(*loop, send));
  ASSERT_EQ(send.calls(), 1u);
  const size_t sent = send.results[0] > 0 ? static_cast<size_t>(send.results[0]) : 0;
  close(two.near);
  EXPECT_EQ(read_all(*loop, two.far.get(), sent + 1, 100), bytes.substr(0, sent)) << "result " << send.results[0];
}

TEST_P(LoopTest, AWaitForRoomInAHalfClosedSocketEndsWithAResetAndWithACancel) {
  for (const OpKind kind : {OpKind::kPoll, OpKind::kSend}) {
    for (const bool cancels : {false, true}) {
      Two two = loopback::connected(16384);
      fill(*loop, two.near.get());
      ASSERT_EQ(::shutdown(two.far.get(), SHUT_WR), 0);
      char bytes[100] = "";
      Recorder op(kind, two.near.get(), bytes, kind == OpKind::kPoll ? POLLOUT : sizeof bytes);
      op.op.drained = true;
      loop->submit(op.op);
      run_for(*loop, 30);
      ASSERT_EQ(op.calls(), 0u);
      if (cancels) {
        loop->cancel(op.op);
        EXPECT_EQ(op.calls(), 0u);
      } else {
        loopback::reset(two.far);
      }
      ASSERT_TRUE(until_over(*loop, op));
      run_for(*loop, 30);
      EXPECT_EQ(op.calls(), 1u);
      EXPECT_EQ(op.op.kind, kind);
      if (cancels) {
        EXPECT_EQ(op.results[0], -ECANCELED);
      } else if (kind == OpKind::kPoll) {
        EXPECT_NE(op.results[0] & POLLERR, 0);
      } else {
        EXPECT_LT(op.results[0], 0);
      }
      close(two.near);
    }
  }
}

TEST_P(LoopTest, SendsIntoHalfClosedSocketsThatAreFullWaitAtNoCostAndArriveWhole) {
  constexpr size_t kConns = 40;
  const size_t threads_before = threads_of_this_process();
  const std::string bytes = pattern(100'000);
  std::vector<Two> all;
  std::vector<std::unique_ptr<Recorder>> sends;
  std::vector<size_t> before;
  for (size_t i = 0; i < kConns; ++i) all.push_back(loopback::connected(16384));
  for (Two& two : all) {
    size_t sent = 0;
    ssize_t n;
    while ((n = loop->try_send(two.near.get(), bytes.data(), bytes.size())) > 0) sent += static_cast<size_t>(n);
    before.push_back(sent);
    ASSERT_EQ(::shutdown(two.far.get(), SHUT_WR), 0);
    sends.push_back(std::make_unique<Recorder>(OpKind::kSend, two.near.get(), const_cast<char*>(bytes.data()),
                                               bytes.size()));
    loop->submit(sends.back()->op);
  }
  run_for(*loop, 300);
  EXPECT_LT(turns_in(*loop, 200), 40u);
  EXPECT_LE(threads_of_this_process(), threads_before);
  for (size_t i = 0; i < kConns; ++i) {
    EXPECT_EQ(sends[i]->calls(), 0u);
    const std::string got = read_all(*loop, all[i].far.get(), before[i] + bytes.size());
    EXPECT_EQ(got.size(), before[i] + bytes.size());
    EXPECT_TRUE(got.substr(before[i]) == bytes);
    ASSERT_TRUE(until_over(*loop, *sends[i]));
    EXPECT_EQ(sends[i]->results[0], static_cast<int32_t>(bytes.size()));
    close(all[i].near);
  }
}

TEST_P(LoopTest, WhatHappenedToAClosedSocketNeverReachesTheNextOwnerOfItsNumber) {
  for (int round = 0; round < 50; ++round) {
    Two first = loopback::connected();
    Two second = loopback::connected();
    char buffer[16];
    auto old = std::make_unique<Recorder>(OpKind::kRecv, first.near.get(), buffer, sizeof buffer);
    Recorder trigger(OpKind::kRecv, second.near.get(), buffer, sizeof buffer);
    loop->submit(old->op);
    loop->submit(trigger.op);
    loop->run_once(0);
    ASSERT_TRUE(land(*loop, *old));
    // Both get an event in one batch; the trigger's handler closes the old one and gives its number to a new socket.
    const int number = first.near.get();
    Two third;
    std::unique_ptr<Recorder> fresh;
    trigger.then = [&](Recorder&) {
      close(first.near);
      third = loopback::connected();
      Fd moved(third.near.get() == number || third.far.get() == number ? -1 : ::dup2(third.near.get(), number));
      if (moved.valid()) third.near = std::move(moved);
      fresh = std::make_unique<Recorder>(OpKind::kPoll, number, nullptr, POLLIN);
      loop->submit(fresh->op);
    };
    ASSERT_EQ(::send(second.far.get(), "t", 1, 0), 1);
    ASSERT_EQ(::send(first.far.get(), "stale", 5, 0), 5);
    loopback::reset(first.far);
    ASSERT_TRUE(until_over(*loop, trigger));
    ASSERT_NE(fresh, nullptr);
    for (int i = 0; i < 3; ++i) loop->run_once(1);
    EXPECT_EQ(fresh->calls(), 0u) << "round " << round;
    ASSERT_TRUE(land(*loop, *fresh));
    if (third.near.get() == number) {
      close(third.near);
    } else {
      close(third.far);
    }
    close(second.near);
  }
}

// --- Waking and time ----------------------------------------------------------------------------------------------

TEST_P(LoopTest, AWakeFromAnotherThreadEndsALongWait) {
  static int woken;
  woken = 0;
  loop->set_wake_handler([](void*) { ++woken; }, nullptr);
  for (int round = 1; round <= 20; ++round) {
    std::thread other([&] { loop->wake(); });
    const uint64_t began = now_ms();
    while (woken < round && now_ms() - began < 9000) loop->run_once(10'000);
    EXPECT_LT(now_ms() - began, 5000u);
    other.join();
    EXPECT_GE(woken, round);
    woken = round;
  }
}

struct Alarm {
  Timer timer;
  uint64_t fired_ms = 0;
};

TEST_P(LoopTest, ATimerFiresNotBeforeItsDelayAndTheLoopWakesForIt) {
  for (const uint32_t delay : {1u, 7u, 30u, 60u}) {
    Alarm alarm;
    alarm.timer.handler = [](Timer& timer) { reinterpret_cast<Alarm*>(&timer)->fired_ms = now_ms(); };
    loop->run_once(0);
    const uint64_t armed = loop->turn_ms();
    loop->timers().arm(alarm.timer, delay);
    int turns = 0;
    while (alarm.fired_ms == 0 && now_ms() < armed + 5000) {
      loop->run_once(-1);
      ++turns;
    }
    EXPECT_GE(alarm.fired_ms, armed + delay);
    EXPECT_LT(turns, 20) << "it spins";
  }
}

TEST_P(LoopTest, ADeadlineArmedInAHandlerAfterALongSleepCountsFromNow) {
  Two two = loopback::connected();
  char buffer[16];
  Alarm alarm;
  alarm.timer.handler = [](Timer& timer) { reinterpret_cast<Alarm*>(&timer)->fired_ms = now_ms(); };
  Recorder receive(OpKind::kRecv, two.near.get(), buffer, sizeof buffer);
  uint64_t armed = 0;
  receive.then = [&](Recorder&) {
    armed = now_ms();
    loop->timers().arm(alarm.timer, 100);
  };
  loop->submit(receive.op);
  std::thread visitor([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    loopback::must(::send(two.far.get(), "x", 1, 0) == 1, "send");
  });
  while (armed == 0) loop->run_once(-1);  // nothing is armed: it sleeps until the visitor speaks
  visitor.join();
  ASSERT_TRUE(run_until(*loop, [&] { return alarm.fired_ms != 0; }));
  EXPECT_GE(alarm.fired_ms + 1, armed + 100) << "counted from before the sleep";
  close(two.near);
}

TEST_P(LoopTest, TheSplicedBytesAreTheBytes) {
  Two two = loopback::connected();
  int pipe_fds[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_NONBLOCK), 0);
  Fd read_end(pipe_fds[0]);
  Fd write_end(pipe_fds[1]);
  EXPECT_EQ(loop->try_splice(two.near.get(), write_end.get(), 65536), -EAGAIN);
  ASSERT_EQ(::send(two.far.get(), "spliced", 7, 0), 7);
  ASSERT_TRUE(run_until(*loop, [&] { return loop->bytes_readable(two.near.get()) == 7; }));
  EXPECT_EQ(loop->try_splice(two.near.get(), write_end.get(), 65536), 7);
  EXPECT_EQ(loop->try_splice(read_end.get(), two.near.get(), 7), 7);
  EXPECT_EQ(read_all(*loop, two.far.get(), 7), "spliced");
  EXPECT_EQ(loop->shutdown_write(two.near.get()), 0);
  close(two.near);
}

TEST_P(LoopTest, ASocketTellsWhetherAnyOfWhatWaitsInItLeftLately) {
  Two two = loopback::connected(16384);
  const std::string bytes = pattern(1 << 20);
  ASSERT_TRUE(run_until(*loop, [&] { return loop->try_send(two.near.get(), bytes.data(), bytes.size()) == -EAGAIN; }));
  run_for(*loop, 300);  // a peer that does not read; the kernel probes its window meanwhile
  EXPECT_GE(loop->sent_ms_ago(two.near.get()), 250u);
  EXPECT_TRUE(run_until(*loop, [&] {
    read_all(*loop, two.far.get(), 20'000, 10);
    loop->try_send(two.near.get(), bytes.data(), bytes.size());
    return loop->sent_ms_ago(two.near.get()) < 200;
  }));
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  EXPECT_EQ(loop->sent_ms_ago(pair[0]), UINT32_MAX);
  ::close(pair[0]);
  ::close(pair[1]);
  close(two.near);
}

TEST_P(LoopTest, ClosingWithAResetIsSeenAsOneAndClosingWithoutIsNot) {
  for (const CloseWith with : {CloseWith::kReset, CloseWith::kFin}) {
    Two two = loopback::connected();
    loop->close(two.near.release(), with);
    char byte;
    ssize_t n = -1;
    ASSERT_TRUE(run_until(*loop, [&] {
      n = ::recv(two.far.get(), &byte, 1, MSG_DONTWAIT);
      return n == 0 || errno != EAGAIN;
    }));
    if (with == CloseWith::kReset) {
      EXPECT_TRUE(n < 0 && errno == ECONNRESET);
    } else {
      EXPECT_EQ(n, 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Loops, LoopTest, testing::Values(IoKind::kUring, IoKind::kEpoll), loop_of);

}  // namespace
}  // namespace natrp
