#include "edge/rehearsal.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "admin/admin_server.h"
#include "control/tls_identity.h"
#include "loop/loop.h"
#include "loop/start_thread.h"
#include "net/socket.h"
#include "runtime/process.h"
#include "store/state_dir.h"
#include "store/store.h"

namespace natrp {
namespace {

// The control port, the admin server, the state folder: 0.0.0.0:7000,127.0.0.1:9022,/var/lib/natrp
constexpr char kVariable[] = "NATRP_HANDOVER_FROM";
constexpr char kNoAdmin[] = "-";

std::string_view take_word(std::string_view& text) {
  const size_t comma = text.find(',');
  const std::string_view word = text.substr(0, comma);
  text.remove_prefix(comma == text.npos ? text.size() : comma + 1);
  return word;
}

// Each address is held until the last is tried: a start has them all at once.
Status try_address(const char* option, const Address& address, const AskingEdge& asking, std::vector<Fd>& held) {
  auto listener = listen_on(address, {}, 1);
  if (listener.ok()) {
    held.push_back(std::move(listener).value());
    return Done{};
  }
  // The asking edge's is in use until the start. Whether another process has one beside it, nobody can tell.
  const bool is_let_go = listener.error().errno_value == EADDRINUSE &&
                         (overlap(address, asking.control) || (asking.admin && overlap(address, *asking.admin)));
  if (is_let_go) return Done{};
  return Error{std::string(option) + ": " + listener.error().message, listener.error().errno_value};
}

Status try_addresses(const EdgeOptions& options, const AskingEdge& asking) {
  std::vector<Fd> held;
  if (Status bind = try_address("--bind", options.bind, asking, held); !bind.ok()) return bind;
  const Address any_port = options.public_bind.with_port(0);
  if (Status ports = try_address("--public-bind", any_port, asking, held); !ports.ok()) return ports;
  if (!options.admin) return Done{};
  return try_address("--admin", *options.admin, asking, held);
}

Status try_state_dir(const std::string& dir, const AskingEdge& asking) {
  if (Status usable = check_state_dir(dir); !usable.ok()) return usable;
  std::error_code ignored;
  if (dir != asking.state_dir && !std::filesystem::equivalent(dir, asking.state_dir, ignored)) {
    if (Status free = check_state_dir_is_free(dir); !free.ok()) return free;
    // With another key the agents would refuse the successor; without the clients, it would refuse them. Either way
    // they would end, and not come back.
    const bool is_another = TlsIdentity::find_pin(dir) != TlsIdentity::find_pin(asking.state_dir) ||
                            !Store::exists(dir);
    if (is_another) {
      return Error{"the state folder " + dir + " has another key than " + asking.state_dir +
                   ", with which this edge runs, or no natrp.db: its agents would refuse the successor, and end. Is "
                   "`state` right? To move the folder, stop the edge, move it, and start the edge again"};
    }
  }
  if (Status identity = TlsIdentity::check(dir); !identity.ok()) return identity;
  return Store::check(dir);
}

// All at once, beside those of the asking edge: what flows there goes on while the successor runs.
Status try_threads(const EdgeOptions& options) {
  const unsigned count = options.workers + (options.admin ? AdminServer::kThreads : 0);
  std::promise<void> over;
  const std::shared_future<void> all_tried = over.get_future().share();
  std::vector<std::thread> started;
  Status tried = Done{};
  while (started.size() < count && tried.ok()) {
    auto thread = start_thread("rehearsal", [all_tried] { all_tried.wait(); });
    if (thread.ok()) {
      started.push_back(std::move(thread).value());
    } else {
      tried = thread.error();
    }
  }
  over.set_value();
  for (std::thread& each : started) each.join();
  return tried;
}

}  // namespace

std::string asking_variable(const EdgeOptions& options) {
  return std::string(kVariable) + '=' + options.bind.text() + ',' +
         (options.admin ? options.admin->text() : kNoAdmin) + ',' + options.state_dir;
}

std::optional<AskingEdge> read_asking_variable() {
  const char* value = std::getenv(kVariable);
  if (value == nullptr) return std::nullopt;
  std::string_view left = value;
  const auto control = Address::parse(take_word(left));
  const std::string_view admin_word = take_word(left);
  const auto admin = Address::parse(admin_word);
  if (!control.ok() || (!admin.ok() && admin_word != kNoAdmin) || left.empty()) return std::nullopt;
  AskingEdge asking{.control = control.value()};
  if (admin.ok()) asking.admin = admin.value();
  asking.state_dir = left;
  return asking;
}

Status rehearse_start(const EdgeOptions& options, const AskingEdge& asking) {
  if (Status limits = check_process_limits(options.workers); !limits.ok()) return limits;
  if (const auto loop = make_loop(options.io); !loop.ok()) return loop.error();
  if (Status threads = try_threads(options); !threads.ok()) return threads;
  if (Status addresses = try_addresses(options, asking); !addresses.ok()) return addresses;
  return try_state_dir(options.state_dir, asking);
}

}  // namespace natrp
