#include "runtime/options_engine.h"

#include <pwd.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "base/limits.h"

namespace natrp {

std::string default_state_dir() {
  if (geteuid() == 0) return "/var/lib/natrp-engine";
  // The XDG base directory specification: a relative path there is to be ignored.
  const char* state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && state[0] == '/') return std::string(state) + "/natrp-engine";
  const char* home = std::getenv("HOME");
  if (home == nullptr || home[0] == '\0') {
    const passwd* user = getpwuid(geteuid());
    home = user != nullptr ? user->pw_dir : "/";
  }
  return std::string(home) + "/.local/state/natrp-engine";
}

unsigned default_workers() {
  cpu_set_t cpus;
  // Fails where there are more CPUs than a cpu_set_t has bits; then there are enough for every worker.
  if (sched_getaffinity(0, sizeof cpus, &cpus) != 0) return kWorkersMax;
  return std::clamp(static_cast<unsigned>(CPU_COUNT(&cpus)), 1u, kWorkersMax);
}

void add_engine_options(OptionTable& table, EngineOptions& options) {
  options.workers = default_workers();
  table.integer("workers", 1, kWorkersMax, "the CPUs it may use", "How many threads carry visitors.",
                [&](int64_t n) { options.workers = static_cast<unsigned>(n); });
  table.choice("io", {"auto", "uring", "epoll"}, "auto",
               "How threads wait for the kernel; auto takes io_uring and falls back to epoll.",
               [&](size_t i) {
                 options.io = std::array{IoKind::kAuto, IoKind::kUring, IoKind::kEpoll}[i];
               });
  table.choice(
      "pump", {"auto", "splice", "uring", "copy"}, "auto", "How bulk bytes are carried; auto takes splice.",
      [&](size_t i) {
        options.pump = std::array{PumpKind::kAuto, PumpKind::kSplice, PumpKind::kUring, PumpKind::kCopy}[i];
      });
  table.integer("pipes-max", 0, kPipesPerWorkerMax, "0",
                "The most kernel pipes of one worker; 0 computes it from what the kernel grants.",
                [&](int64_t n) { options.pipes_max = static_cast<unsigned>(n); });
  table.on_off("brief-wait", "on",
               "Whether a thread looks for an answer for some microseconds before it sleeps: less latency for time of "
               "the processor that would idle.",
               [&](bool on) { options.brief_wait = on; });
  table.integer(
      "drain-seconds", 0, 86400, "30",
      "After SIGTERM: how long running connections may take to finish. A second SIGTERM ends at once.",
      [&](int64_t n) { options.drain_seconds = static_cast<unsigned>(n); });
  table.text("admin", "ADDR:PORT|off", "off",
             "Where metrics, health and the list of connections are served by HTTP, without a password.",
             [&](const std::string& text) -> Status {
               options.admin.reset();
               if (text == "off") return Done{};
               auto address = Address::parse(text);
               if (!address.ok()) return Error{address.error().message + ", or off"};
               options.admin = address.value();
               return Done{};
             });
  table.choice("log-level", {"debug", "info", "warning", "error"}, "info", "The least that is logged.",
               [&](size_t i) {
                 options.log_level =
                     std::array{LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError}[i];
               });
  table.choice("log-format", {"text", "json"}, "text", "One line of text or one JSON object per event.",
               [&](size_t i) { options.log_format = i == 0 ? LogFormat::kText : LogFormat::kJson; });
}

void add_state_option(OptionTable& table, std::string& state_dir) {
  state_dir = default_state_dir();
  table.text("state", "DIR", state_dir, "The folder that holds the edge's key, its clients and their ports.",
             [&](const std::string& text) -> Status {
               if (text.empty()) return Error{"the name of the state folder is empty: name a folder"};
               if (text.find('\0') != std::string::npos) return Error{"a folder's name holds no zero byte"};
               if (text == "~" || text.starts_with("~/")) {
                 return Error{"'" + text + "': a ~ is the shell's and stands for no folder here; write the whole path"};
               }
               // The log tells an operator to say it to natrpctl, who may be in another folder.
               std::error_code failed;
               state_dir = std::filesystem::absolute(text, failed);
               if (failed) return Error{"'" + text + "' has no whole path: " + failed.message() + "; write it"};
               // A trailing slash would be part of every path that is logged.
               while (state_dir.size() > 1 && state_dir.back() == '/') state_dir.pop_back();
               return Done{};
             });
}

}  // namespace natrp
