#include "loop/buf_ring.h"

#include <sys/mman.h>

#include "base/check.h"
#include "base/limits.h"

namespace natrp {

BufRing::~BufRing() {
  if (memory_ != nullptr) munmap(memory_, kBufferBytes * kBuffersMax);
}

void BufRing::setup(OfferFn offer, void* context) {
  NATRP_CHECK(memory_ == nullptr, "a BufRing is set up once");
  void* mapped = mmap(nullptr, kBufferBytes * kBuffersMax, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  NATRP_CHECK(mapped != MAP_FAILED, "address space for receive buffers");
  // Huge pages would make every touched buffer cost 2 MiB.
  madvise(mapped, kBufferBytes * kBuffersMax, MADV_NOHUGEPAGE);
  memory_ = static_cast<unsigned char*>(mapped);
  reserve_.reserve(kBuffersMax);
  for (unsigned id = kBuffersMax; id > 0; --id) reserve_.push_back(static_cast<uint16_t>(id - 1));
  offer_wanted_ = kBuffersOfferedFirst;
  offer_ = offer;
  context_ = context;
  top_up();
}

void BufRing::top_up() {
  while (offer_ != nullptr && offered_ < offer_wanted_ && !reserve_.empty()) {
    const uint16_t id = pop();
    ++offered_;
    offer_(context_, id);
  }
}

uint16_t BufRing::pop() {
  const uint16_t id = reserve_.back();
  reserve_.pop_back();
  if (!is_touched_[id]) {
    is_touched_[id] = true;
    ++touched_;
  }
  return id;
}

unsigned BufRing::offer_fewest() {
  offer_wanted_ = kBuffersOfferedFirst;
  return surplus();
}

void BufRing::trim() {
  unsigned trimmed = 0;
  for (const uint16_t id : reserve_) {  // the coldest first
    if (trimmed == kBuffersTrimmed || spare_touched() <= kBuffersSpare) return;
    if (!is_touched_[id]) continue;
    madvise(data(id) - kBufferHeadBytes, kBufferBytes, MADV_DONTNEED);
    is_touched_[id] = false;
    --touched_;
    ++trimmed;
  }
}

void BufRing::offer_more() {
  if (offer_wanted_ < kBuffersOffered) offer_wanted_ *= 2;
  top_up();
}

bool BufRing::take(uint16_t& id) {
  if (reserve_.empty()) return false;
  id = pop();
  ++held_;
  ++uses_;
  return true;
}

void BufRing::filled() {
  NATRP_CHECK(offered_ > 0, "the kernel filled a buffer that was not offered");
  --offered_;
  ++held_;
  ++uses_;
  top_up();
}

void BufRing::release(uint16_t id) {
  NATRP_CHECK(held_ > 0, "a buffer is released once");
  --held_;
  reserve_.push_back(id);
  top_up();
}

}  // namespace natrp
