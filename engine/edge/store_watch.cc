#include "edge/store_watch.h"

#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <utility>

#include "base/log.h"

namespace natrp {

StoreWatch::StoreWatch(Loop& loop, Store& store, std::string state_dir,
                       std::function<void(std::vector<ClientRecord>)> on_change)
    : loop_(loop), store_(store), state_dir_(std::move(state_dir)), on_change_(std::move(on_change)) {}

Result<std::vector<ClientRecord>> StoreWatch::read() {
  // The version first: what changes in between is seen by the next look().
  const auto version = store_.data_version();
  if (!version.ok()) return version.error();
  version_ = version.value();
  return store_.list_clients();
}

void StoreWatch::begin() {
  events_.reset(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  // The folder and not the file: SQLite makes the -wal file anew when it likes.
  // IN_CLOSE_WRITE comes when natrpctl is done, and so after its change is visible.
  if (!events_.valid() || inotify_add_watch(events_.get(), state_dir_.c_str(),
                                            IN_MODIFY | IN_CREATE | IN_MOVED_TO | IN_CLOSE_WRITE) < 0) {
    log_warning("the state folder cannot be watched; changes by natrpctl are seen within a quarter second", {});
    return;
  }
  op_.kind = OpKind::kPoll;
  op_.fd = events_.get();
  op_.len = POLLIN;
  loop_.submit(op_);
}

void StoreWatch::stop() {
  if (op_.in_flight) loop_.cancel(op_);
}

void StoreWatch::on_op(Op& op) {
  if (op.cancelled) return;
  char events[4096];
  while (::read(events_.get(), events, sizeof events) > 0) {
  }
  loop_.submit(op);
  look();
}

void StoreWatch::look() {
  if (const Status read = read_change(); !read.ok()) {
    if (std::exchange(failing_, true)) return;
    return log_error("the store cannot be read: what natrpctl changes does not count until it can be",
                     {{"error", read.error().message}});
  }
  if (std::exchange(failing_, false)) log_info("the store can be read again", {});
}

Status StoreWatch::read_change() {
  const auto version = store_.data_version();
  if (!version.ok()) return version.error();
  if (version.value() == version_) return Done{};
  // One read for all: where another program has locked readers out, too, that is one wait, and the next tick tries.
  auto clients = store_.list_clients();
  if (!clients.ok()) return clients.error();
  version_ = version.value();
  on_change_(std::move(clients).value());
  return Done{};
}

}  // namespace natrp
