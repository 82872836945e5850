#include "compat/flood_guard.h"

#include <nghttp2/nghttp2.h>

namespace natrp {

const char FloodGuard::kControlFrames[] =
    "too many PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM or GOAWAY frames";
const char FloodGuard::kEmptyData[] = "too many DATA frames without data";
const char FloodGuard::kInvalidFrames[] = "too many invalid frames";
const char FloodGuard::kWastedStreams[] = "too many streams that came to nothing";
const char FloodGuard::kContinuations[] = "too many CONTINUATION frames";
const char FloodGuard::kHeaderBlock[] = "a header block was too long";
const char FloodGuard::kHeaderFields[] = "a header list was too big";
const char FloodGuard::kSlowHeaders[] = "a header block took too long to arrive";

void FloodGuard::on_tick(uint64_t now_ms) {
  if (now_ms <= now_ms_) return;
  const uint64_t passed_ms = now_ms - now_ms_;
  now_ms_ = now_ms;
  control_frames_.add(passed_ms * kGrpcControlFramesPerSecond, kGrpcControlFramesBurst);
  wasted_streams_.add(passed_ms * kGrpcWastedStreamsPerSecond, kGrpcWastedStreamsBurst);
  if (header_block_open_ && now_ms - header_block_began_ms_ > kGrpcHeaderBlockMs) offend(kSlowHeaders);
}

void FloodGuard::on_frame_begin(uint8_t type, size_t length) {
  switch (type) {
    case NGHTTP2_DATA:  // counted when it turns out to be empty
      return;
    case NGHTTP2_HEADERS:
      header_block_bytes_ = length;
      header_list_bytes_ = header_fields_ = continuations_ = 0;
      break;
    case NGHTTP2_CONTINUATION:
      header_block_bytes_ += length;
      if (++continuations_ > kGrpcContinuationsMax) offend(kContinuations);
      break;
    default: spend(control_frames_, kControlFrames); return;
  }
  if (header_block_bytes_ > kGrpcHeaderBlockBytesMax) offend(kHeaderBlock);
}

void FloodGuard::on_header_block_begin() {
  header_block_open_ = true;
  header_block_began_ms_ = now_ms_;
}

void FloodGuard::on_header_field(size_t name_size, size_t value_size) {
  header_list_bytes_ += name_size + value_size + 32;  // RFC 9113 §6.5.2
  if (++header_fields_ > kGrpcHeaderFieldsMax || header_list_bytes_ > kGrpcHeaderListBytesMax)
    offend(kHeaderFields);
}

void FloodGuard::spend(Allowance& allowance, const char* offence) {
  if (allowance.left < 1000) {
    offend(offence);
  } else {
    allowance.left -= 1000;
  }
}

void FloodGuard::offend(const char* offence) {
  if (!offence_) offence_ = offence;
}

}  // namespace natrp
