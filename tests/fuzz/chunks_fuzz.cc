// What a data channel's peer may send where chunks are due (relay/chunks.h), cut into receives in any way: the bytes
// and the verdict are those of the same stream one byte at a time. The first bytes of the input say where it is cut.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "base/limits.h"
#include "relay/chunks.h"
#include "relay/pump.h"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

constexpr size_t kCutBytes = 8;

struct Unwrapper {
  natrp::Pump pump;
  std::string payload;
  bool ours = true;

  Unwrapper() { pump.unwraps = true; }
  void receive(const uint8_t* data, size_t size) {
    if (!ours || size == 0) return;
    // As large as the bytes and no larger: what touches more is seen.
    const auto buffer = std::make_unique<unsigned char[]>(size);
    std::memcpy(buffer.get(), data, size);
    pump.offset = 0;
    pump.pending = static_cast<uint32_t>(size);
    if (pump.unwraps) ours = natrp::chunk_unwrap(pump, buffer.get());
    if (!ours) return;
    require(pump.offset + pump.pending <= size);
    payload.append(reinterpret_cast<const char*>(buffer.get()) + pump.offset, pump.pending);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < kCutBytes || size > natrp::kBufferRoomBytes) return 0;
  const uint8_t* const cuts = data;
  data += kCutBytes;
  size -= kCutBytes;
  Unwrapper one_by_one;
  for (size_t at = 0; at < size; ++at) one_by_one.receive(data + at, 1);
  Unwrapper cut;
  for (size_t at = 0, i = 0; at < size; ++i) {
    const size_t bytes = std::min<size_t>(size - at, 1 + cuts[i % kCutBytes]);
    cut.receive(data + at, bytes);
    at += bytes;
  }
  require(cut.ours == one_by_one.ours);
  if (!cut.ours) return 0;
  require(cut.payload == one_by_one.payload);
  require(cut.pump.end_came == one_by_one.pump.end_came && cut.pump.free_came == one_by_one.pump.free_came);
  require(cut.pump.unwraps == one_by_one.pump.unwraps);
  return 0;
}
