// What a peer says stands in one line of the log, and paints nothing on the operator's terminal.
#include "base/log.h"

#include <gtest/gtest.h>

#include <string>

namespace natrp {
namespace {

TEST(Log, ASentenceOfAPeerIsOneLineWithoutControlCharacters) {
  testing::internal::CaptureStderr();
  log_warning("the edge refused this agent: \x1b[31mred\nsecond line, \xc2\x9b" "31m \xc2\xb5s", {});
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(said.find('\n'), said.size() - 1) << said;
  EXPECT_EQ(said.find('\x1b'), std::string::npos) << said;
  EXPECT_NE(said.find("\\u001b[31mred\\u000asecond line, \\u009b31m \xc2\xb5s"), std::string::npos) << said;
}

TEST(Log, AFieldOfAPeerIsQuotedWithoutControlCharacters) {
  testing::internal::CaptureStderr();
  log_warning("agent refused", {{"software", "a\" b\\\x7f"}, {"peer", "a\x7f" "b"}});
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("software=\"a\\\" b\\\\\\u007f\" peer=\"a\\u007fb\"\n"), std::string::npos) << said;
}

}  // namespace
}  // namespace natrp
