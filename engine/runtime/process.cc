#include "runtime/process.h"

#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/limits.h"

namespace natrp {
namespace {

sigset_t watched_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

void block_signals() {
  const sigset_t set = watched_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGHUP, SIG_IGN);
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

uint32_t conns_for_descriptors(uint64_t descriptors, unsigned workers) {
  // Loops, mailboxes, state, log and listeners, and at most 64 pipes in use by each worker at any time.
  const uint64_t own = 128 + static_cast<uint64_t>(workers) * 128;
  const uint64_t left = descriptors > own * 2 ? descriptors - own : descriptors / 2;
  return static_cast<uint32_t>(std::min<uint64_t>(left, static_cast<uint64_t>(kConnsPerWorkerMax) * workers));
}

void notify_systemd(const char* state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  if (path == nullptr || path[0] == '\0') return;
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

SignalWatch::SignalWatch(Loop& loop, OnSignal on_signal, void* context)
    : loop_(loop), on_signal_(on_signal), context_(context) {
  const sigset_t set = watched_signals();
  fd_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  NATRP_CHECK(fd_.valid(), "a signalfd");
  watch_.self = this;
  watch_.op.handler = on_op;
  watch_.op.kind = OpKind::kPoll;
  watch_.op.fd = fd_.get();
  watch_.op.len = POLLIN;
  loop_.submit(watch_.op);
}

SignalWatch::~SignalWatch() {
  loop_.cancel(watch_.op);
  for (int turn = 0; turn < 100 && watch_.op.in_flight; ++turn) loop_.run_once(1);
}

void SignalWatch::on_op(Op& op) {
  SignalWatch& self = *reinterpret_cast<WatchOp*>(&op)->self;
  if (op.result == -ECANCELED) return;
  signalfd_siginfo info{};
  const bool got = ::read(self.fd_.get(), &info, sizeof info) == sizeof info;
  self.loop_.submit(op);
  if (got) self.on_signal_(self.context_, static_cast<int>(info.ssi_signo));
}

}  // namespace natrp
