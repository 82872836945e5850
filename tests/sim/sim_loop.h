// SimLoop: a Loop whose kernel is a seed. Sockets are memory, time is a number, and whatever a kernel may do late,
// partly or in another order, this one does: small windows, short reads, sends and splices, EAGAIN with bytes on the
// way, completions late and in any order, cancels that lose their race, ENOBUFS, resets.
//
// Thread   one. The same seed makes the same run.
// Never    moves bytes in submit() or cancel(); reads a clock; touches a real socket. Pipes are those of a PipePool,
//          known by their inode, and their bytes are kept here.
#pragma once

#include <map>
#include <random>
#include <string>
#include <vector>

#include "loop/loop.h"

namespace natrp {

// One socket of the engine, and what its far end sees of it.
struct SimSocket {
  std::string inbox;            // said by the far end, not yet read by the engine
  std::string outbox;           // sent by the engine, not yet heard by the far end: unacknowledged
  size_t outbox_max = 0;        // the window
  bool far_fin = false;         // an end of stream behind the inbox
  bool far_reset = false;       // a reset behind the inbox
  bool reset_told = false;      // an errno is reported once
  bool far_closed = false;      // as a unix socket's far end: a hang-up without an error, and nothing is taken any more
  bool unwatchable = false;     // no room to watch for a hang-up: the op ends, as if cancelled
  int read_error = 0;           // an errno of the next read, though the far end is well
  bool readiness_lost = false;  // a poll is not told of the inbox: something outside swallows it
  uint32_t sent_ms_ago = UINT32_MAX;  // not counted here: a test says it
  int peer_silent_ms = 0;       // the same
  bool near_fin = false;        // shut down by the engine
  bool closed = false;          // by the engine
  bool closed_by_reset = false;
};

class SimLoop final : public Loop {
 public:
  static constexpr int kFirstFd = 1'000'000;  // no real descriptor has such a number
  // As a ring's: some buffers are on offer to the kernel, and take() does not get them.
  enum class Offers : uint8_t { kNone, kAsARing };
  explicit SimLoop(uint64_t seed, Offers offers = Offers::kNone);

  const char* name() const override { return "sim"; }
  bool batches_messages() const override { return batches_; }
  bool worth_batching() const override { return batches_ && (turn_ms_ & 1) != 0; }
  void submit(Op& op) override;
  void cancel(Op& op) override;
  void run_once(int timeout_ms) override;
  void wake() override { woken_ = true; }
  ssize_t try_recv(int fd, void* data, size_t len) override;
  ssize_t try_send(int fd, const void* data, size_t len) override;
  ssize_t try_splice(int from, int to, size_t len) override;
  int shutdown_write(int fd) override;
  int bytes_unacknowledged(int fd) override;
  int bytes_readable(int fd) override;
  bool is_at_mark(int) override { return false; }
  bool is_reset(int fd) override { return socket(fd).far_reset && !socket(fd).reset_told; }
  bool is_tcp_closed(int fd) override { return socket(fd).far_reset; }
  int peer_silent_ms(int fd) override { return socket(fd).peer_silent_ms; }
  uint32_t sent_ms_ago(int fd) override { return socket(fd).sent_ms_ago; }
  void close(int fd, CloseWith with) override;

  // Time goes by, and nothing happens.
  void pass(uint64_t ms) { turn_ms_ += ms; }
  int make_socket(size_t window);
  SimSocket& socket(int fd) { return sockets_[static_cast<size_t>(fd - kFirstFd)]; }
  size_t sockets() const { return sockets_.size(); }
  uint64_t random(uint64_t below) { return below == 0 ? 0 : generator_() % below; }
  size_t in_flight() const { return in_flight_.size(); }
  // A contract that the engine broke, as a sentence; empty when it broke none.
  const std::string& complaint() const { return complaint_; }
  // The canary: the read that reaches this byte of a socket loses it.
  void lose_byte_after(uint64_t bytes) { lose_after_ = bytes; }

 private:
  bool chance(unsigned percent) { return random(100) < percent; }
  ssize_t take(SimSocket& from, char* data, size_t len);
  ssize_t put(SimSocket& to, const char* data, size_t len);
  int mask_of(const SimSocket& socket) const;
  void attempt(Op& op);
  bool perform(Op& op, int32_t& result);
  void finish(Op& op, int32_t result);
  bool holds(const Op& op) const;

  std::mt19937_64 generator_;
  bool batches_;
  bool woken_ = false;
  std::vector<SimSocket> sockets_;
  std::vector<Op*> in_flight_;
  std::map<uint64_t, std::string> pipes_;  // by inode
  std::string complaint_;
  uint64_t lose_after_ = ~0ull;
  uint64_t taken_ = 0;
};

}  // namespace natrp
