#include "agent/service_names.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "loop/loop_of.h"
#include "loop/mailbox.h"
#include "loop/recorder.h"

namespace natrp {
namespace {

using Found = Resolver::Found;

// The DNS of the test. Outlives the names, whose lookups may be under way when they go.
struct Dns {
  std::mutex mutex;
  std::condition_variable speaks;
  std::map<std::string, std::string> hosts;  // no entry: there is none
  std::map<std::string, unsigned> asked;
  bool is_silent = false;

  Found look_up(const HostPort& of) {
    std::unique_lock lock(mutex);
    speaks.wait(lock, [this] { return !is_silent; });
    ++asked[of.host];
    const auto found = hosts.find(of.host);
    if (found == hosts.end()) return Error{"cannot resolve host '" + of.host + "'"};
    return std::vector<Address>{Address::parse(found->second).value()};
  }
  void set(const std::string& host, const std::string& address) {
    const std::lock_guard lock(mutex);
    address.empty() ? void(hosts.erase(host)) : void(hosts[host] = address);
  }
  void be_silent(bool silent) {
    const std::lock_guard lock(mutex);
    is_silent = silent;
    speaks.notify_all();
  }
  unsigned times_asked(const std::string& host) {
    const std::lock_guard lock(mutex);
    return asked[host];
  }
};

class ServiceNamesTest : public testing::Test {
 protected:
  void TearDown() override { dns->be_silent(false); }
  void make(const std::vector<std::string>& locals) {
    std::vector<TunnelOptions> tunnels;
    for (const std::string& local : locals) tunnels.push_back({.name = "to " + local, .local = local});
    names = std::make_unique<ServiceNames>(
        mailbox, tunnels, now_ms, [this] { ++changes; }, [dns = dns](const HostPort& of) { return dns->look_up(of); });
  }
  const ServiceAddresses::Service& service(unsigned index) { return names->addresses()->services[index]; }
  std::string address(unsigned index) {
    return service(index).addresses.empty() ? "" : service(index).addresses.front().text();
  }
  bool until(const std::function<bool()>& done) { return run_until(*loop, done); }
  void pass(uint32_t milliseconds) { names->tick(now_ms += milliseconds); }
  // What was asked has its answer, if it has one at all.
  void settle() {
    run_until(*loop, [] { return false; }, 100);
  }

  std::shared_ptr<Dns> dns = std::make_shared<Dns>();
  std::unique_ptr<Loop> loop = make_loop(IoKind::kEpoll).value().loop;
  Mailbox mailbox{*loop};
  std::unique_ptr<ServiceNames> names;
  uint64_t now_ms = 1'000'000;
  unsigned changes = 0;
};

TEST_F(ServiceNamesTest, AnAddressNeedsNoLookupAndANameHasOneAtTheStart) {
  dns->set("known", "127.0.0.1:80");
  make({"127.0.0.1:1", "unix:/run/service", "known:80"});
  for (unsigned i = 0; i < 3; ++i) EXPECT_TRUE(service(i).awaited) << i;
  EXPECT_TRUE(until([&] { return changes == 3; }));
  for (unsigned i = 0; i < 3; ++i) EXPECT_FALSE(service(i).awaited) << i;
  EXPECT_EQ(address(0), "127.0.0.1:1");
  EXPECT_EQ(address(1), "unix:/run/service");
  EXPECT_EQ(address(2), "127.0.0.1:80");
}

TEST_F(ServiceNamesTest, ANameWithoutAnAddressIsAskedForAgainAndToldOnce) {
  make({"later:80"});
  testing::internal::CaptureStderr();
  EXPECT_TRUE(until([&] { return !service(0).awaited; }));
  EXPECT_EQ(address(0), "");
  pass(4999);
  settle();
  EXPECT_EQ(dns->times_asked("later"), 1u);
  pass(1);
  EXPECT_TRUE(until([&] { return dns->times_asked("later") == 2; }));
  settle();
  dns->set("later", "127.0.0.1:80");
  pass(5000);
  EXPECT_TRUE(until([&] { return address(0) == "127.0.0.1:80"; }));
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("visitors are reset until it can be"), std::string::npos) << log;
  EXPECT_EQ(log.find("cannot resolve"), log.rfind("cannot resolve")) << log;
  EXPECT_NE(log.find("has an address now"), std::string::npos) << log;
}

TEST_F(ServiceNamesTest, ADnsServerThatIsSilentIsNotAwaitedForLong) {
  dns->be_silent(true);
  dns->set("slow", "127.0.0.1:80");
  make({"slow:80"});
  testing::internal::CaptureStderr();
  pass(4999);
  settle();
  EXPECT_TRUE(service(0).awaited);
  pass(1);
  EXPECT_FALSE(service(0).awaited);
  EXPECT_EQ(address(0), "");
  dns->be_silent(false);
  EXPECT_TRUE(until([&] { return address(0) == "127.0.0.1:80"; }));
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("still being looked up"), std::string::npos) << log;
}

TEST_F(ServiceNamesTest, AServiceThatIsNotReachedMayHaveMoved) {
  dns->set("moves", "127.0.0.1:80");
  dns->set("stays", "127.0.0.2:80");
  make({"moves:80", "stays:80"});
  EXPECT_TRUE(until([&] { return address(0) != "" && address(1) != ""; }));
  const unsigned before = changes, stays = dns->times_asked("stays");
  names->doubt(0);
  pass(5000);
  EXPECT_TRUE(until([&] { return dns->times_asked("moves") == 2; }));
  settle();
  EXPECT_EQ(changes, before) << "it is where it was";
  dns->set("moves", "127.0.0.3:80");
  names->doubt(0);
  pass(5000);
  EXPECT_TRUE(until([&] { return address(0) == "127.0.0.3:80"; }));
  EXPECT_EQ(dns->times_asked("stays"), stays);
  pass(60'000);
  settle();
  EXPECT_EQ(dns->times_asked("moves"), 3u) << "nobody doubts it";
}

TEST_F(ServiceNamesTest, WhatIsKnownIsKeptWhereALookupFails) {
  dns->set("known", "127.0.0.1:80");
  make({"known:80"});
  EXPECT_TRUE(until([&] { return address(0) != ""; }));
  dns->set("known", "");
  testing::internal::CaptureStderr();
  names->doubt(0);
  names->doubt(4711);
  pass(5000);
  EXPECT_TRUE(until([&] { return dns->times_asked("known") == 2; }));
  settle();
  EXPECT_EQ(address(0), "127.0.0.1:80");
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("visitors go where it was"), std::string::npos) << log;
  dns->set("known", "127.0.0.1:80");
  testing::internal::CaptureStderr();
  names->doubt(0);
  pass(5000);
  EXPECT_TRUE(until([&] { return dns->times_asked("known") == 3; }));
  settle();
  EXPECT_NE(testing::internal::GetCapturedStderr().find("can be looked up again"), std::string::npos);
}

}  // namespace
}  // namespace natrp
