#include "net/dialer.h"

#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "loop/loop_of.h"
#include "loop/recorder.h"
#include "net/loopback.h"

namespace natrp {
namespace {

// Gives the calling thread a network of its own with nothing but 127.0.0.0/8 and ::1, where every socket that connects
// gets this port. Empty, or why that is not to be had.
std::string enter_network_with_one_port(uint16_t port) {
  if (::unshare(CLONE_NEWNET) != 0) return std::string("no network of its own: ") + std::strerror(errno);
  const Fd any(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq loopback_up{};
  std::memcpy(loopback_up.ifr_name, "lo", sizeof "lo");
  loopback_up.ifr_flags = IFF_UP;
  if (::ioctl(any.get(), SIOCSIFFLAGS, &loopback_up) != 0) return std::string("lo: ") + std::strerror(errno);
  const Fd range(::open("/proc/sys/net/ipv4/ip_local_port_range", O_WRONLY | O_CLOEXEC));
  const std::string text = std::to_string(port) + " " + std::to_string(port);
  if (::write(range.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return std::string("ip_local_port_range: ") + std::strerror(errno);
  }
  return {};
}

// Whether somebody may listen there.
bool is_free(const Address& address) {
  const Fd fd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  return ::bind(fd.get(), address.get(), address.length()) == 0;
}

class DialTest : public testing::TestWithParam<IoKind> {
 protected:
  void SetUp() override { make_dial(); }
  void make_dial() {
    auto made = make_loop(GetParam());
    if (!made.ok()) GTEST_SKIP() << made.error().message;
    loop = std::move(made.value().loop);
    dial = std::make_unique<Dial>(
        *loop,
        [](void* context, int fd, int error) {
          auto& self = *static_cast<DialTest*>(context);
          self.fd.reset(fd);
          self.error = error;
          ++self.calls;
        },
        this);
  }
  bool done() {
    const int before = calls;
    return calls == 1 || run_until(*loop, [&] { return calls > before; });
  }
  // Bound and not listening: a connect is refused.
  Address refusing() {
    Fd bound(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in any = loopback::any_port();
    loopback::must(::bind(bound.get(), reinterpret_cast<sockaddr*>(&any), sizeof any) == 0, "bind");
    held.push_back(std::move(bound));
    return local_address(held.back().get());
  }
  // A full backlog: the kernel drops the SYN, and a connect hangs.
  Address silent() {
    full = loopback::listener(0);
    for (int i = 0; i < 3; ++i) {
      held.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      (void)::connect(held.back().get(), full.address.get(), full.address.length());
    }
    return full.address;
  }
  std::unique_ptr<Loop> loop;
  std::unique_ptr<Dial> dial;
  loopback::Listener full;
  std::vector<Fd> held;
  Fd fd;
  int error = -1;
  int calls = 0;
};

TEST_P(DialTest, AConnectionThatComesIsHandedOver) {
  loopback::Listener listener = loopback::listener();
  dial->start({listener.address}, 2000, {});
  EXPECT_EQ(calls, 0) << "never inside start()";
  EXPECT_TRUE(dial->running());
  ASSERT_TRUE(done());
  EXPECT_EQ(error, 0);
  ASSERT_TRUE(fd.valid());
  EXPECT_EQ(peer_address(fd.get()).text(), listener.address.text());
  EXPECT_FALSE(dial->running());
}

TEST_P(DialTest, TheNextAddressIsTriedWhenOneRefuses) {
  loopback::Listener listener = loopback::listener();
  dial->start({refusing(), refusing(), listener.address}, 2000, {});
  ASSERT_TRUE(done());
  EXPECT_EQ(error, 0);
  EXPECT_EQ(peer_address(fd.get()).text(), listener.address.text());
}

TEST_P(DialTest, WhenAllRefuseTheLastErrorIsTold) {
  dial->start({refusing(), refusing()}, 2000, {});
  ASSERT_TRUE(done());
  EXPECT_EQ(error, ECONNREFUSED);
  EXPECT_FALSE(fd.valid());
}

TEST_P(DialTest, WithoutAnAddressItFailsAfterStart) {
  dial->start({}, 2000, {});
  EXPECT_EQ(calls, 0);
  ASSERT_TRUE(done());
  EXPECT_EQ(error, EHOSTUNREACH);
}

TEST_P(DialTest, AUnixServiceThatIsNotThereIsRefused) {
  dial->start({Address::unix_path("/nonexistent/service.sock").value()}, 2000, {});
  ASSERT_TRUE(done());
  EXPECT_EQ(error, ENOENT);
}

TEST_P(DialTest, ASilentAddressLeavesTheNextOnesTheirShareOfTheTime) {
  const Address address = silent();
  loopback::Listener listener = loopback::listener();
  dial->start({address, listener.address}, 400, {});
  ASSERT_TRUE(done());
  EXPECT_EQ(error, 0);
  ASSERT_TRUE(fd.valid());
  EXPECT_EQ(peer_address(fd.get()).text(), listener.address.text());
}

TEST_P(DialTest, ASilentAddressTakesNoMoreThanItsShareOfTheTime) {
  std::vector<Address> addresses{silent()};
  loopback::Listener listener = loopback::listener();
  while (addresses.size() < 10) addresses.push_back(listener.address);
  const uint64_t began = now_ms();
  dial->start(addresses, 3000, {});  // 300 ms each
  ASSERT_TRUE(done());
  EXPECT_EQ(error, 0);
  EXPECT_LT(now_ms(), began + 2500);
}

TEST_P(DialTest, WhatAPeerSaidBeforeItResetTheConnectionIsNotLost) {
  loopback::Listener listener = loopback::listener();
  dial->start({listener.address}, 2000, {});
  Fd accepted;
  for (int i = 0; i < 200 && !accepted.valid(); ++i) {
    accepted.reset(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!accepted.valid()) ::usleep(1000);
  }
  ASSERT_TRUE(accepted.valid()) << "connected, though the loop has not looked yet";
  ASSERT_EQ(::send(accepted.get(), "banner", 6, 0), 6);
  ::usleep(2000);
  loopback::reset(accepted);
  ::usleep(2000);
  ASSERT_TRUE(done());
  ASSERT_TRUE(fd.valid());
  EXPECT_EQ(error, ECONNRESET);
  char bytes[16];
  EXPECT_EQ(::recv(fd.get(), bytes, sizeof bytes, MSG_DONTWAIT), 6);
}

TEST_P(DialTest, OneWhoseConnectionHasComeHearsOfNoDeadline) {
  loopback::Listener listener = loopback::listener();
  dial->start({listener.address}, 20, {});
  ASSERT_TRUE(done());
  EXPECT_EQ(error, 0);
  run_for(*loop, 60);
  EXPECT_EQ(calls, 1);
}

TEST_P(DialTest, AUnixServiceThatCannotTakeMoreIsRefused) {
  const std::string path = testing::TempDir() + "full-" + std::to_string(::getpid()) + ".sock";
  const Address address = Address::unix_path(path).value();
  const Fd service(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(service.get(), address.get(), address.length()), 0);
  ASSERT_EQ(::listen(service.get(), 0), 0);
  int refused = 0;
  while (refused == 0) {
    held.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (::connect(held.back().get(), address.get(), address.length()) != 0) refused = errno;
  }
  EXPECT_EQ(refused, EAGAIN);
  dial->start({address}, 2000, {});
  ::unlink(path.c_str());
  ASSERT_TRUE(done());
  EXPECT_EQ(error, ECONNREFUSED);
}

TEST_P(DialTest, AnAddressThatIsSilentIsGivenUpAtTheDeadline) {
  const Address address = silent();
  const uint64_t began = now_ms();
  dial->start({address}, 150, {});
  ASSERT_TRUE(done());
  EXPECT_EQ(error, ETIMEDOUT);
  EXPECT_GE(now_ms() + 1, began + 145);
  EXPECT_LT(now_ms(), began + 2000);
}

TEST_P(DialTest, ACancelledDialEndsOnceAndMayBeUsedAgain) {
  const Address address = silent();
  dial->start({address}, 5000, {});
  loop->run_once(0);
  dial->cancel();
  EXPECT_EQ(calls, 0);
  ASSERT_TRUE(done());
  EXPECT_EQ(error, ECANCELED);
  run_for(*loop, 20);
  EXPECT_EQ(calls, 1);
  loopback::Listener listener = loopback::listener();
  dial->start({listener.address}, 2000, {});
  ASSERT_TRUE(run_until(*loop, [&] { return calls == 2; }));
  EXPECT_EQ(error, 0);
}

TEST_P(DialTest, ACancelledDialTriesNoOtherAddress) {
  const Address address = silent();
  loopback::Listener listener = loopback::listener();
  dial->start({address, listener.address}, 5000, {});
  loop->run_once(0);
  dial->cancel();
  ASSERT_TRUE(done());
  EXPECT_EQ(error, ECANCELED);
  EXPECT_FALSE(fd.valid());
  const Fd accepted(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
  EXPECT_FALSE(accepted.valid()) << "nobody dialled it";
}

TEST_P(DialTest, ACancelledDialWhoseConnectionHasComeIsNoEmptyVisit) {
  loopback::Listener listener = loopback::listener();
  dial->start({listener.address}, 2000, {});
  dial->cancel();
  ASSERT_TRUE(done());
  if (error == 0) return;  // the connection was faster, and is handed over
  EXPECT_EQ(error, ECANCELED);
  run_for(*loop, 20);
  const Fd service(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(service.valid());
  char byte;
  EXPECT_EQ(::recv(service.get(), &byte, 1, MSG_DONTWAIT), -1);
  EXPECT_EQ(errno, ECONNRESET);
}

TEST_P(DialTest, NoDescriptorIsLeftAfterFailures) {
  const Address address = refusing();
  const size_t before = loopback::open_descriptors();
  for (int i = 1; i <= 50; ++i) {
    dial->start({address, address}, 2000, {});
    ASSERT_TRUE(run_until(*loop, [&] { return calls == i; }));
  }
  EXPECT_EQ(loopback::open_descriptors(), before);
}

TEST_P(DialTest, AnAddressThatADialWouldShareWithItsOwnSocketIsRefusedAndStaysFree) {
  std::string refused;
  std::thread elsewhere([&] {
    refused = enter_network_with_one_port(40000);
    if (!refused.empty()) return;
    // A loop belongs to one thread.
    dial.reset();
    make_dial();
    for (const char* const dead : {"127.0.0.1:40000", "0.0.0.0:40000", "[::1]:40000"}) {
      calls = 0;
      dial->start({Address::parse(dead).value()}, 2000, {});
      EXPECT_TRUE(done());
      EXPECT_EQ(error, ECONNREFUSED) << dead;
      EXPECT_FALSE(fd.valid()) << dead << ": connected to itself";
      fd.reset();
      EXPECT_TRUE(is_free(Address::parse(dead).value())) << dead;
    }
    // The next address is tried, with the same port of this host's once more.
    auto listener = listen_on(Address::parse("127.0.0.1:40001").value(), {}, 1);
    loopback::must(listener.ok(), "listen");
    calls = 0;
    dial->start({Address::parse("127.0.0.1:40000").value(), local_address(listener.value().get())}, 2000, {});
    EXPECT_TRUE(done());
    EXPECT_EQ(error, 0);
    EXPECT_EQ(local_address(fd.get()).text(), "127.0.0.1:40000");
    EXPECT_EQ(peer_address(fd.get()).text(), "127.0.0.1:40001");
    fd.reset();
    dial.reset();
    loop.reset();
  });
  elsewhere.join();
  if (!refused.empty()) GTEST_SKIP() << refused;
}

INSTANTIATE_TEST_SUITE_P(Loops, DialTest, testing::Values(IoKind::kUring, IoKind::kEpoll), loop_of);

}  // namespace
}  // namespace natrp
