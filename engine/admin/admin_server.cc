#include "admin/admin_server.h"

#include <httplib.h>
#include <pthread.h>
#include <sys/socket.h>

#include <chrono>

#include "admin/metrics.h"
#include "base/clock.h"
#include "base/log.h"
#include "edge/edge.h"
#include "net/socket.h"

namespace natrp {

AdminServer::AdminServer(Edge& edge, const Address& address)
    : edge_(edge), address_(address), server_(std::make_unique<httplib::Server>()) {}

AdminServer::~AdminServer() { stop(); }

Status AdminServer::listen() {
  server_->new_task_queue = [] { return new httplib::ThreadPool(2); };
  // Instead of the library's own options, which have SO_REUSEPORT: a second edge would share the port, and each
  // request would reach one or the other.
  server_->set_socket_options([](socket_t fd) {
    const int yes = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  server_->set_keep_alive_timeout(2);
  server_->set_read_timeout(5);
  server_->set_payload_max_length(1024);
  server_->Get("/healthz", [this](const httplib::Request&, httplib::Response& response) {
    response.status = edge_.draining() ? 503 : 200;
    response.set_content(edge_.draining() ? "draining\n" : "ok\n", "text/plain");
  });
  server_->Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
    response.set_content(prometheus_text(edge_.counters(), edge_.sessions_live()), "text/plain; version=0.0.4");
  });
  server_->Get("/api/v1/sessions", [this](const httplib::Request&, httplib::Response& response) {
    const auto sessions = edge_.list_sessions();
    if (!sessions) {
      response.status = 503;
      response.set_content("the control thread is busy or stopping; try again\n", "text/plain");
      return;
    }
    response.set_content(sessions_json(*sessions), "application/json");
  });
  server_->Get("/api/v1/conns", [this](const httplib::Request&, httplib::Response& response) {
    response.set_content(conns_json(edge_.conns(), now_ms()), "application/json");
  });
  const std::string host = address_.host_text();
  const bool bound = address_.port() == 0 ? server_->bind_to_any_port(host) > 0
                                          : server_->bind_to_port(host, address_.port());
  if (!bound) return why_not_bound();
  return Done{};
}

void AdminServer::serve() {
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "admin");
    server_->listen_after_bind();
  });
  log_info("admin server ready", {{"address", address_.text()}});
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
  // stop() before the thread has begun to listen would be lost.
  for (int wait_ms = 0; wait_ms < 1000 && !server_->is_running(); ++wait_ms) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  server_->stop();
  thread_.join();
}

}  // namespace natrp
