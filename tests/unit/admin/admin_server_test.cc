#include "admin/admin_server.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "admin/admin_source.h"
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
  std::string version() const override { return "1.2"; }
  std::string why_not_healthy() override { return {}; }
  std::string list_path() const override { return "/list"; }
  std::optional<std::string> list() override { return "[]"; }

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

// What an HTTP client has of it: empty, or "HTTP/1.1 200 OK".
std::string first_line(const Address& address) {
  const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::connect(fd.get(), address.get(), address.length()) != 0) return {};
  const std::string request = "GET /healthz HTTP/1.0\r\n\r\n";
  if (::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return {};
  char answer[256];
  const ssize_t n = ::recv(fd.get(), answer, sizeof answer, 0);
  const std::string text(answer, n > 0 ? static_cast<size_t>(n) : 0);
  return text.substr(0, text.find('\r'));
}

// accept(2) fails from then on.
void break_listener(const Address& address) {
  for (int fd = 0; fd < 1024; ++fd) {
    int listens = 0;
    socklen_t length = sizeof listens;
    if (::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) != 0 || listens == 0) continue;
    if (local_address(fd).text() == address.text()) ::shutdown(fd, SHUT_RDWR);
  }
}

TEST(AdminServer, AnAcceptThatFailedEndsNothing) {
  const Address address = loopback::listener().address;  // its port is free again
  NothingToShow shown;
  AdminServer server(shown, address);
  ASSERT_TRUE(server.listen().ok());
  server.serve();
  ASSERT_EQ(first_line(address), "HTTP/1.1 200 OK");
  break_listener(address);
  for (int tries = 0; tries < 300 && first_line(address).empty(); ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(first_line(address), "HTTP/1.1 200 OK");
}

TEST(AdminServer, ItEndsBesideARequestThatGoesOnThoughNoDescriptorIsLeft) {
  using Clock = std::chrono::steady_clock;
  const Address address = loopback::listener().address;
  NothingToShow shown;
  AdminServer server(shown, address);
  ASSERT_TRUE(server.listen().ok());
  server.serve();
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

TEST(AdminServer, OneThatNeverServedEnds) {
  NothingToShow shown;
  AdminServer server(shown, Address::parse("127.0.0.1:0").value());
  EXPECT_TRUE(server.listen().ok());
}

}  // namespace
}  // namespace natrp
