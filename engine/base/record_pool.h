// base/record_pool.h
//
// RecordPool<T, &T::pool_link>: records that come and go, sometimes by the thousand. `kept` of them live in one block
// and are used again and again; what a burst needs beyond goes back to the heap, so that an hour later nobody pays for
// it. One block, because a few kept records between many freed ones would hold every page of them.
//
// Thread   the thread that owns the pool. Nothing here is locked.
// Memory   a record stays where it is until it is given back. Up to `kept` records come and go without an allocation.
//          A page of the block is touched when its first record is needed.
// Owns     its records, those that are taken as well: they end with the pool.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "base/list.h"

namespace natrp {

template <typename T, ListLink T::*kLink>
class RecordPool {
 public:
  explicit RecordPool(unsigned kept) : kept_(kept), block_(std::allocator<T>().allocate(kept)) {}
  ~RecordPool() {
    taken_.for_each([this](T& record) {
      if (!in_block(record)) delete &record;
    });
    std::destroy_n(block_, made_);
    std::allocator<T>().deallocate(block_, kept_);
  }
  RecordPool(const RecordPool&) = delete;
  RecordPool& operator=(const RecordPool&) = delete;

  // A record as its last user left it, or a new one made of arguments. The one used last comes first: it is warm.
  template <typename... Arguments>
  T& take(Arguments&&... arguments) {
    T* record = free_.pop_front();
    if (record == nullptr) {
      record = made_ < kept_ ? std::construct_at(block_ + made_++, std::forward<Arguments>(arguments)...)
                             : new T(std::forward<Arguments>(arguments)...);
    }
    taken_.push_back(*record);
    ++taken_count_;
    return *record;
  }
  // Not touched by its user afterwards: it may be gone.
  void give_back(T& record) {
    (record.*kLink).unlink();
    --taken_count_;
    if (in_block(record)) {
      free_.push_front(record);
    } else {
      delete &record;
    }
  }

  unsigned taken() const { return taken_count_; }
  // Calls f(record) for each that is taken; f may give back the record it is given, and no other.
  template <typename F>
  void for_each(F&& f) {
    taken_.for_each(std::forward<F>(f));
  }

 private:
  bool in_block(const T& record) const {
    return !std::less<>()(&record, block_) && std::less<>()(&record, block_ + kept_);
  }

  const unsigned kept_;
  T* const block_;
  unsigned made_ = 0;  // of the block's
  unsigned taken_count_ = 0;
  List<T, kLink> taken_;
  List<T, kLink> free_;  // of the block's
};

}  // namespace natrp
