#include "control/control_channel.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <functional>
#include <memory>
#include <vector>

#include "control/tls_identity.h"
#include "loop/recorder.h"
#include "temp_dir.h"

namespace natrp {
namespace {

// One end: remembers what it was told, and deletes its channel in on_closed, as an owner may.
struct End final : ControlChannelEvents {
  std::unique_ptr<ControlChannel> channel;
  std::vector<wire::Frame> frames;
  int secure = 0;
  int closed = 0;
  std::string why;
  bool fatal = false;
  std::function<void()> then_on_secure;
  std::function<void(const wire::Frame&)> then_on_frame;

  void on_secure() override {
    ++secure;
    if (then_on_secure) then_on_secure();
  }
  void on_frame(const wire::Frame& frame) override {
    EXPECT_EQ(closed, 0);
    frames.push_back(frame);
    if (then_on_frame) then_on_frame(frame);
  }
  void on_closed(const std::string& sentence, bool is_fatal) override {
    ++closed;
    why = sentence;
    fatal = is_fatal;
    EXPECT_TRUE(channel->landed());
    channel.reset();
  }
};

wire::Frame bye(const std::string& reason) {
  wire::Frame frame;
  frame.mutable_bye()->set_reason(reason);
  return frame;
}

struct LoopCase {
  IoKind kind;
  const char* name;
};

class ControlChannelTest : public testing::TestWithParam<LoopCase> {
 protected:
  void SetUp() override {
    auto choice = make_loop(GetParam().kind);
    if (!choice) GTEST_SKIP() << choice.error().message;
    loop_ = std::move(choice.value().loop);
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    edge_fd_ = Fd(fds[0]);
    agent_fd_ = Fd(fds[1]);
  }
  void TearDown() override {
    // Whatever is left is retired as an owner has to.
    for (End* end : {&edge_, &agent_}) {
      if (end->channel) end->channel->close("the test is over");
    }
    if (!loop_) return;
    EXPECT_TRUE(run_until([&] { return !edge_.channel && !agent_.channel; }));
  }

  bool run_until(const std::function<bool()>& done, uint32_t patience_ms = 5000) {
    return natrp::run_until(*loop_, done, patience_ms);
  }
  void run_for(uint32_t duration_ms) { natrp::run_for(*loop_, duration_ms); }

  void make_edge(std::string_view prefix = {}, ControlChannelTimes times = {}) {
    edge_.channel = std::make_unique<ControlChannel>(
        *loop_, std::move(edge_fd_), TlsStream::server(identity()), edge_, prefix, times);
  }
  void make_agent(ControlChannelTimes times = {}) {
    agent_.channel = std::make_unique<ControlChannel>(
        *loop_, std::move(agent_fd_), TlsStream::client(verify_).value(), agent_, std::string_view(), times);
  }
  void open(ControlChannelTimes edge_times = {}, ControlChannelTimes agent_times = {}) {
    make_edge({}, edge_times);
    make_agent(agent_times);
    ASSERT_TRUE(run_until([&] { return edge_.secure == 1 && agent_.secure == 1; }))
        << edge_.why << agent_.why;
  }

  // Carries bytes between agent_fd_ and a bare TlsStream: an agent that does what a ControlChannel never would.
  void carry(TlsStream& agent) {
    std::string out;
    agent.take_output(out);
    if (!out.empty()) {
      ASSERT_EQ(::send(agent_fd_.get(), out.data(), out.size(), 0), static_cast<ssize_t>(out.size()));
    }
    uint8_t in[8192];
    const ssize_t n = ::recv(agent_fd_.get(), in, sizeof in, MSG_DONTWAIT);
    if (n > 0) agent.feed({in, static_cast<size_t>(n)});
  }

  static const TlsIdentity& identity() {
    static TempDir dir;
    static const TlsIdentity made = TlsIdentity::load_or_create(dir.path()).value();
    return made;
  }

  std::unique_ptr<Loop> loop_;
  ClientVerify verify_ = [] {
    ClientVerify verify;
    verify.pin = identity().pin();
    return verify;
  }();
  Fd edge_fd_;
  Fd agent_fd_;
  End edge_;
  End agent_;
};

TEST_P(ControlChannelTest, CarriesFramesInOrderBothWays) {
  open();
  EXPECT_EQ(edge_.channel->ticket_key(), agent_.channel->ticket_key());
  for (int i = 0; i < 50; ++i) {
    agent_.channel->send(bye(std::string(static_cast<size_t>(i) * 400, 'a') + std::to_string(i)));
    edge_.channel->send(bye(std::to_string(i)));
  }
  ASSERT_TRUE(run_until([&] { return edge_.frames.size() == 50 && agent_.frames.size() == 50; }));
  for (size_t i = 0; i < 50; ++i) {
    EXPECT_EQ(edge_.frames[i].bye().reason(), std::string(i * 400, 'a') + std::to_string(i));
    EXPECT_EQ(agent_.frames[i].bye().reason(), std::to_string(i));
  }
}

TEST_P(ControlChannelTest, BytesThatWereReceivedBeforeAreTheBeginning) {
  // The agent speaks first; the edge has looked at some of it to know what it is.
  make_agent();
  char prefix[700];
  ssize_t n = -1;
  ASSERT_TRUE(run_until([&] { return (n = ::recv(edge_fd_.get(), prefix, 100, MSG_DONTWAIT)) > 0; }));
  make_edge({prefix, static_cast<size_t>(n)});
  EXPECT_TRUE(run_until([&] { return edge_.secure == 1 && agent_.secure == 1; }));
}

TEST_P(ControlChannelTest, AWholeClientHelloInThePrefixIsAnsweredWithoutMoreBytes) {
  make_agent();
  char prefix[4096];
  ssize_t n = -1;
  ASSERT_TRUE(
      run_until([&] { return (n = ::recv(edge_fd_.get(), prefix, sizeof prefix, MSG_DONTWAIT)) > 0; }));
  make_edge({prefix, static_cast<size_t>(n)});
  EXPECT_TRUE(run_until([&] { return edge_.secure == 1 && agent_.secure == 1; }));
}

TEST_P(ControlChannelTest, WhatIsSentBeforeTlsIsDoneWaitsForIt) {
  make_edge();
  make_agent();
  agent_.channel->send(bye("early"));
  ASSERT_TRUE(run_until([&] { return edge_.frames.size() == 1; }));
  EXPECT_EQ(edge_.frames[0].bye().reason(), "early");
}

TEST_P(ControlChannelTest, WhatWasSentBeforeCloseArrivesAndBothEndsCloseOnce) {
  open();
  // The agent's unread bytes would make the kernel answer the edge's close with a RST.
  for (int i = 0; i < 20; ++i) agent_.channel->send(bye(std::string(30'000, 'x')));
  edge_.channel->send(bye("the last word"));
  edge_.channel->close("the edge is done");
  edge_.channel->close("a second time");
  EXPECT_TRUE(edge_.channel->closing());
  EXPECT_EQ(edge_.closed, 0) << "on_closed came inside close()";
  ASSERT_TRUE(run_until([&] { return edge_.closed == 1 && agent_.closed == 1; }));
  ASSERT_EQ(agent_.frames.size(), 1u);
  EXPECT_EQ(agent_.frames[0].bye().reason(), "the last word");
  EXPECT_EQ(edge_.why, "the edge is done");
  EXPECT_NE(agent_.why.find("the edge closed"), std::string::npos) << agent_.why;
  EXPECT_FALSE(agent_.fatal);
  run_for(30);
  EXPECT_EQ(edge_.closed, 1);
  EXPECT_EQ(agent_.closed, 1);
}

TEST_P(ControlChannelTest, TheOwnerMayCloseInsideAFrameAndNoFrameComesAfter) {
  open();
  edge_.then_on_frame = [&](const wire::Frame&) {
    edge_.channel->send(bye("answer"));
    edge_.channel->close("enough");
  };
  for (int i = 0; i < 5; ++i) agent_.channel->send(bye(std::to_string(i)));
  ASSERT_TRUE(run_until([&] { return edge_.closed == 1 && agent_.closed == 1; }));
  EXPECT_EQ(edge_.frames.size(), 1u);
  ASSERT_EQ(agent_.frames.size(), 1u);
  EXPECT_EQ(agent_.frames[0].bye().reason(), "answer");
  EXPECT_EQ(edge_.why, "enough");
}

TEST_P(ControlChannelTest, TheOwnerMayCloseInsideOnSecure) {
  agent_.then_on_secure = [&] { agent_.channel->close("changed my mind"); };
  make_edge();
  make_agent();
  ASSERT_TRUE(run_until([&] { return edge_.closed == 1 && agent_.closed == 1; }));
  EXPECT_EQ(agent_.why, "changed my mind");
}

TEST_P(ControlChannelTest, APeerThatNeverClosesIsNotWaitedForLong) {
  ControlChannelTimes times;
  times.close_timeout_ms = 60;
  make_edge({}, times);
  edge_.channel->close("nobody listens");
  ASSERT_TRUE(run_until([&] { return edge_.closed == 1; }, 1000));
  EXPECT_EQ(edge_.why, "nobody listens");
}

TEST_P(ControlChannelTest, AWrongPinIsFatalForTheAgentAndOnlyForIt) {
  (*verify_.pin)[0] ^= 1;
  make_edge();
  make_agent();
  agent_.channel->send(bye("the secret"));
  ASSERT_TRUE(run_until([&] { return edge_.closed == 1 && agent_.closed == 1; }));
  EXPECT_TRUE(agent_.fatal);
  EXPECT_NE(agent_.why.find("another key than the token names"), std::string::npos) << agent_.why;
  EXPECT_FALSE(edge_.fatal);
  EXPECT_NE(edge_.why.find("bad certificate"), std::string::npos) << edge_.why;
  EXPECT_TRUE(edge_.frames.empty());
  EXPECT_EQ(agent_.secure, 0);
}

TEST_P(ControlChannelTest, AFrameThatIsTooLargeClosesTheChannelAndTheSenderIsTold) {
  make_edge();
  TlsStream agent = TlsStream::client(verify_).value();
  ASSERT_TRUE(run_until([&] {
    carry(agent);
    return edge_.secure == 1 && agent.handshake_done();
  }));
  const uint8_t too_large[4] = {0, 1, 0, 1};
  agent.write(too_large);
  FrameDecoder decoder;
  std::optional<wire::Frame> told;
  ASSERT_TRUE(run_until([&] {
    carry(agent);
    uint8_t plain[1000];
    while (const size_t n = agent.read(plain)) decoder.feed({plain, n});
    auto next = decoder.next();
    if (next && next.value()) told = next.value();
    return told.has_value();
  }));
  ASSERT_TRUE(told->has_bye());
  EXPECT_NE(told->bye().reason().find("65537 bytes"), std::string::npos) << told->bye().reason();
  agent_fd_.reset();
  ASSERT_TRUE(run_until([&] { return edge_.closed == 1; }));
  EXPECT_NE(edge_.why.find("the agent sent a frame of 65537 bytes"), std::string::npos) << edge_.why;
}

TEST_P(ControlChannelTest, GarbageClosesTheChannel) {
  make_edge("GET / HTTP/1.1\r\n\r\n");
  ASSERT_EQ(edge_.closed, 0) << "on_closed came inside the constructor";
  char in[1000];
  ASSERT_TRUE(run_until([&] { return ::recv(agent_fd_.get(), in, sizeof in, MSG_DONTWAIT) == 0; }));
  agent_fd_.reset();
  ASSERT_TRUE(run_until([&] { return edge_.closed == 1; }));
  EXPECT_NE(edge_.why.find("TLS handshake with the agent failed"), std::string::npos) << edge_.why;
}

TEST_P(ControlChannelTest, APeerThatIsGoneWithoutAWordIsALossAndNotFatal) {
  make_agent();
  edge_fd_.reset();  // as after kill -9: the kernel closes the other end
  ASSERT_TRUE(run_until([&] { return agent_.closed == 1; }));
  EXPECT_NE(agent_.why.find("the edge"), std::string::npos) << agent_.why;
  EXPECT_FALSE(agent_.fatal);
}

TEST_P(ControlChannelTest, HeartbeatsKeepAnIdleChannelAliveAndOnFrameDoesNotSeeThem) {
  ControlChannelTimes times;
  times.heartbeat_ms = 30;
  times.hello_timeout_ms = 100;
  open(times, times);
  edge_.channel->start_heartbeats();
  agent_.channel->start_heartbeats();
  run_for(400);
  EXPECT_EQ(edge_.closed, 0) << edge_.why;
  EXPECT_EQ(agent_.closed, 0) << agent_.why;
  EXPECT_TRUE(edge_.frames.empty());
  ASSERT_TRUE(edge_.channel != nullptr);
  EXPECT_LT(loop_->turn_ms() - edge_.channel->last_heard_ms(), 90u);
}

TEST_P(ControlChannelTest, ASilentPeerIsDeadAfterThreeMissesAndNotBefore) {
  ControlChannelTimes times;
  times.heartbeat_ms = 40;
  make_edge({}, times);
  // The agent's bytes are carried until TLS is done; then it is silent, though its socket stays open.
  TlsStream agent = TlsStream::client(verify_).value();
  ASSERT_TRUE(run_until([&] {
    carry(agent);
    return edge_.secure == 1;
  }));
  edge_.channel->start_heartbeats();
  const uint64_t heard_ms = edge_.channel->last_heard_ms();
  ASSERT_TRUE(run_until([&] { return edge_.closed == 1; }, 2000));
  EXPECT_GE(loop_->turn_ms() - heard_ms, 120u);
  EXPECT_EQ(edge_.why, "the agent was silent for 120 ms");
  EXPECT_FALSE(edge_.fatal);
}

TEST_P(ControlChannelTest, APeerThatNeverSpeaksTlsIsDroppedAtTheDeadline) {
  ControlChannelTimes times;
  times.hello_timeout_ms = 50;
  make_edge({}, times);
  ASSERT_TRUE(run_until([&] { return edge_.closed == 1; }, 1000));
  EXPECT_EQ(edge_.why, "the TLS handshake with the agent was not done within 50 ms");
}

TEST_P(ControlChannelTest, APeerThatNeverOpensASessionIsDroppedAtTheDeadline) {
  ControlChannelTimes times;
  times.hello_timeout_ms = 150;
  open(times, {});
  ASSERT_TRUE(run_until([&] { return edge_.closed == 1; }, 1000));
  EXPECT_EQ(edge_.why, "no session with the agent was opened within 150 ms");
}

TEST_P(ControlChannelTest, APeerThatDoesNotReadIsLostAtOneMebibyte) {
  make_edge();
  TlsStream agent = TlsStream::client(verify_).value();
  ASSERT_TRUE(run_until([&] {
    carry(agent);
    return edge_.secure == 1;
  }));
  for (int i = 0; i < 60 && !edge_.channel->closing(); ++i) {
    edge_.channel->send(bye(std::string(60'000, 'x')));
    loop_->run_once(0);
    if (!edge_.channel) break;
  }
  ASSERT_TRUE(run_until([&] { return edge_.closed == 1; }));
  EXPECT_NE(edge_.why.find("the agent does not read"), std::string::npos) << edge_.why;
}

INSTANTIATE_TEST_SUITE_P(EveryLoop, ControlChannelTest,
                         testing::Values(LoopCase{IoKind::kEpoll, "epoll"},
                                         LoopCase{IoKind::kUring, "uring"}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace natrp
