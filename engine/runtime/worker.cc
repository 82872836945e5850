#include "runtime/worker.h"

#include <algorithm>
#include <future>

#include "base/limits.h"
#include "base/log.h"
#include "loop/start_thread.h"
#include "runtime/process.h"
#include "runtime/wake_policy.h"

namespace natrp {

Worker::Worker(WorkerSetup setup) : setup_(std::move(setup)) {}

Worker::~Worker() { stop(); }

Result<std::string> Worker::start() {
  std::promise<Result<std::string>> promise;
  auto started = promise.get_future();
  auto thread = start_thread("worker-" + std::to_string(setup_.index), [this, &promise] {
    run([&promise](Result<std::string> result) { promise.set_value(std::move(result)); });
  });
  if (!thread.ok()) return thread.error();
  thread_ = std::move(thread).value();
  Result<std::string> result = started.get();
  if (!result.ok()) thread_.join();
  return result;
}

void Worker::stop() {
  if (!thread_.joinable()) return;
  mailbox_->post([this] { stopping_ = true; });
  thread_.join();
}

void Worker::run(const std::function<void(Result<std::string>)>& started) {
  // A ring belongs to the thread that made it.
  auto made = make_loop(setup_.io);
  if (!made.ok()) return started(made.error());
  loop_ = std::move(made.value().loop);
  loop_name_ = loop_->name();
  loop_->set_brief_wait(setup_.brief_wait);
  mailbox_ = std::make_unique<Mailbox>(*loop_);
  // Where descriptors are few they bound the pipes, or bulk would take what accept and dial need; else the pool's own
  // budget does.
  unsigned pipes_max = setup_.pipes_max;
  const unsigned most = pipes_for_descriptors(raise_descriptor_limit(), setup_.workers);
  if (most < kPipesPerWorkerMax) {
    pipes_max = pipes_max == 0 ? most : std::min(pipes_max, most);
  }
  pipes_ = std::make_unique<PipePool>(counters_, pipes_max, setup_.workers);
  relay_.reset(new RelayContext{*loop_, *setup_.conns, *pipes_, counters_, setup_.pump});
  pairs_ = std::make_unique<PairTable>(
      *relay_, setup_.conns->capacity(),
      PairTable::Events{
          .on_end = [](void* self, Pair& pair) { static_cast<Worker*>(self)->role_->on_pair_end(pair); },
          .on_unready = [](void* self, Pair& pair) { static_cast<Worker*>(self)->role_->on_pair_unready(pair); },
          .on_visitor_gone =
              [](void* self, Pair& pair) { return static_cast<Worker*>(self)->role_->on_visitor_gone(pair); },
          .may_keep_channel =
              [](void* self, const Pair& pair) { return static_cast<Worker*>(self)->role_->may_keep_channel(pair); }},
      this);
  role_ = setup_.make_role(*this);
  started(made.value().reason);
  uint32_t conns_live = 0;
  WakePolicy wake_policy(counters_, thread_is_ordinary() ? set_thread_mode : [](WakeMode) { return false; });
  while (!stopping_) {
    loop_->run_once(-1);
    wake_policy.after_turn(loop_->turn_ms());
    loop_->set_messages_first(wake_policy.mode() == WakeMode::kQuick);
    relay_->bytes_per_turn = wake_policy.bytes_per_turn();
    if (setup_.conns->live() != conns_live) {
      conns_live = setup_.conns->live();
      counters_.set(Counter::kConnsLive, conns_live);
    }
  }
  end_everything();
}

void Worker::end_everything() {
  loop_->set_messages_first(false);  // what it kept lands at once
  const auto landed = [this] {
    // A visitor, a Start or a service that was faster than its cancel began a pair in the last turn: it ends, too.
    pairs_->end_all(EndReason::kDrainDeadline);
    return pairs_->live() == 0;
  };
  loop_->land_until(landed, kPairsLandingMs);
  if (pairs_->live() > 0) log_error("pairs did not land at the end", {{"pairs", pairs_->live()}});
  role_.reset();
  pairs_.reset();
  relay_.reset();
  pipes_.reset();
  // The mailbox and the loop stay until the Worker goes: others may still post.
}

}  // namespace natrp
