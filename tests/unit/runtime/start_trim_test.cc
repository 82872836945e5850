// What the process has mapped of its program and libraries before and after, and what must never go.
#include "runtime/start_trim.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <fstream>
#include <string>

#include "base/clock.h"
#include "loop/loop_of.h"

namespace natrp {
namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kPages = 64;
// Read-only bytes of the program's own file (a volatile array would lie among the writable ones).
alignas(kPageBytes) const unsigned char read_only[kPages * kPageBytes] = {1, 2, 3};
// Read from memory each time, whatever the compiler knows of them.
const volatile unsigned char* const file_bytes = read_only;

unsigned char* first_page() { return const_cast<unsigned char*>(read_only); }

void touch_all() {
  for (size_t page = 0; page < kPages; ++page) ASSERT_EQ(file_bytes[page * kPageBytes + 100], 0);
}

// Pages of files, in kB: RssFile of /proc/self/status.
size_t mapped_kb() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("RssFile:", 0) == 0) return std::stoul(line.substr(8));
  }
  return 0;
}

class StartTrimTest : public LoopSuite {};

TEST(TrimFilePages, TakesThemOutAndTheyComeBackAsTheyWere) {
  touch_all();
  const size_t before = mapped_kb();
  EXPECT_GE(trim_file_pages(), sizeof read_only);
  const size_t after = mapped_kb();
  // What this test and the calls of the trim itself run on is mapped again, 64 KiB at once.
  EXPECT_LT(after + kPages * kPageBytes / 1024 / 2, before);
  EXPECT_EQ(file_bytes[0], 1);
  EXPECT_EQ(file_bytes[2], 3);
  touch_all();
}

// A debugger's breakpoint is such a byte.
TEST(TrimFilePages, LeavesASegmentInWhichSomebodyHasWritten) {
  touch_all();
  unsigned char* byte = first_page() + kPageBytes + 7;
  ASSERT_EQ(mprotect(first_page(), sizeof read_only, PROT_READ | PROT_WRITE), 0);
  *byte = 0xcc;
  ASSERT_EQ(mprotect(first_page(), sizeof read_only, PROT_READ), 0);
  trim_file_pages();
  EXPECT_EQ(file_bytes[kPageBytes + 7], 0xcc);
  // As it was, for the tests behind this one; the page stays a copy.
  ASSERT_EQ(mprotect(first_page(), sizeof read_only, PROT_READ | PROT_WRITE), 0);
  *byte = 0;
  ASSERT_EQ(madvise(first_page(), sizeof read_only, MADV_DONTNEED), 0);
  ASSERT_EQ(mprotect(first_page(), sizeof read_only, PROT_READ), 0);
}

TEST_P(StartTrimTest, ComesASecondAfterItIsAskedForAndTwiceAtMost) {
  StartTrim trim(*loop);
  for (unsigned time = 0; time <= kStartTrims; ++time) {
    touch_all();
    const size_t before = mapped_kb();
    trim.soon();
    trim.soon();
    const uint64_t asked_ms = now_ms();
    while (now_ms() < asked_ms + kStartTrimMs + 200) loop->run_once(50);
    if (time < kStartTrims) {
      EXPECT_LT(mapped_kb() + kPages * kPageBytes / 1024 / 2, before) << time;
    } else {
      EXPECT_GT(mapped_kb() + kPages * kPageBytes / 1024 / 2, before);
    }
  }
}

// The control threads, which it serves, have this one.
INSTANTIATE_TEST_SUITE_P(Loops, StartTrimTest, testing::Values(IoKind::kEpoll), loop_of);

}  // namespace
}  // namespace natrp
