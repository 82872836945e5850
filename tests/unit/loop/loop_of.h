// How a suite that runs over both loops names its runs.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "loop/loop.h"

namespace natrp {

inline std::string loop_of(const testing::TestParamInfo<IoKind>& info) {
  return info.param == IoKind::kUring ? "uring" : "epoll";
}

}  // namespace natrp
