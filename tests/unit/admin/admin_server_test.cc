#include "admin/admin_server.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "admin/admin_client.h"
#include "admin/admin_source.h"
#include "admin/metrics.h"
#include "base/no_descriptors.h"
#include "loop/no_threads.h"
#include "net/loopback.h"
#include "net/socket.h"

namespace natrp {
namespace {

class NothingToShow final : public AdminSource {
 public:
  std::vector<const Counters*> counters() const override { return {&counters_}; }
  const ConnTable& conns() const override { return conns_; }
  size_t sessions_live() const override { return 0; }
  std::string why_not_healthy() override { return {}; }
  std::string list_path() const override { return path; }
  std::optional<std::string> list() override {
    return busy ? std::nullopt : std::optional(std::string(list_bytes, ' '));
  }
  std::string path = "/list";
  size_t list_bytes = 2;
  bool busy = false;

 private:
  Counters counters_;
  ConnTable conns_;
};

TEST(AdminServer, WithoutThreadsItSaysSo) {
  NothingToShow shown;
  AdminServer server(shown, Address::parse("127.0.0.1:0").value());
  const NoThreads none;
  const auto listening = server.listen();
  ASSERT_FALSE(listening.ok());
  EXPECT_NE(listening.error().message.find("the system gives no thread 'admin"), std::string::npos)
      << listening.error().message;
}

// Not valid: could not.
Fd ask(const Address& address, const std::string& request) {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::connect(fd.get(), address.get(), address.length()) != 0) return {};
  if (::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return {};
  return fd;
}

std::string first_line(const Fd& fd) {
  char answer[256];
  const ssize_t n = fd.valid() ? ::recv(fd.get(), answer, sizeof answer, 0) : 0;
  const std::string text(answer, n > 0 ? static_cast<size_t>(n) : 0);
  return text.substr(0, text.find('\r'));
}

// What an HTTP client has of it: empty, or "HTTP/1.1 200 OK".
std::string first_line(const Address& address) { return first_line(ask(address, "GET /healthz HTTP/1.0\r\n\r\n")); }

// accept(2) fails from then on.
void break_listener(const Address& address) {
  for (int fd = 0; fd < 1024; ++fd) {
    if (is_listening(fd) && local_address(fd).text() == address.text()) stop_listening(fd);
  }
}

class ServedAdmin : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(server.listen().ok());
    server.serve();
  }
  const Address address = loopback::listener().address;  // its port is free again
  NothingToShow shown;
  AdminServer server{shown, address};
};

TEST_F(ServedAdmin, AnAcceptThatFailedEndsNothing) {
  ASSERT_EQ(first_line(address), "HTTP/1.1 200 OK");
  break_listener(address);
  for (int tries = 0; tries < 300 && first_line(address).empty(); ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(first_line(address), "HTTP/1.1 200 OK");
}

TEST_F(ServedAdmin, ItEndsBesideARequestThatGoesOnThoughNoDescriptorIsLeft) {
  using Clock = std::chrono::steady_clock;
  ASSERT_EQ(first_line(address), "HTTP/1.1 200 OK");
  const Fd fd = loopback::connect_to(address);
  std::thread dripping([&fd] {
    for (int byte = 0; byte < 160 && ::send(fd.get(), "G", 1, MSG_NOSIGNAL) == 1; ++byte) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  auto none = std::make_unique<NoDescriptors>();
  const auto began = Clock::now();
  server.stop();
  const auto took = Clock::now() - began;
  none.reset();
  dripping.join();
  EXPECT_LT(took, std::chrono::seconds(4));
}

// A bound for what does not end by itself, on a machine that is slow.
constexpr int kTries = 600;
constexpr std::chrono::milliseconds kTry{100};

TEST_F(ServedAdmin, ClientsThatSendALittleNowAndThenDoNotHoldItUp) {
  std::vector<Fd> slow;
  for (int i = 0; i < 6; ++i) slow.push_back(loopback::connect_to(address));
  const Fd good = ask(address, "GET /healthz HTTP/1.0\r\n\r\n");
  for (int tries = 0; tries < kTries && !slow.empty(); ++tries) {
    std::erase_if(slow, [](const Fd& fd) {
      char byte;
      return ::send(fd.get(), "G", 1, MSG_NOSIGNAL) < 0 || ::recv(fd.get(), &byte, 1, 0) >= 0;
    });
    std::this_thread::sleep_for(kTry);
  }
  EXPECT_TRUE(slow.empty()) << slow.size();
  EXPECT_EQ(first_line(good), "HTTP/1.1 200 OK") << "it came whole, and waited";
}

TEST_F(ServedAdmin, ClientsThatReadALittleNowAndThenDoNotHoldItUp) {
  shown.list_bytes = 128u << 20;  // more than the kernel keeps for a reader
  const Fd slow = ask(address, "GET /list HTTP/1.0\r\n\r\n");
  std::string some(256u << 10, ' ');
  size_t read = 0;
  ssize_t got = 1;
  // What the kernel keeps is read to the end at once when the server has gone.
  for (int tries = 0; tries < kTries && got > 0; ++tries) {
    got = ::recv(slow.get(), some.data(), some.size(), 0);
    read += got > 0 ? static_cast<size_t>(got) : 0;
    std::this_thread::sleep_for(kTry);
  }
  EXPECT_LE(got, 0) << "it goes on";
  EXPECT_LT(read, shown.list_bytes);
}

TEST_F(ServedAdmin, AnotherMethodIsRefusedBeforeItsBody) {
  const auto refused = [&](const std::string& words) {
    const Fd fd = ask(address, words + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    return first_line(fd);
  };
  EXPECT_EQ(refused("POST /healthz"), "HTTP/1.1 405 Method Not Allowed");
  EXPECT_EQ(refused("DELETE /list"), "HTTP/1.1 405 Method Not Allowed");
  EXPECT_EQ(refused("POST /nothing"), "HTTP/1.1 404 Not Found");
  EXPECT_EQ(refused("HEAD /healthz"), "HTTP/1.1 200 OK");
}

TEST(AdminServer, WhoAsksForSessionsThatItCannotTellNowHearsWhyInOneLine) {
  NothingToShow shown;
  shown.path = kSessionsPath;
  shown.busy = true;
  const Address address = loopback::listener().address;  // its port is free again
  AdminServer server(shown, address);
  ASSERT_TRUE(server.listen().ok());
  server.serve();
  const auto sessions = ask_for_sessions(address);
  ASSERT_FALSE(sessions.ok());
  EXPECT_EQ(sessions.error().message, "the admin server at " + address.text() +
                                          " has no answer: the control thread is busy or stopping; try again");
}

TEST(AdminServer, OneThatNeverServedEnds) {
  NothingToShow shown;
  AdminServer server(shown, Address::parse("127.0.0.1:0").value());
  EXPECT_TRUE(server.listen().ok());
}

}  // namespace
}  // namespace natrp
