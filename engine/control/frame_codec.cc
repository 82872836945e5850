#include "control/frame_codec.h"

#include <google/protobuf/stubs/common.h>
#if GOOGLE_PROTOBUF_VERSION < 4022000
#include <google/protobuf/stubs/logging.h>
#endif

#include <algorithm>

#include "base/limits.h"
#include "base/utf8.h"

namespace natrp {
namespace {

#if GOOGLE_PROTOBUF_VERSION < 4022000
// The library writes to standard error what is wrong with a peer's text, past our log and its format. We tell of it
// ourselves.
[[maybe_unused]] const auto g_library_was_told_to_be_quiet = google::protobuf::SetLogHandler(nullptr);
#endif

}  // namespace

bool encode_frame(const wire::Frame& frame, std::string& out) {
  const size_t length = frame.ByteSizeLong();
  if (length > kFrameBytesMax) return false;
  for (const unsigned shift : {24u, 16u, 8u, 0u}) out += static_cast<char>(length >> shift & 0xff);
  return frame.AppendToString(&out);
}

std::string cut_text(const std::string& text, size_t bytes) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t length = utf8_bytes(text, at);
    const size_t taken = std::max<size_t>(length, 1);
    if (out.size() + taken > bytes) break;
    if (length == 0) out += '?';
    out.append(text, at, length);
    at += taken;
  }
  return out;
}

void FrameDecoder::feed(std::span<const uint8_t> bytes) {
  bytes_.erase(0, at_);
  at_ = 0;
  bytes_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Result<std::optional<wire::Frame>> FrameDecoder::next() {
  if (pending() < 4) return std::optional<wire::Frame>();
  size_t length = 0;
  for (size_t i = 0; i < 4; ++i) length = length << 8 | static_cast<uint8_t>(bytes_[at_ + i]);
  if (length > kFrameBytesMax) {
    return Error{"a frame of " + std::to_string(length) + " bytes: at most " +
                 std::to_string(kFrameBytesMax) + " are allowed"};
  }
  if (pending() < 4 + length) return std::optional<wire::Frame>();
  wire::Frame frame;
  if (!frame.ParseFromArray(bytes_.data() + at_ + 4, static_cast<int>(length))) {
    return Error{"a frame that is not a protobuf Frame"};
  }
  at_ += 4 + length;
  if (frame.body_case() == wire::Frame::BODY_NOT_SET) {
    return Error{"a message that this version does not know: update this side"};
  }
  return std::optional<wire::Frame>(std::move(frame));
}

}  // namespace natrp
