#include "net/resolver.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <string>
#include <vector>

#include "loop/loop_of.h"
#include "loop/mailbox.h"
#include "loop/no_threads.h"
#include "loop/recorder.h"

namespace natrp {
namespace {

// What a lookup of the test does: a name that begins with "slow" has its answer when the test lets it, as one whose DNS
// server is dead. The answer is an error with the name. Outlives the resolver, whose threads may be in it when it goes.
struct Names {
  std::promise<void> let;
  std::shared_future<void> slow_ones{let.get_future()};
  std::atomic<int> asked{0};

  Resolver::Found look_up(const HostPort& host_port) {
    ++asked;
    if (host_port.host.starts_with("slow")) slow_ones.wait();
    return Error{host_port.host};
  }
};

class ResolverTest : public LoopSuite {
 protected:
  void SetUp() override {
    LoopSuite::SetUp();
    if (IsSkipped()) return;
    mailbox = std::make_unique<Mailbox>(*loop);
    resolver = std::make_unique<Resolver>(*mailbox,
                                          [names = names](const HostPort& of) { return names->look_up(of); });
  }
  void resolve(const std::string& name) {
    Target target;
    target.host_port = {name, 80};
    resolver->resolve(target, [this](Resolver::Found found) { answers.push_back(found.error().message); });
  }

  std::shared_ptr<Names> names = std::make_shared<Names>();
  std::unique_ptr<Mailbox> mailbox;
  std::unique_ptr<Resolver> resolver;
  std::vector<std::string> answers;
};

TEST_P(ResolverTest, NamesThatTakeLongHoldNobodyUp) {
  for (int i = 0; i < 7; ++i) resolve("slow" + std::to_string(i));
  for (const std::string name : {"quick", "quicker", "quickest"}) {
    answers.clear();
    resolve(name);
    EXPECT_TRUE(run_until(*loop, [&] { return !answers.empty(); })) << name;
    EXPECT_EQ(answers, std::vector<std::string>{name});
  }
  answers.clear();
  names->let.set_value();
  EXPECT_TRUE(run_until(*loop, [&] { return answers.size() == 7; })) << answers.size();
}

TEST_P(ResolverTest, AHundredNamesHaveAnAnswerEach) {
  for (int i = 0; i < 100; ++i) resolve("slow" + std::to_string(i));
  EXPECT_TRUE(run_until(*loop, [&] { return names->asked > 1; }));
  names->let.set_value();
  EXPECT_TRUE(run_until(*loop, [&] { return answers.size() == 100; })) << answers.size();
  EXPECT_EQ(names->asked, 100);
}

TEST_P(ResolverTest, WithoutAThreadTheAnswerSaysSoAndLaterOnesAreLookedUp) {
  {
    const NoThreads none;
    resolve("first");
  }
  EXPECT_TRUE(run_until(*loop, [&] { return answers.size() == 1; }));
  EXPECT_NE(answers.at(0).find("'first': the system gives no thread"), std::string::npos) << answers.at(0);
  resolve("second");
  EXPECT_TRUE(run_until(*loop, [&] { return answers.size() == 2; }));
  EXPECT_EQ(answers.at(1), "second");
}

TEST_P(ResolverTest, WhereNoMoreThreadsAreToBeHadThoseThatAreThereDoIt) {
  resolve("slow");
  EXPECT_TRUE(run_until(*loop, [&] { return names->asked == 1; }));
  const NoThreads none;
  resolve("quick");
  names->let.set_value();
  EXPECT_TRUE(run_until(*loop, [&] { return answers.size() == 2; }));
  EXPECT_EQ(answers, (std::vector<std::string>{"slow", "quick"}));
}

TEST_P(ResolverTest, WhoGoesWaitsForNoLookupAndHearsOfNone) {
  resolve("slow");
  EXPECT_TRUE(run_until(*loop, [&] { return names->asked == 1; }));
  resolver.reset();
  names->let.set_value();
  for (int turn = 0; turn < 5; ++turn) loop->run_once(10);
  EXPECT_TRUE(answers.empty());
}

INSTANTIATE_TEST_SUITE_P(Loops, ResolverTest, testing::Values(IoKind::kUring, IoKind::kEpoll), loop_of);

}  // namespace
}  // namespace natrp
