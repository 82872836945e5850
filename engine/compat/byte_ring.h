// compat/byte_ring.h
//
// ByteRing: bytes of one stream that wait for their turn to be sent, first in, first out, never more than a maximum.
//
// Life     empty ──put──▶ holding ◀──▶ full          release() from anywhere: ──▶ empty
// Thread   its stream's.
// Memory   none until the first byte comes; then it doubles up to the maximum, and release() gives all of it back.
// Never    drops a byte: put() takes what fits and says how much that was.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>

namespace natrp {

class ByteRing {
 public:
  explicit ByteRing(size_t bytes_max) : bytes_max_(bytes_max) {}

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  size_t room() const { return bytes_max_ - size_; }

  // Returns the bytes taken from the front of `bytes`.
  size_t put(std::span<const uint8_t> bytes) {
    const size_t count = std::min(bytes.size(), room());
    reserve(size_ + count);
    for (size_t done = 0; done < count;) {
      const size_t tail = (head_ + size_) % capacity_;
      const size_t step = std::min(count - done, capacity_ - tail);
      std::memcpy(memory_.get() + tail, bytes.data() + done, step);
      size_ += step;
      done += step;
    }
    return count;
  }

  // Moves bytes to the front of `out`, returns how many.
  size_t take(std::span<uint8_t> out) {
    const size_t count = std::min(out.size(), size_);
    for (size_t done = 0; done < count;) {
      const size_t step = std::min(count - done, capacity_ - head_);
      std::memcpy(out.data() + done, memory_.get() + head_, step);
      head_ = (head_ + step) % capacity_;
      size_ -= step;
      done += step;
    }
    return count;
  }

  void release() {
    memory_.reset();
    capacity_ = head_ = size_ = 0;
  }

 private:
  static constexpr size_t kFirstCapacity = 1024;

  void reserve(size_t wanted) {
    if (wanted <= capacity_) return;
    size_t capacity = std::max(capacity_, std::min(kFirstCapacity, bytes_max_));
    while (capacity < wanted) capacity = std::min(capacity * 2, bytes_max_);
    std::unique_ptr<uint8_t[]> memory(new uint8_t[capacity]);
    const size_t kept = take({memory.get(), size_});
    memory_ = std::move(memory);
    capacity_ = capacity;
    head_ = 0;
    size_ = kept;
  }

  std::unique_ptr<uint8_t[]> memory_;
  size_t bytes_max_;
  size_t capacity_ = 0;
  size_t head_ = 0;
  size_t size_ = 0;
};

}  // namespace natrp
