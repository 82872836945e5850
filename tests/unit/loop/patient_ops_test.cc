// Messages before streams: what Loop::set_messages_first() promises, on both loops.
#include "loop/patient_ops.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "loop/loop_of.h"
#include "loop/recorder.h"
#include "net/loopback.h"

namespace natrp {
namespace {

using loopback::Two;

class PatientOpsTest : public LoopSuite {
 protected:
  void SetUp() override {
    LoopSuite::SetUp();
    if (IsSkipped()) return;
    loop->set_messages_first(true);
  }
};

// Streams whose polls are ready whenever they are asked: nobody reads what the far end has sent.
struct ReadyStreams {
  static constexpr size_t kStreams = 4;
  std::vector<Two> conns;
  std::vector<std::unique_ptr<Recorder>> polls;
  std::vector<size_t> order;

  explicit ReadyStreams(Loop& loop) {
    for (size_t i = 0; i < kStreams; ++i) {
      conns.push_back(loopback::connected());
      loopback::must(::send(conns[i].far.get(), "x", 1, 0) == 1, "send");
      polls.push_back(std::make_unique<Recorder>(OpKind::kPoll, conns[i].near.get(), nullptr, POLLIN));
      polls[i]->op.patient = true;
      polls[i]->then = [this, i](Recorder&) { order.push_back(i); };
      loop.submit(polls[i]->op);
    }
  }
  bool over() const { return order.size() == kStreams; }
};

TEST_P(PatientOpsTest, StreamsHaveOneTurnEachAndMessagesAreHandledBeforeThem) {
  ReadyStreams streams(*loop);
  Two two = loopback::connected();
  char byte;
  size_t streams_before = ~0u;
  Recorder message(OpKind::kRecv, two.near.get(), &byte, 1);
  message.op.patient = true;  // left from when its op was a stream's poll
  message.then = [&](Recorder&) { streams_before = streams.order.size(); };
  loop->submit(message.op);
  ASSERT_EQ(::send(two.far.get(), "m", 1, 0), 1);
  size_t at_once = 0;
  ASSERT_TRUE(run_until([&] {
    const size_t before = streams.order.size();
    loop->run_once(1000);
    at_once = std::max(at_once, streams.order.size() - before);
  }, [&] { return streams.over() && message.over(); }, 5000));
  EXPECT_EQ(at_once, 1u);
  EXPECT_EQ(streams_before, 0u);
  EXPECT_EQ(streams.order, (std::vector<size_t>{0, 1, 2, 3}));
  close(two.near);
  for (Two& conn : streams.conns) close(conn.near);
}

TEST_P(PatientOpsTest, AMessageIsSentBeforeTheStreamThatCameWithItHasItsTurn) {
  Two two = loopback::connected();
  char byte;
  Recorder answer(OpKind::kSend, two.near.get(), &byte, 1);
  Recorder message(OpKind::kRecv, two.near.get(), &byte, 1);
  message.then = [&](Recorder&) { loop->submit(answer.op); };
  loop->submit(message.op);
  loop->run_once(0);
  ASSERT_EQ(::send(two.far.get(), "m", 1, 0), 1);
  Two stream = loopback::connected();
  ASSERT_EQ(::send(stream.far.get(), "x", 1, 0), 1);
  Recorder poll(OpKind::kPoll, stream.near.get(), nullptr, POLLIN);
  poll.op.patient = true;
  char got = 0;
  poll.then = [&](Recorder&) { EXPECT_EQ(::recv(two.far.get(), &got, 1, MSG_DONTWAIT), 1); };
  loop->submit(poll.op);
  ASSERT_TRUE(run_until(*loop, [&] { return poll.over(); }));
  EXPECT_EQ(got, 'm');
  ASSERT_TRUE(run_until(*loop, [&] { return answer.over(); }));
  close(two.near);
  close(stream.near);
}

TEST_P(PatientOpsTest, AStreamHasItsTurnHoweverManyMessagesCome) {
  ReadyStreams streams(*loop);
  Two two = loopback::connected();
  char byte;
  Recorder answer(OpKind::kSend, two.near.get(), const_cast<char*>("a"), 1);
  Recorder message(OpKind::kRecv, two.near.get(), &byte, 1);
  // An echo of its own answer: a message in every turn.
  Recorder echo(OpKind::kRecv, two.far.get(), &byte, 1);
  Recorder again(OpKind::kSend, two.far.get(), const_cast<char*>("m"), 1);
  message.then = [&](Recorder&) { if (answer.over()) loop->submit(answer.op); };
  answer.then = [&](Recorder&) { loop->submit(message.op); };
  echo.then = [&](Recorder&) { if (again.over()) loop->submit(again.op); };
  again.then = [&](Recorder&) { loop->submit(echo.op); };
  loop->submit(message.op);
  loop->submit(again.op);
  unsigned turns = 0;
  while (!streams.over() && turns < 100) {
    loop->run_once(1000);
    ++turns;
  }
  EXPECT_TRUE(streams.over());
  EXPECT_LE(turns, 4 * ReadyStreams::kStreams);
  message.then = answer.then = echo.then = again.then = nullptr;
  for (Recorder* op : {&message, &answer, &echo, &again}) ASSERT_TRUE(land(*loop, *op));
  close(two.near);
  close(two.far);
  for (Two& conn : streams.conns) close(conn.near);
}

TEST_P(PatientOpsTest, StreamsThatWaitWhenMessagesNoLongerComeFirstGoTogether) {
  ReadyStreams streams(*loop);
  ASSERT_TRUE(run_until(*loop, [&] { return streams.order.size() == 1; }));
  loop->set_messages_first(false);
  loop->run_once(1000);
  EXPECT_TRUE(streams.over());
  for (Two& conn : streams.conns) close(conn.near);
}

TEST_P(PatientOpsTest, AStreamThatIsCancelledWhileItWaitsForMessagesEndsOnce) {
  ReadyStreams streams(*loop);
  ASSERT_TRUE(run_until(*loop, [&] { return streams.order.size() == 1; }));
  for (auto& poll : streams.polls) loop->cancel(poll->op);
  ASSERT_TRUE(run_until(*loop, [&] { return streams.over(); }));
  run_for(*loop, 20);
  for (auto& poll : streams.polls) EXPECT_EQ(poll->calls(), 1u);
  for (Two& conn : streams.conns) close(conn.near);
}

INSTANTIATE_TEST_SUITE_P(Loops, PatientOpsTest, testing::Values(IoKind::kUring, IoKind::kEpoll), loop_of);

}  // namespace
}  // namespace natrp
