// Chunks as a peer would write them (relay/chunks.h), by hand.
#pragma once

#include <cstdint>
#include <string>

#include "relay/chunks.h"

namespace natrp {

inline std::string chunk_header(uint16_t header) {
  return {static_cast<char>(header >> 8), static_cast<char>(header)};
}
inline std::string chunk_of(const std::string& bytes) {
  return chunk_header(static_cast<uint16_t>(bytes.size())) + bytes;
}
// The bytes in whole chunks, up to the first END.
inline std::string bytes_of_chunks(const std::string& chunks) {
  std::string out;
  for (size_t at = 0; at + kChunkHeaderBytes <= chunks.size();) {
    const unsigned header = static_cast<uint8_t>(chunks[at]) << 8 | static_cast<uint8_t>(chunks[at + 1]);
    at += kChunkHeaderBytes;
    if (header == kChunkRaw) return out + chunks.substr(at);
    if (header > kChunkBytesMax) break;
    out += chunks.substr(at, header);
    at += header;
  }
  return out;
}
inline const std::string kEndText = chunk_header(kChunkEnd);
inline const std::string kFreeText = chunk_header(kChunkFree);

}  // namespace natrp
