// The edge's end: the drain, and the handover to a successor (docs/operations.md).
#include <signal.h>

#include "base/log.h"
#include "edge/edge.h"

namespace natrp {

void Edge::on_signal(int signal) {
  if (signal == SIGUSR2) return hand_over();
  if (handing_over_ && !handed_over_) {
    log_warning("no handover: this edge was told to stop", {});
    handing_over_ = false;
    ports_->end_handed_on();
    return notify_systemd("STOPPING=1");
  }
  if (draining_) {
    log_warning("second signal: stopping at once", {});
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
  const auto ports = handing_over_ ? Registration::Ports::kHandOn : Registration::Ports::kClose;
  for (auto& registration : registrations_) registration->drain(options_.drain_seconds, ports);
  if (grpc_) grpc_->drain();
  // The control port stays: visitors that wait are to have their data channels. A new agent is told of the drain.
  workers_waiting_ = workers_flowing_ = static_cast<unsigned>(workers_.size());
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->mailbox().post([this, role = roles_[i]] {
      role->when_nobody_waits([this] { mailbox_->post([this] { --workers_waiting_; }); });
      role->when_idle([this] {
        mailbox_->post([this] {
          if (--workers_flowing_ == 0) stopped_ = true;
        });
      });
    });
  }
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
                           ", its sentence is above; this edge goes on",
                       {});
    }
    handing_over_ = true;
    drain();
  });
  if (!begun.ok()) log_error("no handover: " + begun.error().message + "; this edge goes on", {});
}

std::string Edge::why_no_successor() const {
  if (succession_.command.empty()) return "nobody has said how this program is started";
  // Whoever is process 1 of a container takes it along at its end.
  if (::getpid() == 1) return "this edge is process 1, with which its container ends; start another container";
  return {};
}

// What only one edge can have: the addresses and the state folder. Here is left what flows.
void Edge::let_go() {
  let_go_ = true;
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
  const Status started = successor_->start(ports_->take_handed_on(), [](int status) {
    if (status == 0) return;  // it was told to stop, or has a successor itself
    log_error("the successor " + how_it_ended(status) + ", its sentence is above: nobody takes visitors, start an edge",
              {});
  });
  if (!started.ok()) {
    return log_error(started.error().message + ": nobody takes visitors, start an edge", {});
  }
  // From here on the service manager looks after that process, and listens to it.
  notify_systemd(("MAINPID=" + std::to_string(successor_->pid())).c_str());
  log_info("handed over: what flows here may finish", {{"successor", static_cast<int>(successor_->pid())}});
}

}  // namespace natrp
