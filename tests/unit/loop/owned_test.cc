#include "loop/owned.h"

#include <gtest/gtest.h>

#include <string>
#include <type_traits>
#include <vector>

namespace natrp {
namespace {

// As a class of the engine has them: private functions, and neither of its ops at its own address.
class Host {
 public:
  explicit Host(TimerWheel& wheel) : wheel_(wheel) {}
  ~Host() { wheel_.disarm(alarm_); }

  Op& receive() { return receive_; }
  Op& send() { return send_; }
  Timer& alarm() { return alarm_; }
  std::vector<std::string> calls;
  const Op* given = nullptr;

 private:
  void on_received(Op& op) {
    given = &op;
    calls.push_back("received");
  }
  void on_sent() { calls.push_back("sent"); }
  void on_alarm() { calls.push_back("alarm"); }

  TimerWheel& wheel_;
  OwnedOp<&Host::on_received> receive_{*this};
  OwnedOp<&Host::on_sent> send_{*this};
  OwnedTimer<&Host::on_alarm> alarm_{*this};

  static_assert(sizeof receive_ == sizeof(Op) + sizeof(void*), "which function it is costs no word");
  static_assert(!std::is_copy_constructible_v<OwnedOp<&Host::on_sent>>);
  static_assert(!std::is_copy_constructible_v<OwnedTimer<&Host::on_alarm>>);
};

class OwnedTest : public testing::Test {
 protected:
  void SetUp() override { wheel.start_at(1000); }
  TimerWheel wheel;
  Host first{wheel};
  Host second{wheel};
};

TEST_F(OwnedTest, AnOpCallsTheFunctionOfItsOwnOwnerAndIsGivenToIt) {
  second.receive().handler(second.receive());
  EXPECT_EQ(second.calls, std::vector<std::string>{"received"});
  EXPECT_EQ(second.given, &second.receive());
  EXPECT_TRUE(first.calls.empty());
}

TEST_F(OwnedTest, AFunctionThatTakesNoOpIsCalledWithoutIt) {
  first.send().handler(first.send());
  EXPECT_EQ(first.calls, std::vector<std::string>{"sent"});
  EXPECT_TRUE(second.calls.empty());
}

TEST_F(OwnedTest, ATimerThatIsDueCallsTheFunctionOfItsOwnOwner) {
  wheel.arm(first.alarm(), 100);
  wheel.arm(second.alarm(), 10);
  wheel.advance(1050);
  EXPECT_EQ(second.calls, std::vector<std::string>{"alarm"});
  EXPECT_TRUE(first.calls.empty());
  wheel.advance(1150);
  EXPECT_EQ(first.calls, std::vector<std::string>{"alarm"});
  EXPECT_EQ(second.calls.size(), 1u);
}

TEST_F(OwnedTest, ItsFunctionMayDeleteTheOwner) {
  struct Brief {
    void on_op() { delete this; }
    OwnedOp<&Brief::on_op> op{*this};
  };
  auto* brief = new Brief;
  brief->op.handler(brief->op);  // the address sanitizer would see a touch afterwards
}

}  // namespace
}  // namespace natrp
