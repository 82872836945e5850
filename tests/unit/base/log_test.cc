// What a peer says stands in one line of the log, and paints nothing on the operator's terminal. A log that nobody
// reads keeps nobody waiting, and tells what it has lost.
#include "base/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"

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

// A path may have any bytes. JSON holds UTF-8 alone, and the journal shows a line with others as "[23B blob data]".
TEST(Log, BytesThatAreNoUtf8AreNotWritten) {
  for (const LogFormat format : {LogFormat::kText, LogFormat::kJson}) {
    testing::internal::CaptureStderr();
    log_setup(LogLevel::kInfo, format);
    log_warning("unix:caf\xe9: none", {{"local", "unix:caf\xe9"}, {"other", "\xe2\x80\xa6\xe2\x80"}});
    log_setup(LogLevel::kInfo, LogFormat::kText);
    const std::string said = testing::internal::GetCapturedStderr();
    for (const char* part : {"unix:caf\\ufffd: none", "\"unix:caf\\ufffd\"", "\"\xe2\x80\xa6\\ufffd\\ufffd\""}) {
      EXPECT_NE(said.find(part), std::string::npos) << part << " in " << said;
    }
    EXPECT_EQ(said.find('\xe9'), std::string::npos) << said;
  }
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

// Standard error is a pipe, and the test reads it when it likes.
class LogToPipe : public testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    reads_ = Fd(ends[0]);
    const Fd writes(ends[1]);
    before_ = Fd(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0));
    ASSERT_EQ(::dup2(writes.get(), STDERR_FILENO), STDERR_FILENO);
    ::fcntl(reads_.get(), F_SETFL, O_NONBLOCK);
    log_catch_up();  // of the test before
    take();
    taken_.clear();
    lost_before_ = log_lines_lost();
  }
  void TearDown() override {
    log_setup(LogLevel::kInfo, LogFormat::kText);
    ::dup2(before_.get(), STDERR_FILENO);
  }
  void take() {
    char bytes[65536];
    for (ssize_t got; (got = ::read(reads_.get(), bytes, sizeof bytes)) > 0;) {
      taken_.append(bytes, static_cast<size_t>(got));
    }
  }
  std::vector<std::string> lines() {
    take();
    std::istringstream text(taken_);
    std::vector<std::string> found;
    for (std::string line; std::getline(text, line);) found.push_back(line);
    return found;
  }
  // A line is some 130 bytes: twice as many as the pipe has room for.
  uint64_t fill() {
    const std::string filling(80, '.');
    for (int i = 0; i < 1000; ++i) log_info("a line that nobody reads", {{"number", i}, {"filling", filling}});
    return log_lines_lost() - lost_before_;
  }

  Fd reads_;
  Fd before_;
  std::string taken_;
  uint64_t lost_before_ = 0;
};

TEST_F(LogToPipe, AReaderThatStandsStillKeepsNobodyWaiting) {
  const auto began = std::chrono::steady_clock::now();
  EXPECT_GT(fill(), 300u);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(1));
  EXPECT_EQ(::fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK, 0) << "which other processes would have, too";
}

TEST_F(LogToPipe, WhatWasLostIsToldBeforeTheNextLine) {
  const uint64_t lost = fill();
  const size_t whole = lines().size();
  EXPECT_EQ(whole + lost, 1000u);
  log_error("the next one");
  ASSERT_EQ(lines().size(), whole + 2);
  EXPECT_TRUE(lines()[whole - 1].ends_with("...")) << lines()[whole - 1];
  const std::string told = "warning lines of this log were lost lines=" + std::to_string(lost);
  EXPECT_TRUE(lines()[whole].ends_with(told + " why=\"nobody read them\"")) << lines()[whole];
  EXPECT_TRUE(lines()[whole + 1].ends_with("error the next one")) << lines()[whole + 1];
}

TEST_F(LogToPipe, WhatWasLostIsToldWhenNoLineComes) {
  const uint64_t lost = fill();
  log_catch_up();
  const size_t whole = lines().size();
  log_catch_up();
  log_catch_up();
  ASSERT_EQ(lines().size(), whole + 1);
  EXPECT_NE(lines().back().find("were lost lines=" + std::to_string(lost) + " "), std::string::npos) << lines().back();
}

TEST_F(LogToPipe, WhatWasLostIsToldInJsonToo) {
  log_setup(LogLevel::kError, LogFormat::kJson);
  for (int i = 0; i < 1000; ++i) log_error("a line that nobody reads", {{"number", i}});
  const uint64_t lost = log_lines_lost() - lost_before_;
  ASSERT_GT(lost, 0u);
  take();
  log_catch_up();
  const std::string told = "\"level\":\"warning\",\"message\":\"lines of this log were lost\",\"lines\":";
  EXPECT_TRUE(lines().back().ends_with(told + std::to_string(lost) + ",\"why\":\"nobody read them\"}"))
      << lines().back();
}

TEST_F(LogToPipe, ALineThatWasCutIsFinishedWithoutAnotherOne) {
  log_info(std::string(100'000, 'x'));
  log_info("lost");
  take();
  log_catch_up();
  ASSERT_EQ(lines().size(), 2u);
  EXPECT_TRUE(lines().front().ends_with("info " + std::string(100'000, 'x')));
  EXPECT_NE(lines().back().find("were lost lines=1 "), std::string::npos) << lines().back();
}

TEST_F(LogToPipe, ThreadsThatLogAtOnceTearNothingAndEveryLineIsThereOrCounted) {
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([thread] {
      // Some longer than what a pipe takes in one piece.
      for (int i = 0; i < 500; ++i) {
        const std::string filling(i % 50 == 0 ? 9000 : 200, '.');
        log_info("of a thread", {{"thread", thread}, {"filling", filling}, {"end", 1}});
      }
    });
  }
  std::atomic<bool> done{false};
  std::thread reader([&] {
    while (!done) {
      take();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  for (std::thread& thread : threads) thread.join();
  done = true;
  reader.join();
  for (int turn = 0; turn < 10; ++turn) {
    take();
    log_catch_up();
  }
  uint64_t whole = 0;
  uint64_t told = 0;
  for (const std::string& line : lines()) {
    const size_t at = line.find("were lost lines=");
    if (at != std::string::npos) {
      told += std::stoull(line.substr(at + 16));
      continue;
    }
    ++whole;
    EXPECT_TRUE(line.ends_with(". end=1") && line.find("info of a thread thread=") == 30) << line.substr(0, 200);
  }
  EXPECT_EQ(told, log_lines_lost() - lost_before_);
  EXPECT_EQ(whole + told, 2000u);
}

}  // namespace
}  // namespace natrp
