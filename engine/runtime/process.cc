#include "runtime/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "net/conn.h"
#include "relay/pair.h"

namespace natrp {
namespace {

// State, log, signals, the control loop and the admin server; of each worker its loop, its mailbox and what a turn has
// accepted and not placed yet. An idle edge has 16, and two more for each worker.
uint64_t own_descriptors(unsigned workers) { return 32 + uint64_t{8} * workers; }

// timeout(1) sends SIGTERM to its child and, at once, to its process group; and who presses Ctrl-C may run a wrapper
// that passes it on. Nobody who wants to cut visitors off is so quick. (systemd tells an old edge once when it stops
// the unit, and once when the idle successor has ended: that may be sooner, and is counted.)
constexpr uint64_t kOneStopMs = 100;

constexpr uint64_t kFewVisitors = 128;
// Rings, the resolvers' and the admin server's threads; of each worker its stack and the segments of its heap. 160 MiB
// with two workers.
uint64_t own_address_space(unsigned workers) { return (uint64_t{128} << 20) + (uint64_t{32} << 20) * workers; }
const char kRaiseIt[] =
    "raise it with `ulimit -n 65536`, with LimitNOFILE= in the systemd unit, or with --ulimit nofile= of a container";

sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGUSR2);
  sigaddset(&set, SIGHUP);
  return set;
}

}  // namespace

void block_signals() {
  const sigset_t set = watched_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGHUP, SIG_IGN);
  // Ignored, it may be inherited, and how a child ended could not be asked (runtime/successor).
  ::signal(SIGCHLD, SIG_DFL);
}

uint64_t raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  // A hard limit of a billion (containers) would only make others walk long tables.
  const rlim_t wanted = std::min<rlim_t>(limit.rlim_max, 4u << 20);
  if (wanted > limit.rlim_cur) {
    limit.rlim_cur = wanted;
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
  }
  return limit.rlim_cur;
}

namespace {

Status check_descriptors(uint64_t descriptors, unsigned workers) {
  const std::string limit = "the limit of open files, " + std::to_string(descriptors) + ",";
  const uint64_t least = 2 * own_descriptors(workers);
  if (descriptors < least) {
    return Error{limit + " is too low: with " + std::to_string(workers) + " workers at least " + std::to_string(least) +
                 " are needed; " + kRaiseIt};
  }
  // A visitor has two conns.
  const uint64_t visitors = uint64_t{conns_for_descriptors(descriptors, workers)} * workers / 2;
  if (visitors < kFewVisitors) {
    log_warning(limit + " is enough for few visitors only; " + kRaiseIt, {{"visitors", visitors}});
  }
  return Done{};
}

// What the workers will map, mapped once for a try: they map it with the same flags, and could do nothing but end when
// it is refused.
Status check_address_space(uint64_t descriptors, unsigned workers) {
  const uint64_t conns = conns_for_descriptors(descriptors, workers);
  const uint64_t loops = uint64_t{workers} + 1;  // the control thread has one
  const uint64_t bytes = kBufferBytes * kBuffersMax * loops + conns * (sizeof(Conn) + sizeof(Pair)) * workers +
                         own_address_space(workers);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory != MAP_FAILED) {
    munmap(memory, bytes);
    return Done{};
  }
  return Error::from_errno(
      "the kernel refuses " + std::to_string(bytes >> 20) + " MiB of address space, which " + std::to_string(workers) +
          " workers map (it is no memory until it is used): raise `ulimit -v`, set vm.overcommit_memory to 0 or 1, or "
          "give fewer --workers",
      errno);
}

}  // namespace

Status check_process_limits(unsigned workers) {
  const uint64_t descriptors = raise_descriptor_limit();
  if (Status enough = check_descriptors(descriptors, workers); !enough.ok()) return enough;
  return check_address_space(descriptors, workers);
}

void reserve_descriptors() {
  const int last = static_cast<int>(std::min(raise_descriptor_limit(), kDescriptorsReserved)) - 1;
  const Fd any(eventfd(0, EFD_CLOEXEC));
  const Fd highest(fcntl(any.get(), F_DUPFD_CLOEXEC, last));
  if (highest.valid()) return;
  const int error = errno;
  log_warning("the kernel's table of descriptors is small: it grows with the visitors, and they wait for it",
              {{"error", std::strerror(error)}});
}

unsigned pipes_for_descriptors(uint64_t descriptors, unsigned workers) {
  return static_cast<unsigned>(std::clamp<uint64_t>(descriptors / 16 / workers, 1, kPipesPerWorkerMax));
}

// An eighth, or what an edge of thousands of agents needs.
uint64_t session_descriptors(uint64_t descriptors) { return std::min<uint64_t>(descriptors / 8, 8192); }

uint32_t conns_for_descriptors(uint64_t descriptors, unsigned workers) {
  const uint64_t pipes = uint64_t{2} * pipes_for_descriptors(descriptors, workers) * workers;
  const uint64_t taken = own_descriptors(workers) + session_descriptors(descriptors) + pipes;
  // check_descriptors() has seen to it that some are left; two are the least that carry a visitor.
  const uint64_t left = descriptors > taken ? (descriptors - taken) / workers : 0;
  return static_cast<uint32_t>(std::clamp<uint64_t>(left, 2, kConnsPerWorkerMax));
}

bool is_managed() {
  const char* const manager = std::getenv("NOTIFY_SOCKET");
  return manager != nullptr && manager[0] != '\0';
}

void notify_systemd(const char* state) {
  if (!is_managed()) return;
  const char* const path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const size_t length = std::strlen(path);
  if (length >= sizeof address.sun_path) return;
  std::memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = '\0';  // an abstract socket
  const Fd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return;
  sendto(fd.get(), state, std::strlen(state), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address),
         static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length));
}

Result<Fd> open_signals() {
  const sigset_t set = watched_signals();
  Fd fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return Error::from_errno("cannot make a signalfd", errno);
  return fd;
}

SignalWatch::SignalWatch(Loop& loop, Fd signals, OnSignal on_signal, void* context)
    : loop_(loop), on_signal_(on_signal), context_(context), fd_(std::move(signals)) {
  watch_.kind = OpKind::kPoll;
  watch_.fd = fd_.get();
  watch_.len = POLLIN;
  loop_.submit(watch_);
}

SignalWatch::~SignalWatch() {
  loop_.cancel(watch_);
  loop_.land_until([this] { return !watch_.in_flight; });
}

void SignalWatch::on_op(Op& op) {
  if (op.cancelled) return;
  signalfd_siginfo info{};
  const bool got = ::read(fd_.get(), &info, sizeof info) == sizeof info;
  loop_.submit(op);
  if (!got) return;
  const int signal = static_cast<int>(info.ssi_signo);
  const bool stops = signal == SIGTERM || signal == SIGINT;
  if (stops && now_ms() < stops_again_ms_) return;
  on_signal_(context_, signal);
  if (stops && !is_managed()) stops_again_ms_ = now_ms() + kOneStopMs;
}

}  // namespace natrp
