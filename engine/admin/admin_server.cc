#include "admin/admin_server.h"

#include <httplib.h>
#include <sys/socket.h>

#include <charconv>
#include <chrono>
#include <cstring>
#include <ctime>
#include <deque>
#include <utility>
#include <vector>

#include "admin/admin_source.h"
#include "admin/metrics.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/pace.h"
#include "loop/start_thread.h"
#include "net/socket.h"

namespace natrp {
namespace {

constexpr unsigned kRequestThreads = AdminServer::kThreads - 1;
constexpr std::chrono::milliseconds kListenAgain{100};

}  // namespace

// In the place of the library's own pool, which ends the process when it does not get its threads.
class RequestThreads {
 public:
  ~RequestThreads() { shutdown(); }

  Status start(unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
      auto thread = start_thread("admin-" + std::to_string(i), [this] { run(); });
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
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return ending_ || !requests_.empty(); });
      if (requests_.empty()) return;
      const auto request = std::move(requests_.front());
      requests_.pop_front();
      lock.unlock();
      request();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> requests_;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

namespace {

// What the library has of them while it listens. They stay when it ends.
class RequestQueue final : public httplib::TaskQueue {
 public:
  explicit RequestQueue(RequestThreads& threads) : threads_(threads) {}
  // void, and bool since the library's 0.15: whether it was taken.
  using Enqueued = decltype(std::declval<httplib::TaskQueue&>().enqueue({}));
  Enqueued enqueue(std::function<void()> request) override {
    threads_.enqueue(std::move(request));
    return Enqueued(true);
  }
  void shutdown() override {}

 private:
  RequestThreads& threads_;
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
  server_->new_task_queue = [this] { return new RequestQueue(*request_threads_); };
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
  server_->Get("/healthz", [this](const httplib::Request&, httplib::Response& response) {
    const std::string why_not = source_.why_not_healthy();
    response.status = why_not.empty() ? 200 : 503;
    response.set_content((why_not.empty() ? "ok" : why_not) + "\n", "text/plain");
  });
  server_->Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
    response.set_content(prometheus_text(source_.counters(), source_.sessions_live(), source_.sessions()) +
                             process_text(source_.version(), made_s_),
                         "text/plain; version=0.0.4");
  });
  server_->Get(source_.list_path(), [this](const httplib::Request&, httplib::Response& response) {
    const auto list = source_.list();
    response.status = list ? 200 : 503;
    response.set_content(list.value_or("the control thread is busy or stopping; try again\n"),
                         list ? "application/json" : "text/plain");
  });
  server_->Get("/api/v1/conns", [this](const httplib::Request&, httplib::Response& response) {
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
  if (Status started = request_threads_->start(kRequestThreads); !started.ok()) return started;
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
  // stop() before the thread has begun to listen would be lost.
  for (int wait_ms = 0; wait_ms < 1000 && !server_->is_running() && !ended_; ++wait_ms) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  server_->stop();
  while (!ended_) {
    hang_up();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  thread_.join();
}

// The library waits for the requests under way, however slowly their bytes come, and does not tell their sockets: they
// are those of this process that have the admin server's address.
void AdminServer::hang_up() {
  const bool any = address_.host_text() == "0.0.0.0" || address_.host_text() == "::";
  const std::string text = bound_text();
  if (!descriptors_) return;
  rewinddir(descriptors_.get());
  while (const dirent* entry = readdir(descriptors_.get())) {
    int fd = -1;  // of "." and ".."
    std::from_chars(entry->d_name, entry->d_name + std::strlen(entry->d_name), fd);
    const Address local = local_address(fd);
    if (local.valid() && (any ? local.port() == port_ : local.text() == text)) shutdown(fd, SHUT_RDWR);
  }
}

}  // namespace natrp
