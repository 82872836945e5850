// edge/session_ids.h
//
// SessionIds: the names of sessions. An index is not given again while a worker remembers the session that had it:
// until that session's last pair is over, perhaps long after its agent has left.
//
// Thread   the control thread.
// Memory   a record for each session that is remembered, and at most as many again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "base/slot_id.h"

namespace natrp {

class SessionIds {
 public:
  // first: for tests, which do not count up to the end of the range.
  explicit SessionIds(uint32_t first = 1) : next_(first) {}

  SlotId next() {
    while (remembered(next_)) advance();
    const SlotId id = SlotId::make(0, next_, generation_);
    advance();
    return id;
  }
  // id is in use for as long as session lives.
  void remember(SlotId id, std::weak_ptr<const void> session) {
    sessions_[id.index()] = std::move(session);
    if (sessions_.size() < sweep_at_) return;
    std::erase_if(sessions_, [](const auto& each) { return each.second.expired(); });
    sweep_at_ = std::max<size_t>(64, 2 * sessions_.size());
  }
  // Records, those that will be swept with the next ones included.
  size_t remembered() const { return sessions_.size(); }

 private:
  bool remembered(uint32_t index) const {
    const auto at = sessions_.find(index);
    return at != sessions_.end() && !at->second.expired();
  }
  void advance() {
    if (next_++ < SlotId::kIndexMax) return;
    next_ = 1;
    generation_ += 2;  // odd, like that of every claimed slot, and so never 0
  }

  uint32_t next_;
  uint32_t generation_ = 1;
  size_t sweep_at_ = 64;
  std::unordered_map<uint32_t, std::weak_ptr<const void>> sessions_;  // by index
};

}  // namespace natrp
