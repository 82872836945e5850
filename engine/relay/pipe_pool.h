// relay/pipe_pool.h
//
// PipePool: the kernel pipes of one worker. A pipe is borrowed while bytes are in it and returned empty; a pipe that
// still holds bytes is closed, never reused: they are some visitor's bytes.
//
// Thread   its worker's.
// Bounds   at most pipes_max pipes, and for an unprivileged user at most its share of pipe-user-pages-soft: past
//          that budget the kernel silently makes pipes of two slots, which are worse than a copy. The size is read
//          back; a pipe that came out too small is closed, and no further one is made than there are then.
#pragma once

#include <cstdint>
#include <vector>

#include "base/counters.h"

namespace natrp {

class PipePool {
 public:
  static constexpr uint16_t kNone = 0xffff;

  struct Pipe {
    int read_fd = -1;
    int write_fd = -1;
    uint32_t bytes_max = 0;  // as the kernel tells it; it is a number of slots, so fewer bytes may fill the pipe
  };

  // pipes_max 0: computed from the budget. workers: how many pools share that budget.
  PipePool(Counters& counters, unsigned pipes_max, unsigned workers);
  ~PipePool();
  PipePool(const PipePool&) = delete;
  PipePool& operator=(const PipePool&) = delete;

  // Borrows a pipe; kNone when none is to be had (the caller copies).
  uint16_t take();
  // The pipe must be empty, or dirty must be set.
  void give_back(uint16_t id, bool dirty);
  const Pipe& at(uint16_t id) const { return pipes_[id]; }
  unsigned open() const { return open_; }
  unsigned borrowed() const { return borrowed_; }
  // Closes pooled pipes down to keep: called when bulk has ended for a while.
  void trim(unsigned keep);

 private:
  bool make(Pipe& pipe);

  Counters& counters_;
  std::vector<Pipe> pipes_;
  std::vector<uint16_t> free_;    // open and empty, the last used on top
  std::vector<uint16_t> unused_;  // ids without a pipe
  unsigned pipes_max_ = 0;
  unsigned open_ = 0;
  unsigned borrowed_ = 0;
};

}  // namespace natrp
