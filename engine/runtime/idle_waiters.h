// runtime/idle_waiters.h
//
// IdleWaiters: callbacks that wait, in one worker, until nothing of its role flows any more (a drain, an end). The role
// knows when that is so: it looks whenever something of its own has ended, and calls settle().
//
// Thread   its worker's. Each waiter is called once; it may add another, which waits for the next settle().
#pragma once

#include <functional>
#include <utility>
#include <vector>

namespace natrp {

class IdleWaiters {
 public:
  void add(std::function<void()> done) { waiters_.push_back(std::move(done)); }
  bool empty() const { return waiters_.empty(); }

  // Nothing flows: calls all of them.
  void settle() {
    auto waiters = std::exchange(waiters_, {});
    for (auto& done : waiters) done();
  }

 private:
  std::vector<std::function<void()>> waiters_;
};

}  // namespace natrp
