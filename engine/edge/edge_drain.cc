// The edge's end: the drain, and the handover to a successor (docs/operations.md).
#include <signal.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "edge/edge.h"

namespace natrp {
namespace {

// In a handover, for visitors that wait for a data channel: all others wait with them.
constexpr uint32_t kMakeWayMs = 3000;
// An edge through which nothing flows stays so long, to see its successor start.
constexpr uint32_t kWatchMs = 2000;
constexpr uint32_t kStartAgainLeastMs = 1000;
constexpr uint32_t kStartAgainMostMs = 30'000;

}  // namespace

void Edge::on_signal(int signal) {
  if (signal == SIGUSR2) return hand_over();
  if (handing_over_ && !handed_over_) {
    log_warning("no handover: this edge was told to stop", {});
    handing_over_ = false;
    ports_->end_handed_on();
    return notify_systemd("STOPPING=1");
  }
  if (draining_) {
    log_warning(handed_over_ ? "told to stop: what still flows is cut off" : "second signal: stopping at once", {});
    stopped_ = true;
    return;
  }
  notify_systemd("STOPPING=1");
  drain();
}

void Edge::drain() {
  draining_ = true;
  drain_deadline_ms_ = now_ms() + static_cast<uint64_t>(options_.drain_seconds) * 1000;
  log_info("draining: no new visitors, those that flow may finish", {{"seconds", options_.drain_seconds}});
  const auto backlog = handing_over_ ? Backlog::kHandedOn : Backlog::kServed;
  for (auto& registration : registrations_) registration->drain(options_.drain_seconds, backlog);
  if (grpc_) grpc_->drain();
  // The control port stays: visitors that wait are to have their data channels. A new agent is told of the drain.
  workers_waiting_ = workers_flowing_ = static_cast<unsigned>(workers_.size());
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->mailbox().post([this, role = roles_[i]] {
      role->when_nobody_waits([this] { mailbox_->post([this] { --workers_waiting_; }); });
      role->when_idle([this] { mailbox_->post([this] { --workers_flowing_; }); });
    });
  }
}

bool Edge::over() const {
  return stopped_ || (draining_ && workers_flowing_ == 0 && now_ms() >= watch_until_ms_);
}

// --- The handover -------------------------------------------------------------------------------------------------

void Edge::hand_over() {
  if (draining_ || (successor_ && successor_->busy())) {
    return log_warning("SIGUSR2 changes nothing: this edge hands over or stops already", {});
  }
  if (const std::string why = why_no_successor(); !why.empty()) return log_error("no handover: " + why, {});
  if (!successor_) successor_ = std::make_unique<Successor>(*loop_, succession_.command);
  // What can be found wrong before anything is let go, is.
  const Status begun = successor_->check([this](int status) {
    if (draining_) return;
    if (status != 0) {
      return log_error("no handover: " + successor_->file() + " --check " + how_it_ended(status) +
                           "; this edge goes on",
                       {});
    }
    handing_over_ = true;
    make_way_ms_ = now_ms() + kMakeWayMs;
    drain();
  });
  if (!begun.ok()) log_error("no handover: " + begun.error().message + "; this edge goes on", {});
}

std::string Edge::why_no_successor() const {
  if (succession_.command.empty()) return "nobody has said how this program is started";
  if (options_.bind.port() == 0) return "the kernel chose the control port (--bind), and no agent would find another";
  // Whoever is process 1 of a container takes it along at its end.
  if (::getpid() == 1) return "this edge is process 1, with which its container ends; start another container";
  return {};
}

// What only one edge can have: the addresses and the state folder. Here is left what flows.
void Edge::make_way() {
  made_way_ = true;
  for (auto& registration : registrations_) registration->close("the edge hands over to its successor");
  ports_->close(control_listener_);
  if (store_op_.in_flight) loop_->cancel(store_op_);
  // Sessions may take longer: an agent that does not answer has its second, and nobody waits for that.
  for (int turn = 0; turn < 400 && (ports_->closing() > 0 || store_op_.in_flight); ++turn) loop_->run_once(5);
  leases_->finish();
  if (succession_.give_up_addresses) succession_.give_up_addresses();
  state_lock_.reset();
  if (!handing_over_) return;  // told to stop meanwhile
  handed_over_ = true;
  start_successor();
}

void Edge::start_successor() {
  watch_until_ms_ = now_ms() + kWatchMs;
  const Status started = successor_->start(ports_->take_handed_on(), [this](int status) { successor_ended(status); });
  if (!started.ok()) {
    log_error(started.error().message, {});
    return start_again_later();
  }
  // From here on the service manager looks after that process, and listens to it.
  notify_systemd(("MAINPID=" + std::to_string(successor_->pid())).c_str());
  log_info("handed over: what flows here may finish", {{"program", successor_->file()},
                                                       {"successor", static_cast<int>(successor_->pid())}});
}

// A service manager hears of it only when this process is gone, too: until then it has a manager in us.
void Edge::successor_ended(int status) {
  if (status == 0) return;  // it was told to stop, or has a successor itself
  log_error("the successor " + how_it_ended(status) + ": nobody takes visitors", {});
  start_again_later();
}

void Edge::start_again_later() {
  start_again_ms_ = std::clamp(2 * start_again_ms_, kStartAgainLeastMs, kStartAgainMostMs);
  log_info("the successor is started again", {{"in_ms", start_again_ms_}});
  watch_until_ms_ = now_ms() + start_again_ms_ + kWatchMs;
  loop_->timers().arm(start_again_, start_again_ms_);
}

}  // namespace natrp
