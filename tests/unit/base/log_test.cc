// What a peer says stands in one line of the log, and paints nothing on the operator's terminal.
#include "base/log.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
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

// What a service manager sets for whom it connects to its journal.
class LogToJournal : public testing::Test {
 protected:
  void begin(LogFormat format) {
    testing::internal::CaptureStderr();
    struct stat file;
    ASSERT_EQ(::fstat(STDERR_FILENO, &file), 0);
    ::setenv("JOURNAL_STREAM", (std::to_string(file.st_dev) + ':' + std::to_string(file.st_ino)).c_str(), 1);
    log_setup(LogLevel::kDebug, format);
  }
  void TearDown() override {
    ::unsetenv("JOURNAL_STREAM");
    log_setup(LogLevel::kInfo, LogFormat::kText);
  }
};

TEST_F(LogToJournal, ALineHasItsLevelAsTheJournalReadsItAndNoTime) {
  begin(LogFormat::kText);
  log_debug("one");
  log_info("two", {{"port", 20000}});
  log_warning("three");
  log_error("four");
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "<7>debug one\n<6>info two port=20000\n<4>warning three\n<3>error four\n");
}

TEST_F(LogToJournal, JsonIsWholeBehindTheLevel) {
  begin(LogFormat::kJson);
  log_warning("one");
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(said.starts_with("<4>{\"time\":\"20")) << said;
  EXPECT_TRUE(said.ends_with(",\"level\":\"warning\",\"message\":\"one\"}\n")) << said;
}

TEST_F(LogToJournal, WhoeverSaysThatItIsAnotherStreamIsNotTheJournal) {
  begin(LogFormat::kText);
  ::setenv("JOURNAL_STREAM", "1:1", 1);
  log_setup(LogLevel::kInfo, LogFormat::kText);
  log_info("one");
  EXPECT_TRUE(testing::internal::GetCapturedStderr().starts_with("20")) << "a time";
}

}  // namespace
}  // namespace natrp
