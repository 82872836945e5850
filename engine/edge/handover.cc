#include "edge/handover.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "edge/rehearsal.h"
#include "runtime/process.h"

namespace natrp {
namespace {

// For visitors that wait for a data channel: all others wait with them.
constexpr uint32_t kDueMs = 3000;
// An edge through which nothing flows stays for this long, to see its successor start.
constexpr uint32_t kWatchMs = 2000;
// … and for so long while that has not begun to lead. It may wait for another program that holds the store.
constexpr uint32_t kStartMs = 2 * kStoreWaitLongMs + kWatchMs;
constexpr uint32_t kStartAgainLeastMs = 1000;
constexpr uint32_t kStartAgainMostMs = 30'000;

// said: by the program that was tried, where it was.
void say_no(const std::string& why, const std::string& said = {}) {
  if (said.empty()) return log_error("no handover: " + why, {});
  log_error("no handover: " + why, {{"why", said}});
}

}  // namespace

Handover::Handover(Loop& loop, const EdgeOptions& options, Succession succession)
    : loop_(loop), options_(options), succession_(std::move(succession)) {
  if (!succession_.command.empty()) successor_.emplace(loop, succession_.command);
}

Handover::~Handover() {
  loop_.timers().disarm(again_);
  // One with a state folder of its own has not been seen to lead.
  if (stage_ == Stage::kDone && successor_->busy() && !led_) announce();
}

void Handover::begin(bool draining, std::function<void()> drain) {
  if (draining || stage_ != Stage::kNone) {
    return log_warning("SIGUSR2 changes nothing: this edge hands over or stops already", {});
  }
  if (const std::string why = why_not(); !why.empty()) return say_no(why);
  drain_ = std::move(drain);
  // What can be found wrong before anything is let go, is.
  const Status begun = successor_->check(asking_variable(options_), [this](int status) { tried(status); });
  if (!begun.ok()) return say_no(begun.error().message + "; this edge goes on");
  stage_ = Stage::kTrying;
}

std::string Handover::why_not() const {
  if (!successor_) return "nobody has said how this program is started";
  if (options_.bind.port() == 0) return "the kernel chose the control port (--bind), and no agent would find another";
  // A container ends with its process 1.
  if (::getpid() == 1) return "this edge is process 1, with which its container ends; start another container";
  return {};
}

void Handover::tried(int status) {
  if (stage_ != Stage::kTrying) return;  // called off
  if (status != 0) {
    stage_ = Stage::kNone;
    return say_no(successor_->file() + " --check " + how_it_ended(status) + "; this edge goes on",
                  successor_->said());
  }
  if (const std::string said = successor_->said(); !said.empty()) {
    log_warning(successor_->file() + " --check passed, and said something", {{"what", said}});
  }
  stage_ = Stage::kWaiting;
  due_ms_ = loop_.turn_ms() + kDueMs;
  drain_();
}

bool Handover::call_off() {
  if (stage_ == Stage::kDone || stage_ == Stage::kLeft) return false;
  const bool was_under_way = under_way();
  stage_ = Stage::kNone;
  if (was_under_way) log_warning("no handover: this edge was told to stop", {});
  return was_under_way;
}

bool Handover::is_due(bool nobody_waits) const {
  return stage_ == Stage::kWaiting && (nobody_waits || loop_.turn_ms() >= due_ms_);
}

void Handover::give_up_addresses() {
  if (succession_.give_up_addresses) succession_.give_up_addresses();
}

void Handover::start(std::vector<Fd> listeners, Fd lock) {
  if (stage_ != Stage::kLettingGo) return;
  stage_ = Stage::kDone;
  lock_ = std::move(lock);
  listeners_ = std::move(listeners);
  run_successor();
}

void Handover::run_successor() {
  watch_until_ms_ = loop_.turn_ms() + kWatchMs;
  starts_until_ms_ = loop_.turn_ms() + kStartMs;
  led_ = false;
  const Status started = successor_->start(listeners_, [this](int status) { successor_ended(status); });
  if (!started.ok()) {
    log_error(started.error().message, {});
    return start_again_later();
  }
  log_info("handed over: what flows here may finish", {{"program", successor_->file()},
                                                       {"successor", static_cast<int>(successor_->pid())}});
}

bool Handover::watches() const {
  if (stage_ != Stage::kDone) return false;
  const bool starts = !led_ && successor_->busy();
  return loop_.turn_ms() < (starts ? starts_until_ms_ : watch_until_ms_);
}

// The successor is announced once it has the state folder, and not before: when a main process could not start, and its
// exit code says so, a manager starts no other one. We do.
void Handover::tick() {
  if (led_ || stage_ != Stage::kDone || !successor_->busy()) return;
  // One with a state folder of its own is not seen to lead. By then it has begun, or it never will.
  if (loop_.turn_ms() >= starts_until_ms_) listeners_.clear();
  if (nobody_leads()) return;
  led_ = true;
  listeners_.clear();
  announce();
}

// From here on the service manager looks after that process, and listens to it.
void Handover::announce() {
  notify_systemd(("MAINPID=" + std::to_string(successor_->pid())).c_str());
}

// When it was announced, its manager sends us SIGTERM well before we try again.
void Handover::successor_ended(int status) {
  // It was told to stop; or it has a successor itself, which leads however the one between ended.
  const bool is_well = status == 0 || !nobody_leads();
  if (is_well || stage_ == Stage::kLeft) return listeners_.clear();
  log_error("the successor " + how_it_ended(status) + ": nobody takes visitors", {});
  start_again_later();
}

bool Handover::leave() {
  if (stage_ != Stage::kDone && stage_ != Stage::kLeft) return false;
  const bool managed = is_managed();
  if (stage_ == Stage::kDone && managed && nobody_leads()) return false;
  if (++told_to_stop_ > (managed ? 2u : 1u)) return false;
  stage_ = Stage::kLeft;
  if (again_.armed()) log_warning("the successor is not started again", {});
  loop_.timers().disarm(again_);
  listeners_.clear();
  return true;
}

void Handover::start_again_later() {
  again_ms_ = std::clamp(2 * again_ms_, kStartAgainLeastMs, kStartAgainMostMs);
  log_info("the successor is started again", {{"in_ms", again_ms_}});
  watch_until_ms_ = loop_.turn_ms() + again_ms_ + kWatchMs;
  loop_.timers().arm(again_, again_ms_);
}

}  // namespace natrp
