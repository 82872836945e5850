// relay/pump_kind.h
//
// PumpKind: which pump carries bulk bytes. kAuto takes splice, and copies where the kernel refuses it.
#pragma once

#include <cstdint>

namespace natrp {

enum class PumpKind : uint8_t { kAuto, kSplice, kUring, kCopy };

}  // namespace natrp
