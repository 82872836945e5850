// agent/agent_worker.h
//
// AgentWorker: the agent's part of one worker: its channel opener, and callbacks that wait until its pairs are over.
//
// Thread   its worker's.
#pragma once

#include <functional>
#include <utility>

#include "agent/channel_opener.h"
#include "runtime/idle_waiters.h"
#include "runtime/worker.h"

namespace natrp {

class AgentWorker final : public WorkerRole {
 public:
  AgentWorker(Worker& worker, AgentControlPort& control)
      : worker_(worker), opener_(worker, control, [this] { check_idle(); }) {}

  ChannelOpener& opener() { return opener_; }
  // Calls done (in this thread) when nothing flows any more.
  void when_idle(std::function<void()> done) {
    idle_waiters_.add(std::move(done));
    check_idle();
  }

  void on_pair_end(Pair& pair) override {
    if (pair.reason == EndReason::kReturned) opener_.take_back(pair.front_conn(), pair.tag);
    check_idle();
  }
  bool may_keep_channel(const Pair& pair) override { return opener_.wants_back(pair.tag); }
  void on_pair_unready(Pair&) override {}

 private:
  void check_idle() {
    if (worker_.pairs().with_visitor() == 0 && opener_.visitors_coming() == 0) idle_waiters_.settle();
  }

  Worker& worker_;
  IdleWaiters idle_waiters_;  // before opener_: its end may still ask for them
  ChannelOpener opener_;
};

}  // namespace natrp
