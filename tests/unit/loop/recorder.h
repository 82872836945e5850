// An Op of a test, and what came of it; and how a test waits.
#pragma once

#include <concepts>
#include <functional>
#include <vector>

#include "base/clock.h"
#include "loop/loop.h"

namespace natrp {

struct Recorder {
  Op op;  // first: handle() finds its recorder by a cast
  std::vector<int32_t> results;
  std::vector<uint16_t> buffers;
  std::function<void(Recorder&)> then;

  Recorder(OpKind kind, int fd, void* data = nullptr, size_t len = 0) {
    op.handler = handle;
    op.kind = kind;
    op.fd = fd;
    op.data = data;
    op.len = static_cast<uint32_t>(len);
  }
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  static void handle(Op& op) {
    auto& self = *reinterpret_cast<Recorder*>(&op);
    self.results.push_back(op.result);
    if (op.kind == OpKind::kRecvBuffer && op.result > 0) self.buffers.push_back(op.buffer);
    if (self.then) self.then(self);
  }
  size_t calls() const { return results.size(); }
  bool over() const { return !op.in_flight; }
};

// turn() again and again until done() or patience_ms are over; true when done.
template <typename Turn, typename Done>
  requires std::invocable<Turn&>
bool run_until(Turn turn, Done done, uint32_t patience_ms) {
  const uint64_t deadline = now_ms() + patience_ms;
  while (!done()) {
    if (now_ms() > deadline) return false;
    turn();
  }
  return true;
}

// Turns of the loop until done() or five seconds are over; true when done.
template <typename Done>
bool run_until(Loop& loop, Done done, uint32_t patience_ms = 5000) {
  return run_until([&] { loop.run_once(10); }, done, patience_ms);
}

inline void run_for(Loop& loop, uint32_t duration_ms) {
  run_until(loop, [] { return false; }, duration_ms);
}

// Waits for its last call.
inline bool until_over(Loop& loop, Recorder& recorder) {
  return run_until(loop, [&] { return recorder.over() && recorder.calls() > 0; });
}

// Cancels what is in flight and waits for its end.
inline bool land(Loop& loop, Recorder& recorder) {
  loop.cancel(recorder.op);
  return run_until(loop, [&] { return recorder.over(); });
}

}  // namespace natrp
