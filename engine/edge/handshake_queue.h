// edge/handshake_queue.h
//
// HandshakeQueue: conns of agents that wait for their TLS handshake, because as many handshakes are under way as the
// edge allows at a time. After a handover or an outage all agents come at once, and none of them is sent away for that.
//
// Thread   the control thread.
// Memory   a descriptor and the first bytes of each; its owner bounds how many.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <utility>

#include "base/fd.h"

namespace natrp {

class HandshakeQueue {
 public:
  struct Waiting {
    Fd fd;
    std::string prefix;        // what it has said already
    uint64_t deadline_ms = 0;  // its session has to be open by then
  };

  void add(Waiting waiting) { waiting_.push_back(std::move(waiting)); }
  size_t size() const { return waiting_.size(); }
  bool empty() const { return waiting_.empty(); }
  // Closes those whose deadline is over. Returns how many.
  size_t expire(uint64_t now_ms) {
    size_t expired = 0;
    for (; !empty() && waiting_.front().deadline_ms <= now_ms; ++expired) waiting_.pop_front();
    return expired;
  }
  // The one that has waited longest. Only when there is one.
  Waiting take() {
    Waiting first = std::move(waiting_.front());
    waiting_.pop_front();
    return first;
  }

 private:
  std::deque<Waiting> waiting_;
};

}  // namespace natrp
