#include "edge/rehearsal.h"

#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "control/tls_identity.h"
#include "loop/loop.h"
#include "net/socket.h"
#include "runtime/process.h"
#include "store/state_dir.h"
#include "store/store.h"

namespace natrp {
namespace {

// The control port, the admin server's port, the state folder: 7000,9022,/var/lib/natrp
constexpr char kVariable[] = "NATRP_HANDOVER_FROM";

bool read_port(const char*& at, const char* end, uint16_t& port) {
  const auto read = std::from_chars(at, end, port);
  if (read.ec != std::errc() || read.ptr == end || *read.ptr != ',') return false;
  at = read.ptr + 1;
  return true;
}

// A port of the asking edge's is in use until the start, and may be by nobody else.
Status try_address(const char* option, const Address& address, const AskingEdge& asking) {
  const auto listener = listen_on(address, {}, 1);
  if (listener.ok()) return Done{};
  const bool is_let_go = listener.error().errno_value == EADDRINUSE && address.port() != 0 &&
                         (address.port() == asking.control_port || address.port() == asking.admin_port);
  if (is_let_go) return Done{};
  return Error{std::string(option) + ": " + listener.error().message, listener.error().errno_value};
}

Status try_state_dir(const std::string& dir, const AskingEdge& asking) {
  std::error_code error;
  // A start makes it, and the key, the certificate and the store where they are missing.
  if (!std::filesystem::exists(dir, error)) return Done{};
  if (Status usable = make_state_dir(dir); !usable.ok()) return usable;
  if (Status ours = check_not_everybodys(dir); !ours.ok()) return ours;
  if (!std::filesystem::equivalent(dir, asking.state_dir, error)) {
    if (Status free = check_state_dir_is_free(dir); !free.ok()) return free;
  }
  const bool has_key = ::access((dir + "/edge.key").c_str(), F_OK) == 0;
  const bool has_certificate = ::access((dir + "/edge.crt").c_str(), F_OK) == 0;
  if (has_key && has_certificate) {
    if (const auto identity = TlsIdentity::load_or_create(dir); !identity.ok()) return identity.error();
  }
  return Store::check(dir);
}

}  // namespace

std::string asking_variable(const EdgeOptions& options) {
  const uint16_t admin_port = options.admin ? options.admin->port() : 0;
  return std::string(kVariable) + '=' + std::to_string(options.bind.port()) + ',' + std::to_string(admin_port) + ',' +
         options.state_dir;
}

std::optional<AskingEdge> read_asking_variable() {
  const char* at = std::getenv(kVariable);
  if (at == nullptr) return std::nullopt;
  const char* const end = at + std::strlen(at);
  AskingEdge asking;
  if (!read_port(at, end, asking.control_port) || !read_port(at, end, asking.admin_port)) return std::nullopt;
  asking.state_dir.assign(at, end);
  return asking;
}

Status rehearse_start(const EdgeOptions& options, const AskingEdge& asking) {
  if (Status limits = check_process_limits(options.workers); !limits.ok()) return limits;
  if (const auto loop = make_loop(options.io); !loop.ok()) return loop.error();
  if (Status status = try_address("--bind", options.bind, asking); !status.ok()) return status;
  if (Status status = try_address("--public-bind", options.public_bind.with_port(0), asking); !status.ok()) {
    return status;
  }
  if (options.admin) {
    if (Status status = try_address("--admin", *options.admin, asking); !status.ok()) return status;
  }
  return try_state_dir(options.state_dir, asking);
}

}  // namespace natrp
