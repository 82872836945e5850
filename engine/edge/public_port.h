// edge/public_port.h
//
// PublicPorts: the listeners of all live leases and of the control port, as the control thread sees them. The workers
// accept on their descriptors.
//
// Life     of each: listening ──close──▶ shut (the port is free at once) ──every worker landed──▶ closed
//                             ──close, kHandedOn──▶ nobody accepts ──every worker landed──▶ handed on: take_handed_on()
// Thread   the control thread.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "edge/edge_session.h"

namespace natrp {

template <typename Role>
class Crew;
class EdgeWorker;

// What becomes of visitors that have connected, and that no worker has accepted yet.
enum class Backlog : uint8_t {
  kReset,     // as the kernel does it
  kServed,    // they are accepted, and are visitors like those before them
  kHandedOn,  // the port goes on to listen; they wait for the edge that has it next, as do those that come
};

class PublicPorts {
 public:
  // crew: outlives this.
  explicit PublicPorts(const Crew<EdgeWorker>& crew) : crew_(crew) {}

  // listener: bound to port and listening, owned from here on. Every worker begins to accept for tunnel.
  int open(Fd listener, uint16_t port, const EdgeTunnel& tunnel);
  // The control port: its conns go through their first bytes.
  int open_control(Fd listener);
  // Frees the port now, except for kHandedOn. The descriptor itself is closed when no worker has an op on it.
  void close(int listener_fd, Backlog backlog = Backlog::kReset);
  // The listeners closed with kHandedOn on which no worker has an op any more.
  std::vector<Fd> take_handed_on() { return std::move(handed_on_); }
  // There is no next edge for such listeners: closes them, and resets the visitors that wait.
  void end_handed_on();
  // Whether a tunnel's listener is open on it.
  bool is_open(uint16_t port) const;
  // A letter from a worker.
  void landed(int listener_fd);
  size_t closing() const { return closing_.size(); }
  // Open ones, the control port among them.
  size_t count() const { return open_.size(); }

 private:
  struct Listener {
    Fd fd;
    uint16_t port = 0;  // 0: the control port
    EdgeTunnel tunnel{};
  };
  struct Closing {
    Fd fd;
    size_t workers_left;
    bool handed_on;
  };
  void serve_backlog(int listener_fd, const EdgeTunnel& tunnel);

  const Crew<EdgeWorker>& crew_;
  std::unordered_map<int, Listener> open_;
  std::unordered_map<int, Closing> closing_;
  std::vector<Fd> handed_on_;
};

}  // namespace natrp
