// Messages out of their order, and with values that cannot be: the session ends with a sentence, and the edge goes on.
#include <utility>

#include "edge/live_edge.h"

namespace natrp {
namespace {

wire::Frame of_an_edge() {
  wire::Frame frame;
  frame.mutable_welcome()->set_client("client");
  return frame;
}

struct Case {
  std::vector<wire::Frame> said;
  const char* answer;
  bool is_strangers;  // before there was a session: counted
  bool final = false;
};

class WrongMessages : public LiveEdgeTest {};

TEST_F(WrongMessages, EndTheSessionInASentence) {
  add_client("client");
  const Case kCases[] = {
      {{hello_frame(), hello_frame()}, "a second Hello", true},
      {{hello_frame(), auth_frame("client"), hello_frame()}, "a second Hello", false},
      {{hello_frame("the same process", 2)}, "speaks protocol 2, this edge speaks 1", false, true},
      {{hello_frame("fifteen bytes..")}, "an instance id that has not 16 bytes", true},
      {{hello_frame("")}, "an instance id that has not 16 bytes", true},
      {{auth_frame("client")}, "Auth before Hello", true},
      {{hello_frame(), auth_frame("client"), auth_frame("client")}, "Auth before Hello, or twice", false},
      {{wish_frame(0, "web")}, "Register before Auth", true},
      {{hello_frame(), wish_frame(0, "web")}, "Register before Auth", true},
      {{of_an_edge()}, "a message that an agent does not send", true},
      {{hello_frame(), auth_frame("client"), of_an_edge()}, "a message that an agent does not send", false},
  };
  uint64_t strangers = 0;
  for (const Case& each : kCases) {
    SCOPED_TRACE(each.answer);
    HandAgent& agent = connect_agent();
    for (const wire::Frame& frame : each.said) agent.send(frame);
    ASSERT_TRUE(until([&] { return agent.closed(); }));
    ASSERT_NE(agent.refused(), nullptr) << agent.why_closed;
    EXPECT_EQ(agent.refused()->code(), wire::Refused::PROTOCOL);
    EXPECT_EQ(agent.refused()->final(), each.final);
    EXPECT_NE(agent.refused()->message().find(each.answer), std::string::npos) << agent.refused()->message();
    strangers += each.is_strangers ? 1 : 0;
    EXPECT_TRUE(until([&] { return count(Counter::kGarbageRefused) == strangers; })) << count(Counter::kGarbageRefused);
  }
  EXPECT_NE(lease(open_session("client"), "web"), 0);
}

TEST_F(WrongMessages, OfOneTunnelEndThatAlone) {
  add_client("client");
  HandAgent& agent = open_session("client");
  const uint16_t port = lease(agent, "web");
  const std::pair<wire::Frame, wire::Refused::Code> kCases[] = {
      {wish_frame(1, "app", 65536), wire::Refused::PORT_NOT_ALLOWED},
      {wish_frame(1, "app", ports_.front() + 65536u), wire::Refused::PORT_NOT_ALLOWED},
      {wish_frame(256, "app"), wire::Refused::TOO_MANY_TUNNELS},
      {wish_frame(1, "no name"), wire::Refused::PROTOCOL},
  };
  for (const auto& [frame, code] : kCases) {
    SCOPED_TRACE(frame.register_tunnel().name() + " " + std::to_string(frame.register_tunnel().wanted_port()));
    agent.heard.clear();
    agent.send(frame);
    ASSERT_TRUE(until([&] { return agent.refused() != nullptr; }));
    EXPECT_EQ(agent.refused()->code(), code) << agent.refused()->message();
    EXPECT_TRUE(agent.refused()->final());
  }
  EXPECT_FALSE(agent.closed());
  EXPECT_TRUE(listening(port));
}

// A port that cannot be is a hint like none.
TEST_F(WrongMessages, OfAPortThatAnAgentSaysItHadAreNoMistake) {
  add_client("client");
  HandAgent& agent = open_session("client");
  wire::Frame frame = wish_frame(0, "web");
  frame.mutable_register_tunnel()->set_had_port(65536u + ports_[3]);
  agent.send(frame);
  EXPECT_TRUE(until([&] { return agent.port() != 0; }));
  wire::Frame other = wish_frame(1, "app");
  const uint16_t free = agent.port() == ports_[2] ? ports_[1] : ports_[2];
  other.mutable_register_tunnel()->set_had_port(free);
  agent.send(other);
  EXPECT_TRUE(until([&] { return agent.port() == free; }));
}

}  // namespace
}  // namespace natrp
