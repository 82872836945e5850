// relay/chunks.h
//
// Chunks: how the end of a visitor's bytes is told on a data channel that does not end with it. A channel that carried
// a short visitor carries the next: a dial, a ticket, an accept and two closes less for each.
//
//     header  u16 BE, then            0x0001 … 0x7fff  that many bytes of the visitor or the service
//                                     0x8000 RAW       all bytes that follow, until a FIN
//                                     0x8001 END       nothing: this direction is over, as by a FIN
//                                     0x8002 FREE      nothing: agent → edge, behind both ENDs: a Start may follow
//
// The sender says RAW as soon as its bytes look like a stream (32 KiB at once, or 64 KiB in all). From then on they can
// be spliced, and a FIN ends them. A FIN where END was due means that bytes are missing, and is carried as a reset.
//
// Thread   the worker of the pump. Memory: none but the pump's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/limits.h"

namespace natrp {

struct Conn;
struct Pump;

inline constexpr size_t kChunkHeaderBytes = 2;
inline constexpr uint16_t kChunkBytesMax = 0x7fff;
inline constexpr uint16_t kChunkRaw = 0x8000;
inline constexpr uint16_t kChunkEnd = 0x8001;
inline constexpr uint16_t kChunkFree = 0x8002;

inline constexpr std::array<uint8_t, 2 * kChunkHeaderBytes> kEndAndFree{0x80, 0x01, 0x80, 0x02};

// Writes the header before the pending bytes of a buffer just received from source.
void chunk_wrap(Pump& pump, unsigned char* buffer, const Conn& source);
// Takes the headers out of the pending bytes of a buffer just received: what stays pending is contiguous. False: the
// peer does not speak our protocol.
bool chunk_unwrap(Pump& pump, unsigned char* buffer);

}  // namespace natrp
