// A suite that runs over both loops, and how it names its runs.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "base/fd.h"
#include "loop/loop.h"

namespace natrp {

inline std::string loop_of(const testing::TestParamInfo<IoKind>& info) {
  return info.param == IoKind::kUring ? "uring" : "epoll";
}

// Each test has a loop of its own. A suite that sets up more does it after this, unless IsSkipped().
class LoopSuite : public testing::TestWithParam<IoKind> {
 protected:
  void SetUp() override {
    auto made = make_loop(GetParam());
    if (!made.ok()) GTEST_SKIP() << made.error().message;
    loop = std::move(made.value().loop);
  }
  // Through the loop, as its contract wants it for a descriptor that had ops.
  void close(Fd& fd) { loop->close(fd.release(), CloseWith::kFin); }
  std::unique_ptr<Loop> loop;
};

}  // namespace natrp
