// A whole edge in a thread of its own, as its program would run it.
#pragma once

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <future>
#include <thread>

#include "edge/edge.h"
#include "net/loopback.h"

namespace natrp {

class EdgeThread {
 public:
  // The edge is ready; it lives until stop().
  Edge* start(const EdgeOptions& options) {
    stopping_.store(false, std::memory_order_relaxed);
    std::promise<Edge*> started;
    thread_ = std::thread([this, &options, &started] {
      Edge edge(options);
      Status status = edge.listen();
      if (status.ok()) status = edge.start();
      loopback::must(status.ok(), status.ok() ? "" : status.error().message.c_str());
      started.set_value(&edge);
      edge.run();
      // A signal orders nothing between threads: what the test has read of the edge comes before its end.
      (void)stopping_.load(std::memory_order_acquire);
    });
    return started.get_future().get();
  }
  static void terminate() { ::kill(::getpid(), SIGTERM); }  // blocked everywhere: the edge's signalfd gets it
  void stop() {
    stopping_.store(true, std::memory_order_release);
    terminate();
    thread_.join();
  }
  bool running() const { return thread_.joinable(); }
  pthread_t id() { return thread_.native_handle(); }

 private:
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace natrp
