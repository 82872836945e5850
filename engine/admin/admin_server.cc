#include "admin/admin_server.h"

#include <fcntl.h>
#include <httplib.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstring>
#include <ctime>
#include <deque>
#include <string_view>
#include <utility>
#include <vector>

#include "admin/admin_source.h"
#include "admin/metrics.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/pace.h"
#include "base/version.h"
#include "loop/start_thread.h"
#include "net/socket.h"

namespace natrp {
namespace {

constexpr unsigned kRequestThreads = AdminServer::kThreads - 1;
constexpr std::chrono::milliseconds kListenAgain{100};
// For a whole request, and with its answer: the library's own timeouts begin anew with each byte. A scraper waits for
// 10 s itself.
constexpr uint64_t kRequestMs = 5000;
constexpr uint64_t kAnswerMs = 10'000;
constexpr uint64_t kLookMs = 1000;

// It waits in the queue to be read.
bool has_whole_request(int fd) {
  std::array<char, 8192> text;
  const ssize_t n = ::recv(fd, text.data(), text.size(), MSG_PEEK | MSG_DONTWAIT);
  return n > 0 && std::string_view(text.data(), static_cast<size_t>(n)).find("\r\n\r\n") != std::string_view::npos;
}

bool is_being_answered(int fd) {
  int unread = 0;
  return ::ioctl(fd, SIOCOUTQ, &unread) == 0 && unread > 0;
}

}  // namespace

// In the place of the library's own pool, which ends the process when it does not get its threads.
class RequestThreads {
 public:
  ~RequestThreads() { shutdown(); }

  Status start() {
    for (unsigned i = 0; i < kRequestThreads; ++i) {
      auto thread = start_thread("admin-" + std::to_string(i), [this, i] { run(began_ms_[i]); });
      if (!thread.ok()) return thread.error();
      threads_.push_back(std::move(thread).value());
    }
    return Done{};
  }

  void enqueue(std::function<void()> request) {
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(std::move(request));
    }
    changed_.notify_one();
  }

  // How long the one that has taken longest is under way; 0: none is.
  uint64_t longest_ms() {
    const std::lock_guard lock(mutex_);
    uint64_t longest = 0;
    for (const uint64_t began : began_ms_) {
      if (began != 0) longest = std::max(longest, now_ms() - began);
    }
    return longest;
  }

  // Those that wait are answered first.
  void shutdown() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    for (auto& thread : std::exchange(threads_, {})) thread.join();
  }

 private:
  void run(uint64_t& began_ms) {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return ending_ || !requests_.empty(); });
      if (requests_.empty()) return;
      const auto request = std::move(requests_.front());
      requests_.pop_front();
      began_ms = now_ms();
      lock.unlock();
      request();
      lock.lock();
      began_ms = 0;
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> requests_;
  std::array<uint64_t, kRequestThreads> began_ms_{};  // 0: that thread waits for one
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

namespace {

// What the library has of them while it listens. They stay when it ends. Its calls come from the thread that listens:
// one with each connection, and one each second without any.
class RequestQueue final : public httplib::TaskQueue {
 public:
  RequestQueue(RequestThreads& threads, std::function<void()> watch) : threads_(threads), watch_(std::move(watch)) {}
  // void, and bool since the library's 0.15: whether it was taken.
  using Enqueued = decltype(std::declval<httplib::TaskQueue&>().enqueue({}));
  Enqueued enqueue(std::function<void()> request) override {
    watch_();
    threads_.enqueue(std::move(request));
    return Enqueued(true);
  }
  void on_idle() override { watch_(); }
  void shutdown() override {}

 private:
  RequestThreads& threads_;
  std::function<void()> watch_;
};

}  // namespace

AdminServer::AdminServer(AdminSource& source, const Address& address)
    : source_(source), address_(address), server_(std::make_unique<httplib::Server>()), made_s_(time(nullptr)) {}

AdminServer::~AdminServer() { stop(); }

Status AdminServer::listen() {
  if (Status bound = bind(); !bound.ok()) return bound;
  descriptors_.reset(opendir("/proc/self/fd"));  // nullptr where there is no /proc
  return start_threads();
}

Status AdminServer::bind() {
  server_->new_task_queue = [this] { return new RequestQueue(*request_threads_, [this] { end_overdue(); }); };
  server_->set_idle_interval(1);
  // Instead of the library's own options, which have SO_REUSEPORT: a second edge would share the port, and each
  // request would reach one or the other.
  server_->set_socket_options([](socket_t fd) {
    const int yes = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  // There are two threads, and one that waits for a next request serves nobody else: a probe waited behind scrapers.
  server_->set_keep_alive_max_count(1);
  server_->set_read_timeout(5);
  server_->set_payload_max_length(1024);
  // Before the library reads a body, which would be all until the end of the connection where no length is given.
  server_->set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
    using Response = httplib::Server::HandlerResponse;
    if (request.method == "GET" || request.method == "HEAD") return Response::Unhandled;
    const bool known = std::find(pages_.begin(), pages_.end(), request.path) != pages_.end();
    response.status = known ? 405 : 404;
    if (known) response.set_header("Allow", "GET, HEAD");
    return Response::Handled;
  });
  const auto page = [this](const std::string& path, httplib::Server::Handler answer) {
    server_->Get(path, std::move(answer));
    pages_.push_back(path);
  };
  page("/healthz", [this](const httplib::Request&, httplib::Response& response) {
    const std::string why_not = source_.why_not_healthy();
    response.status = why_not.empty() ? 200 : 503;
    response.set_content((why_not.empty() ? "ok" : why_not) + "\n", "text/plain");
  });
  page("/metrics", [this](const httplib::Request&, httplib::Response& response) {
    response.set_content(prometheus_text(source_.counters(), source_.sessions_live(), source_.sessions()) +
                             process_text(kVersion, made_s_),
                         "text/plain; version=0.0.4");
  });
  page(source_.list_path(), [this](const httplib::Request&, httplib::Response& response) {
    const auto list = source_.list();
    response.status = list ? 200 : 503;
    response.set_content(list.value_or("the control thread is busy or stopping; try again\n"),
                         list ? "application/json" : "text/plain");
  });
  page("/api/v1/conns", [this](const httplib::Request&, httplib::Response& response) {
    response.set_content(conns_json(source_.conns(), now_ms()), "application/json");
  });
  const std::string host = address_.host_text();
  port_ = address_.port();
  if (port_ == 0) {
    const int port = server_->bind_to_any_port(host);
    port_ = port > 0 ? static_cast<uint16_t>(port) : 0;
  } else if (!server_->bind_to_port(host, port_)) {
    port_ = 0;
  }
  if (port_ == 0) return why_not_bound();
  return Done{};
}

Status AdminServer::start_threads() {
  request_threads_ = std::make_unique<RequestThreads>();
  if (Status started = request_threads_->start(); !started.ok()) return started;
  auto thread = start_thread("admin", [this, shall_serve = shall_serve_.get_future().share()] {
    if (shall_serve.get()) listen_until_stopped();
    request_threads_->shutdown();
    ended_ = true;
  });
  if (!thread.ok()) return thread.error();
  thread_ = std::move(thread).value();
  return Done{};
}

// The library closes its listener when accept(2) fails: for want of memory, or of files that the host has left. It
// bears EMFILE alone.
void AdminServer::listen_until_stopped() {
  Pace anew_pace(10 * kLogPaceMs);
  Pace failed_pace(10 * kLogPaceMs);
  for (;;) {
    server_->listen_after_bind();
    std::unique_lock lock(mutex_);
    for (bool listens = false; !listens;) {
      if (stop_.wait_for(lock, kListenAgain, [this] { return stopping_; })) return;
      server_->stop();  // since its 0.14 it binds anew only after that
      listens = server_->bind_to_port(address_.host_text(), port_);
      if (!listens && failed_pace.due(now_ms())) {
        log_error("the admin server cannot listen any more, and tries on: " + why_not_bound().message);
      }
    }
    if (anew_pace.due(now_ms())) {
      log_warning("the admin server could not accept a connection, and listens anew", {{"address", bound_text()}});
    }
  }
}

std::string AdminServer::bound_text() const { return address_.with_port(port_).text(); }

void AdminServer::serve() {
  serving_ = true;
  shall_serve_.set_value(true);
  log_info("admin server ready", {{"address", bound_text()}});
}

// The library says only that it could not: the same is asked of the kernel once more, for the reason.
Error AdminServer::why_not_bound() const {
  if (const auto probe = listen_on(address_, {}, 1); !probe.ok()) {
    return Error{"--admin: " + probe.error().message + ", or --admin off", probe.error().errno_value};
  }
  return Error{"--admin: could not listen on " + address_.text() +
               ", and could a moment later: another process had the port; start again"};
}

void AdminServer::stop() {
  if (!thread_.joinable()) return;
  if (!serving_) {
    shall_serve_.set_value(false);
    return thread_.join();
  }
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  source_.end();
  // stop() before the thread has begun to listen would be lost.
  for (int wait_ms = 0; wait_ms < 1000 && !server_->is_running() && !ended_; ++wait_ms) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  server_->stop();
  while (!ended_) {
    hang_up([](int, bool) { return true; });
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  thread_.join();
}

// Two clients that send or read a little now and then would hold both threads for as long as they like, and more of
// them wait in the queue: of half a request, here or there, that is the end. Who came only just now may be a good one,
// whose request is under way or being worked on.
void AdminServer::end_overdue() {
  const uint64_t now = now_ms();
  const uint64_t longest_ms = request_threads_->longest_ms();
  if (longest_ms + kLookMs < kRequestMs) return seen_.clear();
  if (now - looked_ms_ < kLookMs) return;
  looked_ms_ = now;
  std::vector<uint64_t> there;
  hang_up([&](int fd, bool held) {
    uint64_t cookie = 0;
    socklen_t length = sizeof cookie;
    if (!held || is_listening(fd) || ::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) != 0) return false;
    there.push_back(cookie);
    if (std::find(seen_.begin(), seen_.end(), cookie) == seen_.end()) return false;
    if (is_being_answered(fd)) return longest_ms >= kAnswerMs;
    return longest_ms >= kRequestMs && !has_whole_request(fd);
  });
  seen_ = std::move(there);
}

// The library waits for the requests under way, however slowly their bytes come, and does not tell their sockets: they
// are those of this process that have the admin server's address.
void AdminServer::hang_up(const std::function<bool(int fd, bool held)>& shall) {
  const bool any = address_.host_text() == "0.0.0.0" || address_.host_text() == "::";
  const std::string text = bound_text();
  const auto is_ours = [&](int fd) {
    const Address local = local_address(fd);
    return local.valid() && (any ? local.port() == port_ : local.text() == text);
  };
  const std::lock_guard lock(descriptors_mutex_);
  if (!descriptors_) return;
  rewinddir(descriptors_.get());
  while (const dirent* entry = readdir(descriptors_.get())) {
    int fd = -1;  // of "." and ".."
    std::from_chars(entry->d_name, entry->d_name + std::strlen(entry->d_name), fd);
    if (!is_ours(fd)) continue;
    // A thread of the library's may close it at any moment, and the next one of that number be a visitor's.
    const Fd held(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    const int stays = held.valid() ? held.get() : fd;
    if (is_ours(stays) && shall(stays, held.valid())) shutdown(stays, SHUT_RDWR);
  }
}

}  // namespace natrp
