#include "relay/chunks.h"

#include <algorithm>
#include <cstring>

#include "relay/pump.h"

namespace natrp {

void chunk_wrap(Pump& pump, unsigned char* buffer, const Conn& source) {
  const bool stream = pump.pending > kChunkBytesMax ||
                      source.bytes_received.load(std::memory_order_relaxed) >= kChunkedBytesMax;
  const uint16_t header = stream ? kChunkRaw : static_cast<uint16_t>(pump.pending);
  buffer[pump.offset - 2] = static_cast<unsigned char>(header >> 8);
  buffer[pump.offset - 1] = static_cast<unsigned char>(header);
  pump.header_left = kChunkHeaderBytes;
  if (stream) pump.wraps = false;
}

bool chunk_unwrap(Pump& pump, unsigned char* buffer) {
  const unsigned char* at = buffer + pump.offset;
  const unsigned char* const end = at + pump.pending;
  unsigned char* first = nullptr;
  unsigned char* to = nullptr;
  const auto take = [&](size_t bytes) {
    if (to == nullptr) {
      first = to = buffer + (at - buffer);
    } else {
      std::memmove(to, at, bytes);
    }
    to += bytes;
    at += bytes;
  };
  while (at < end) {
    if (pump.free_came) return false;
    if (pump.chunk_left > 0 && !pump.half_header) {
      const size_t bytes = std::min<size_t>(pump.chunk_left, static_cast<size_t>(end - at));
      take(bytes);
      pump.chunk_left = static_cast<uint16_t>(pump.chunk_left - bytes);
      continue;
    }
    if (!pump.half_header) {
      pump.chunk_left = *at++;
      pump.half_header = true;
      continue;
    }
    const auto header = static_cast<uint16_t>(pump.chunk_left << 8 | *at++);
    pump.half_header = false;
    pump.chunk_left = 0;
    if (pump.end_came) {
      if (header != kChunkFree) return false;
      pump.free_came = true;
    } else if (header == kChunkEnd) {
      pump.end_came = true;
    } else if (header == kChunkRaw) {
      pump.unwraps = false;
      take(static_cast<size_t>(end - at));
    } else if (header == 0 || header > kChunkBytesMax) {
      return false;
    } else {
      pump.chunk_left = header;
    }
  }
  pump.offset = static_cast<uint16_t>(first == nullptr ? 0 : first - buffer);
  pump.pending = static_cast<uint32_t>(to - first);
  return true;
}

}  // namespace natrp
