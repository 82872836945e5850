// runtime/crew.h
//
// Crew: the workers of a process, and what the process is in each of them: its Role (EdgeWorker or AgentWorker).
//
// Life     start() ──▶ every worker runs ──stop()──▶ joined. Counters and conns can be read until the crew goes.
// Thread   start(), stop(): the control thread. Once start() has returned nothing here changes any more: the roles may
//          look from their first letter on, and any thread may post.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "base/log.h"
#include "net/conn_table.h"
#include "runtime/options.h"
#include "runtime/worker.h"

namespace natrp {

template <typename Role>
class Crew {
 public:
  using MakeRole = std::function<std::unique_ptr<Role>(Worker&)>;

  // options.workers of them, each with so many slots. make_role runs in each worker's thread. On failure those that run
  // are stopped by stop().
  Status start(const EngineOptions& options, uint32_t slots_per_worker, const MakeRole& make_role) {
    const unsigned count = options.workers;
    roles_.resize(count);
    for (unsigned i = 0; i < count; ++i) conns_.add_shard(slots_per_worker);
    for (unsigned i = 0; i < count; ++i) {
      workers_.push_back(std::make_unique<Worker>(WorkerSetup{
          .index = i,
          .workers = count,
          .io = options.io,
          .pump = options.pump,
          .pipes_max = options.pipes_max,
          .brief_wait = options.brief_wait,
          .conns = &conns_.shard(i),
          .make_role =
              [this, i, make_role](Worker& worker) {
                auto role = make_role(worker);
                roles_[i] = role.get();
                return role;
              },
      }));
      const auto started = workers_.back()->start();
      if (!started.ok()) return started.error();
      if (i == 0 && !started.value().empty()) {
        log_warning("io_uring is not used, epoll is: " + started.value(), {});
      }
    }
    return Done{};
  }
  void stop() {
    for (auto& worker : workers_) worker->stop();
  }

  // letter: void(Role&), run in that worker.
  template <typename Letter>
  void post(size_t index, Letter letter) const {
    workers_[index]->mailbox().post([role = roles_[index], letter = std::move(letter)] { letter(*role); });
  }
  // Likewise in each worker, a copy for each.
  template <typename Letter>
  void post_to_all(const Letter& letter) const {
    for (size_t i = 0; i < workers_.size(); ++i) post(i, letter);
  }

  unsigned size() const { return static_cast<unsigned>(roles_.size()); }
  Worker& worker(size_t index) const { return *workers_[index]; }
  // In that worker's thread.
  Role& role(size_t index) const { return *roles_[index]; }
  const std::vector<std::unique_ptr<Worker>>& workers() const { return workers_; }
  // A shard for each worker.
  const ConnTable& conns() const { return conns_; }

 private:
  ConnTable conns_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Role*> roles_;
};

}  // namespace natrp
