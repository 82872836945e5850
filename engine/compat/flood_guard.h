// compat/flood_guard.h
//
// FloodGuard: counts what a peer may do on one HTTP/2 connection only so often, by the numbers of base/limits.h.
// nghttp2 has some of these counters itself; which ones depends on its version, and they end the connection with errors
// of other names. Ours are stricter and come first; its own stay on behind them.
//
// Life     patient ──too often──▶ offended, for good: offence() is the sentence
// Thread   its connection's.
// Never    acts: the connection asks ok() after each count.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/limits.h"

namespace natrp {

class FloodGuard {
 public:
  explicit FloodGuard(uint64_t now_ms) : now_ms_(now_ms) {}

  void on_tick(uint64_t now_ms);

  // A frame's head came: its type and payload length as in RFC 9113 §4.1.
  void on_frame_begin(uint8_t type, size_t length);
  // Of a block that is read. nghttp2 skips those of streams that are over, and does not say when they end.
  void on_header_block_begin();
  void on_header_block_end() { header_block_open_ = false; }
  void on_header_field(size_t name_size, size_t value_size);
  void on_empty_data() { spend(control_frames_, kEmptyData); }
  void on_invalid_frame() { spend(control_frames_, kInvalidFrames); }
  void on_data_sent() { control_frames_.add(kGrpcControlFramesPerDataSent * 1000, kGrpcControlFramesBurst); }
  void on_stream_wasted() { spend(wasted_streams_, kWastedStreams); }

  bool ok() const { return offence_ == nullptr; }
  const char* offence() const { return offence_; }

 private:
  // A token bucket in thousandths: what is regained in a millisecond is a whole number.
  struct Allowance {
    uint64_t left;
    void add(uint64_t thousandths, uint64_t burst) {
      left = left + thousandths < burst * 1000 ? left + thousandths : burst * 1000;
    }
  };

  static const char kControlFrames[], kEmptyData[], kInvalidFrames[], kWastedStreams[], kContinuations[],
      kHeaderBlock[], kHeaderFields[], kSlowHeaders[];

  void spend(Allowance& allowance, const char* offence);
  void offend(const char* offence);

  Allowance control_frames_{kGrpcControlFramesBurst * 1000ull};
  Allowance wasted_streams_{kGrpcWastedStreamsBurst * 1000ull};
  uint64_t now_ms_;
  uint64_t header_block_began_ms_ = 0;
  uint32_t continuations_ = 0;
  uint64_t header_block_bytes_ = 0;
  uint64_t header_list_bytes_ = 0;
  uint32_t header_fields_ = 0;
  bool header_block_open_ = false;
  const char* offence_ = nullptr;
};

}  // namespace natrp
