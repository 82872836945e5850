// The edge's end: the drain, and what is let go for a successor.
#include <signal.h>

#include "base/log.h"
#include "edge/edge.h"
#include "store/state_dir.h"

namespace natrp {

void Edge::on_signal(int signal) {
  if (signal == SIGUSR1) {
    return log_warning("SIGUSR1 means nothing here: SIGTERM stops this edge, SIGUSR2 hands over to a successor", {});
  }
  if (signal == SIGHUP) {
    return log_warning("SIGHUP reloads nothing: SIGUSR2 hands over to the program and the file that are there now", {});
  }
  if (signal == SIGUSR2) return begin_handover();
  if (handover_->call_off()) {
    ports_->end_handed_on();
    return notify_systemd("STOPPING=1");
  }
  if (handover_->leave()) {
    return log_info("told to stop: it drains already, and what flows may finish", {});
  }
  if (draining_) {
    log_warning("told to stop: what still flows is cut off", {});
    stopped_ = true;
    return;
  }
  notify_systemd("STOPPING=1");
  drain();
}

// The rehearsal cannot tell: it has the files, and not what we have read of them.
void Edge::begin_handover() {
  if (!draining_ && identity_->is_replaced_in(options_.state_dir)) {
    return log_error("no handover: the state folder has not the key any more with which this edge runs, and agents "
                     "would refuse the successor, and end: put it back, or, for a new one, stop the edge and start it "
                     "again; this edge goes on",
                     {{"state", options_.state_dir}, {"pin", format_pin(identity_->pin())}});
  }
  handover_->begin(draining_, [this] { drain(); });
}

void Edge::drain() {
  draining_ = true;
  drain_deadline_ms_ = now_ms() + static_cast<uint64_t>(options_.drain_seconds) * 1000;
  log_info("draining: no new visitors, those that flow may finish", {{"seconds", options_.drain_seconds}});
  const auto backlog = handover_->under_way() ? Backlog::kHandedOn : Backlog::kServed;
  for (auto& registration : registrations_) registration->drain(options_.drain_seconds, backlog);
  if (grpc_) grpc_->drain();
  // The control port stays: visitors that wait are to have their data channels. A new agent is told of the drain.
  workers_waiting_ = workers_flowing_ = crew_.size();
  crew_.post_to_all([this](EdgeWorker& role) {
    role.when_nobody_waits([this] { mailbox_->post([this] { --workers_waiting_; }); });
    role.when_idle([this] { mailbox_->post([this] { --workers_flowing_; }); });
  });
}

// Agents that drain, and wait until no visitor waits for them.
void Edge::end_drained_sessions() {
  for (auto& registration : registrations_) registration->end_if_drained();
}

bool Edge::over() const {
  return stopped_ || (draining_ && workers_flowing_ == 0 && !handover_->watches());
}

// What only one edge can have: the addresses and the state folder. Here is left what flows.
void Edge::make_way() {
  handover_->let_go();
  leads_ = false;
  for (auto& registration : registrations_) registration->close("the edge hands over to its successor");
  ports_->close(control_listener_, Backlog::kHandedOn);
  store_watch_->stop();
  // Sessions may take longer: an agent that does not answer has its second, and nobody waits for that.
  loop_->land_until([this] { return ports_->closing() == 0 && store_watch_->landed(); });
  leases_->finish();
  handover_->give_up_addresses();
  unlock_state_dir(state_lock_);
  std::vector<Fd> listeners = ports_->take_handed_on();
  // And those of tunnels that are not back since the last handover: somebody may wait in their backlogs.
  for (Fd& listener : leases_->give_up_listeners()) listeners.push_back(std::move(listener));
  // Those that a worker has still not left: the successor listens anew, and could not where we do.
  ports_->end_handed_on();
  handover_->start(std::move(listeners), std::move(state_lock_));
}

}  // namespace natrp
