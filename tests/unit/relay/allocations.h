// How often this program has called operator new. Any thread.
#pragma once

#include <cstdint>

namespace natrp {

uint64_t allocations();

}  // namespace natrp
