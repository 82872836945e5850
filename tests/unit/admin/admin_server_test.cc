#include "admin/admin_server.h"

#include <gtest/gtest.h>

#include "admin/admin_source.h"
#include "loop/no_threads.h"

namespace natrp {
namespace {

class NothingToShow final : public AdminSource {
 public:
  std::vector<const Counters*> counters() const override { return {&counters_}; }
  const ConnTable& conns() const override { return conns_; }
  size_t sessions_live() const override { return 0; }
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

TEST(AdminServer, OneThatNeverServedEnds) {
  NothingToShow shown;
  AdminServer server(shown, Address::parse("127.0.0.1:0").value());
  EXPECT_TRUE(server.listen().ok());
}

}  // namespace
}  // namespace natrp
