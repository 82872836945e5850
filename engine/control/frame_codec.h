// control/frame_codec.h
//
// Frames on the control channel: a length of 4 bytes, big-endian, then that many bytes of a wire::Frame.
// FrameDecoder takes bytes as they come and gives whole frames.
//
// Life     feed ──▶ next … next (nothing) ──▶ feed …; after an error the channel is closed, not read on
// Thread   one at a time.
// Never    holds more than one largest frame and one feed.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"
#include "control/control.pb.h"

namespace natrp {

// Appends frame to out. False, and nothing appended, when it is larger than kFrameBytesMax.
bool encode_frame(const wire::Frame& frame, std::string& out);

// At most bytes of text, with no half of a character at its end, and a '?' for each byte that is no UTF-8, as a path or
// a host's name may have: neither a frame nor JSON can hold such, and a peer would take the frame for no frame.
std::string cut_text(const std::string& text, size_t bytes);

class FrameDecoder {
 public:
  void feed(std::span<const uint8_t> bytes);
  // The next whole frame, nothing when more bytes are needed, or why the peer cannot be understood. Unknown
  // fields are kept, a frame without a known message is refused: its sender counts on something that would not happen.
  Result<std::optional<wire::Frame>> next();
  // Bytes of a frame that is not whole yet.
  size_t pending() const { return bytes_.size() - at_; }

 private:
  std::string bytes_;
  size_t at_ = 0;
};

}  // namespace natrp
