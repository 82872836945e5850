// loop/buf_ring.h
//
// BufRing: the receive buffers of one worker. A receive without a buffer of its own takes one when bytes are there,
// and whoever handled the receive owns it until release(). An idle conn owns none.
//
// Life of a buffer   reserve ──▶ offered (the kernel may fill it) ──receive──▶ held ──release──▶ offered or reserve
// Thread   its loop's.
// Memory   one mapping, touched only where bytes were; the reserve is a stack, so the warm ones are used first.
// Place    loop/ and not relay/, whose bytes it holds: the ring backend registers the memory with the kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

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
  void filled(uint16_t id);
  void release(uint16_t id);
  // A receive found no buffer offered: offers twice as many from now on, up to kBuffersOffered.
  void offer_more();

  unsigned char* data(uint16_t id) { return memory_ + static_cast<size_t>(id) * bytes_each_; }
  size_t bytes_each() const { return bytes_each_; }
  unsigned held() const { return held_; }
  // Nothing is offered because everything is held: receives wait until a release.
  bool exhausted() const { return offer_ != nullptr ? offered_ == 0 : reserve_.empty(); }

 private:
  void top_up();

  unsigned char* memory_ = nullptr;
  size_t bytes_each_ = 0;
  std::vector<uint16_t> reserve_;
  unsigned offered_ = 0;
  unsigned offer_wanted_ = 0;
  unsigned held_ = 0;
  OfferFn offer_ = nullptr;
  void* context_ = nullptr;
};

}  // namespace natrp
