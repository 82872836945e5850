// admin/admin_server.h
//
// AdminServer: HTTP for the operator, on an address of its own: /metrics, /healthz, /api/v1/conns, and a list of the
// daemon's own.
// It answers whoever reaches the address; bind it to loopback or behind a proxy that knows its users.
// A client that takes its time holds one of two threads, for some seconds at most.
//
// Life     listen() ──▶ listening ──serve()──▶ serving ──stop()──▶ joined
//                       listening ──stop()──▶ joined
// Thread   listen(), serve(), stop(): the control thread. Requests run in threads of their own and only read.
#pragma once

#include <dirent.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "net/address.h"

namespace httplib {
class Server;
}

namespace natrp {

class AdminSource;
class RequestThreads;

class AdminServer {
 public:
  static constexpr unsigned kThreads = 3;  // one that listens, and those of requests
  // source outlives the server, and its daemon has started before serve().
  AdminServer(AdminSource& source, const Address& address);
  ~AdminServer();
  AdminServer(const AdminServer&) = delete;
  AdminServer& operator=(const AdminServer&) = delete;

  // Listens, and starts its threads, which wait. On failure the sentence says what was not to be had, why and what to
  // do. Clients that connect before serve() are answered then.
  Status listen();
  void serve();
  // Requests that are not answered yet are broken off.
  void stop();

 private:
  Status bind();
  Status start_threads();
  void listen_until_stopped();
  std::string bound_text() const;
  Error why_not_bound() const;
  void end_overdue();
  // shall: of the descriptor of a connection, or the listener's. held: nobody else can close it meanwhile. False: no
  // descriptor was left for that.
  void hang_up(const std::function<bool(int fd, bool held)>& shall);

  AdminSource& source_;
  const Address address_;
  std::unique_ptr<httplib::Server> server_;
  const int64_t made_s_;  // wall clock, with the process's start
  std::vector<std::string> pages_;
  uint16_t port_ = 0;
  std::unique_ptr<RequestThreads> request_threads_;
  std::thread thread_;
  std::promise<bool> shall_serve_;
  bool serving_ = false;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  // /proc/self/fd for hang_up(), which has to work where no descriptor is left. Of one thread at a time.
  std::mutex descriptors_mutex_;
  std::unique_ptr<DIR, int (*)(DIR*)> descriptors_{nullptr, closedir};
  std::atomic<bool> ended_{false};
  // Of end_overdue(): connections that were there when it looked last, by their SO_COOKIE.
  std::vector<uint64_t> seen_;
  uint64_t looked_ms_ = 0;
};

}  // namespace natrp
