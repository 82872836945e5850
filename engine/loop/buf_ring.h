// loop/buf_ring.h
//
// BufRing: the receive buffers of one worker. A receive without a buffer of its own takes one when bytes are there,
// and whoever handled the receive owns it until release(). An idle conn owns none.
//
// Life of a buffer   reserve ──▶ offered (the kernel may fill it) ──receive──▶ held ──release──▶ offered or reserve
// Thread   its loop's.
// Memory   one mapping, touched only where bytes were; the reserve is a stack, so the warm ones are used first. What a
//          burst has touched goes back to the system by trim(), when loop/buffer_trim finds the time for it.
// Place    loop/ and not relay/, whose bytes it holds: the ring backend registers the memory with the kernel.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/limits.h"

namespace natrp {

class BufRing {
 public:
  BufRing() = default;
  ~BufRing();
  BufRing(const BufRing&) = delete;
  BufRing& operator=(const BufRing&) = delete;

  // Maps the memory. offer: tells the backend that a buffer may be filled (nullptr where the backend asks by take()).
  using OfferFn = void (*)(void* context, uint16_t id);
  void setup(OfferFn offer, void* context);

  // A buffer for the caller, who owns it until release(); false when all are held.
  bool take(uint16_t& id);
  // The backend says that the kernel filled an offered buffer: it is held now, and another is offered in its place.
  void filled();
  void release(uint16_t id);
  // A receive found no buffer offered: offers twice as many from now on, up to kBuffersOffered.
  void offer_more();
  // Offers as few as at the start from now on. Gives surplus().
  unsigned offer_fewest();
  // How many more are on offer than wanted. The kernel gives none back: they leave by being filled.
  unsigned surplus() const { return offered_ > offer_wanted_ ? offered_ - offer_wanted_ : 0; }

  // More pages are touched, or more buffers offered, than an idle worker needs.
  bool has_grown() const { return offered_ > kBuffersOfferedFirst || spare_touched() > kBuffersSpare; }
  // Gives the pages of buffers that nobody holds and that are not on offer back to the system, but for the
  // kBuffersSpare that were used last; kBuffersTrimmed of them at most.
  void trim();
  // How often a buffer was filled or taken.
  uint64_t uses() const { return uses_; }

  // Where received bytes go: kBufferRoomBytes, and kBufferHeadBytes before them that the holder may write to.
  unsigned char* data(uint16_t id) { return memory_ + static_cast<size_t>(id) * kBufferBytes + kBufferHeadBytes; }
  unsigned held() const { return held_; }
  // Nothing is offered because everything is held: receives wait until a release.
  bool exhausted() const { return offer_ != nullptr ? offered_ == 0 : reserve_.empty(); }
  // take() finds none, though some may be on offer: those are for receives.
  bool has_no_reserve() const { return reserve_.empty(); }

 private:
  void top_up();
  uint16_t pop();
  unsigned spare_touched() const { return touched_ - held_ - offered_; }

  unsigned char* memory_ = nullptr;
  std::vector<uint16_t> reserve_;
  unsigned offered_ = 0;
  unsigned offer_wanted_ = 0;
  unsigned held_ = 0;
  // Buffers that left the reserve since they were last trimmed: they may have pages.
  std::bitset<kBuffersMax> is_touched_;
  unsigned touched_ = 0;
  uint64_t uses_ = 0;
  OfferFn offer_ = nullptr;
  void* context_ = nullptr;
};

}  // namespace natrp
