// No descriptor is to be had, as in a process that has reached its limit of open files.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include "base/fd.h"

namespace natrp {

// While one of these lives; those that are open stay open.
class NoDescriptors {
 public:
  NoDescriptors() {
    getrlimit(RLIMIT_NOFILE, &before_);
    // Every number below the lowest free one is in use. A limit of 0 would do, and poll(2) would fail under it.
    const int lowest_free = Fd(::dup(STDERR_FILENO)).get();
    const rlimit none{static_cast<rlim_t>(lowest_free), before_.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
  }
  ~NoDescriptors() { setrlimit(RLIMIT_NOFILE, &before_); }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;

 private:
  rlimit before_{};
};

}  // namespace natrp
