#include "runtime/successor.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <system_error>

#include "base/check.h"
#include "runtime/process.h"

namespace natrp {
namespace {

// Descriptors, separated by commas.
constexpr char kListeners[] = "NATRP_HANDED_LISTENERS";
// The kernel takes no longer one than 128 KiB (execve(2)): 21,000 listeners. What does not fit goes into the next ones,
// NATRP_HANDED_LISTENERS_2 and so on.
constexpr size_t kVariableBytesMax = 120'000;
std::string listeners_name(size_t number) {
  return number == 1 ? kListeners : std::string(kListeners) + '_' + std::to_string(number);
}
constexpr uint32_t kCheckMs = 5000;
constexpr size_t kSaidBytesMax = 2048;
// A check that says more than a pipe holds waits for us; and what it says to the end we hear when it has ended.
constexpr uint32_t kListenAgainMs = 50;
constexpr unsigned kReadsPerTurn = 32;

// Both ends, or none of them valid.
struct Pipe {
  Fd reads;
  Fd writes;
};

Pipe pipe_that_waits_for_no_writer() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return {};
  Pipe pipe{Fd(ends[0]), Fd(ends[1])};
  // Of the reader's end alone: the writer is a program that need not expect it.
  if (::fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0) return {};
  return pipe;
}

}  // namespace

std::vector<std::string> own_command(int argc, char** argv) {
  std::vector<std::string> command(argv, argv + argc);
  if (command.empty()) command.emplace_back();
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return command;
  // argv[0] is what whoever started it likes to say.
  const auto is_self = [&](const std::filesystem::path& file) {
    return std::filesystem::equivalent(file, self, error);
  };
  if (const auto named = std::filesystem::absolute(command.front(), error); is_self(named)) {
    command.front() = named;
  } else {
    command.front() = self;
    const char* path = std::getenv("PATH");
    std::istringstream folders(path != nullptr ? path : "");
    for (std::string folder; std::getline(folders, folder, ':');) {
      const auto found = std::filesystem::path(folder) / (argc > 0 ? argv[0] : "");
      if (folder.empty() || !is_self(found)) continue;
      command.front() = found;
      break;
    }
  }
  return command;
}

namespace {

void take_listeners_of(const char* numbers, std::vector<Fd>& listeners) {
  while (*numbers != '\0') {
    int fd = -1;
    const auto read = std::from_chars(numbers, numbers + std::strlen(numbers), fd);
    numbers = read.ptr + (*read.ptr == ',' ? 1 : 0);
    int listens = 0;
    socklen_t length = sizeof listens;
    // Somebody else's variable names somebody else's descriptors, or none.
    if (read.ec != std::errc() || fd <= STDERR_FILENO ||
        ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) != 0) {
      return;
    }
    Fd listener(fd);
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    // A successor before this one, that could not start, may have had no use for it (stop_listening).
    if (listens != 0) listeners.push_back(std::move(listener));
  }
}

}  // namespace

std::vector<Fd> take_handed_listeners() {
  std::vector<Fd> listeners;
  for (size_t number = 1;; ++number) {
    const std::string name = listeners_name(number);
    const char* const numbers = std::getenv(name.c_str());
    if (numbers == nullptr) return listeners;
    take_listeners_of(numbers, listeners);
    ::unsetenv(name.c_str());
  }
}

std::string how_it_ended(int status) {
  if (status == Successor::kUnknownEnd) return "ended";
  return WIFEXITED(status) ? "ended with code " + std::to_string(WEXITSTATUS(status))
                           : "was ended by signal " + std::to_string(WTERMSIG(status));
}

Successor::Successor(Loop& loop, std::vector<std::string> command) : loop_(loop), command_(std::move(command)) {
  NATRP_CHECK(!command_.empty(), "a command has its file");
  watch_.kind = OpKind::kPoll;
  watch_.len = POLLIN;
}

Successor::~Successor() {
  if (busy() && checks_) ::kill(pid_, SIGKILL);
  loop_.timers().disarm(check_deadline_);
  loop_.timers().disarm(listen_again_);
  if (watch_.in_flight) loop_.cancel(watch_);
  loop_.land_until([this] { return !watch_.in_flight; });
  if (pidfd_.valid()) loop_.let_go(pidfd_.get());
}

Status Successor::spawn(Way way, OnEnd on_end) {
  NATRP_CHECK(!watch_.in_flight, "one process at a time");
  checks_ = way.checks;
  std::vector<char*> words;
  for (std::string& word : command_) words.push_back(word.data());
  std::string check = "--check";
  if (checks_) words.push_back(check.data());
  words.push_back(nullptr);
  // The signals that we block stay blocked: one that comes before it looks for them (runtime/process) waits for it.
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  // All others are close-on-exec. A dup2 of a descriptor to itself is how they are told not to be.
  std::vector<std::string> handed;
  for (const Fd& listener : way.listeners) {
    posix_spawn_file_actions_adddup2(&files, listener.get(), listener.get());
    const std::string number = std::to_string(listener.get());
    if (handed.empty() || handed.back().size() + 1 + number.size() > kVariableBytesMax) {
      handed.push_back(listeners_name(handed.size() + 1) + '=' + number);
    } else {
      handed.back() += ',' + number;
    }
  }
  Pipe pipe;
  if (checks_) {
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    pipe = pipe_that_waits_for_no_writer();
    if (pipe.writes.valid()) posix_spawn_file_actions_adddup2(&files, pipe.writes.get(), STDERR_FILENO);
  }
  std::vector<char*> environment;
  for (char** each = environ; *each != nullptr; ++each) environment.push_back(*each);
  if (!way.variable.empty()) environment.push_back(way.variable.data());
  for (std::string& each : handed) environment.push_back(each.data());
  environment.push_back(nullptr);
  const int error = start_process(way, files, words.data(), environment.data());
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) return Error::from_errno("cannot start " + file(), error);
  // By number, as <sys/pidfd.h> came with glibc 2.36 only. In the kernel since 5.3.
  pidfd_.reset(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
  if (!pidfd_.valid()) {
    const int refused = errno;
    // It has ended, its manager has heard of it, and the number may be another's.
    if (refused == ESRCH) return Error{"the new " + file() + " ended at once"};
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    return Error::from_errno("cannot watch the new " + file(), refused);
  }
  on_end_ = std::move(on_end);
  watch_.fd = pidfd_.get();
  loop_.submit(watch_);
  if (!checks_) return Done{};
  loop_.timers().arm(check_deadline_, kCheckMs);
  check_says_ = std::move(pipe.reads);
  said_.clear();
  if (check_says_.valid()) loop_.timers().arm(listen_again_, kListenAgainMs);
  return Done{};
}

// An errno, or 0.
int Successor::start_process(const Way& way, const posix_spawn_file_actions_t& files, char** words,
                             char** environment) {
  const char* const path = file().c_str();
  if (way.checks || !is_managed()) return posix_spawn(&pid_, path, &files, nullptr, words, environment);
  // A child of a process that has ended is the manager's.
  struct Started {
    int error;
    pid_t pid;
  } started{EIO, -1};
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno;
  const Fd reads(ends[0]);
  Fd writes(ends[1]);
  const pid_t between = ::fork();
  if (between < 0) return errno;
  if (between == 0) {
    // Other threads may have held any lock: no call here takes one.
    started.error = posix_spawn(&started.pid, path, &files, nullptr, words, environment);
    ::_exit(::write(writes.get(), &started, sizeof started) == sizeof started ? 0 : 1);
  }
  writes.reset();
  while (::read(reads.get(), &started, sizeof started) < 0 && errno == EINTR) {
  }
  while (::waitpid(between, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = started.pid;
  return started.error;
}

void Successor::end_check() { ::kill(pid_, SIGKILL); }

void Successor::listen_to_check() {
  char text[4096];
  for (unsigned reads = 0; reads < kReadsPerTurn; ++reads) {
    const ssize_t n = ::read(check_says_.get(), text, sizeof text);
    if (n <= 0) break;
    said_.append(text, std::min(static_cast<size_t>(n), kSaidBytesMax - said_.size()));
  }
  loop_.timers().arm(listen_again_, kListenAgainMs);
}

std::string Successor::said() const {
  std::string line;
  std::istringstream lines(said_);
  for (std::string each; std::getline(lines, each);) {
    if (!each.empty()) line += (line.empty() ? "" : "; ") + each;
  }
  return said_.size() < kSaidBytesMax ? line : line + "...";
}

void Successor::on_op(Op& op) {
  if (op.cancelled) return;
  int status = 0;
  const pid_t ended = ::waitpid(pid_, &status, WNOHANG);
  if (ended == 0 || (ended < 0 && errno == EINTR)) return loop_.submit(op);
  if (ended < 0) status = kUnknownEnd;  // its manager's, or somebody else has asked for it
  loop_.timers().disarm(check_deadline_);
  if (check_says_.valid()) listen_to_check();
  loop_.timers().disarm(listen_again_);
  check_says_.reset();
  loop_.let_go(pidfd_.get());  // the next one may have its number
  pidfd_.reset();
  const OnEnd on_end = std::move(on_end_);
  on_end(status);
}

}  // namespace natrp
