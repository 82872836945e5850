#include "relay/pipe_pool.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/check.h"
#include "base/limits.h"

namespace natrp {
namespace {

// Pages that all pipes of an unprivileged user may use before the kernel shrinks new ones; 0 means no limit.
unsigned long soft_page_budget() {
  if (geteuid() == 0) return 0;  // CAP_SYS_RESOURCE: not limited
  unsigned long pages = 16384;
  if (std::FILE* file = std::fopen("/proc/sys/fs/pipe-user-pages-soft", "re")) {
    if (std::fscanf(file, "%lu", &pages) != 1) pages = 16384;
    std::fclose(file);
  }
  return pages;
}

}  // namespace

PipePool::PipePool(Counters& counters, unsigned pipes_max, unsigned workers) : counters_(counters) {
  if (pipes_max == 0) {
    pipes_max = kPipesPerWorkerMax;
    if (const unsigned long pages = soft_page_budget(); pages != 0) {
      // A fifth is left for the user's other programs.
      const unsigned long share = pages * 4 / 5 / (kPipeBytes / 4096) / std::max(workers, 1u);
      pipes_max = static_cast<unsigned>(std::clamp<unsigned long>(share, 1, kPipesPerWorkerMax));
    }
  }
  pipes_max_ = std::min(pipes_max, kPipesPerWorkerMax);
  pipes_.resize(pipes_max_);
  free_.reserve(pipes_max_);
  unused_.reserve(pipes_max_);
  for (unsigned id = pipes_max_; id > 0; --id) unused_.push_back(static_cast<uint16_t>(id - 1));
}

PipePool::~PipePool() { trim(0); }

bool PipePool::make(Pipe& pipe) {
  int fds[2];
  if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) != 0) return false;  // no descriptor just now: it may be another time
  int bytes = fcntl(fds[1], F_SETPIPE_SZ, static_cast<int>(kPipeBytes));
  if (bytes < 0) bytes = fcntl(fds[1], F_GETPIPE_SZ);
  if (bytes < static_cast<int>(kPipeBytesMin)) {
    ::close(fds[0]);
    ::close(fds[1]);
    unused_.clear();  // over the budget: what exists is what there is
    return false;
  }
  pipe = {fds[0], fds[1], static_cast<uint32_t>(bytes)};
  return true;
}

uint16_t PipePool::take() {
  if (!free_.empty()) {
    const uint16_t id = free_.back();
    free_.pop_back();
    ++borrowed_;
    return id;
  }
  if (unused_.empty()) return kNone;
  const uint16_t id = unused_.back();
  if (!make(pipes_[id])) return kNone;
  unused_.pop_back();
  ++open_;
  ++borrowed_;
  counters_.set(Counter::kPipesOpen, open_);
  return id;
}

void PipePool::give_back(uint16_t id, bool dirty) {
  NATRP_CHECK(id < pipes_.size() && pipes_[id].read_fd >= 0 && borrowed_ > 0, "a borrowed pipe is given back once");
  --borrowed_;
  if (!dirty) {
    free_.push_back(id);
    return;
  }
  ::close(pipes_[id].read_fd);
  ::close(pipes_[id].write_fd);
  pipes_[id] = {};
  unused_.push_back(id);
  --open_;
  counters_.set(Counter::kPipesOpen, open_);
}

void PipePool::trim(unsigned keep) {
  while (free_.size() > keep) {
    const uint16_t id = free_.back();
    free_.pop_back();
    ++borrowed_;
    give_back(id, true);
  }
}

}  // namespace natrp
