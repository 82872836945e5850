#include "base/line_out.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "base/clock.h"
#include "base/limits.h"

namespace natrp {

bool LineOut::write(std::string_view line) {
  look();
  if (!finish()) return false;
  const size_t written = write_some(line);
  if (written == 0) return line.empty();
  rest_ = line.substr(written);
  return true;
}

bool LineOut::finish() {
  if (rest_.empty()) return true;
  look();
  rest_.erase(0, write_some(rest_));
  return rest_.empty();
}

// Which file it is now.
void LineOut::look() {
  struct stat file;
  if (::fstat(fd_, &file) != 0) file = {};  // a write will say what is wrong
  if (file.st_dev == device_ && file.st_ino == inode_) return;
  device_ = file.st_dev;
  inode_ = file.st_ino;
  rest_.clear();
  stands_still_ = false;
  own_.reset();
  kind_ = S_ISREG(file.st_mode) ? Kind::kFile : S_ISSOCK(file.st_mode) ? Kind::kSocket : Kind::kShared;
  if (!S_ISFIFO(file.st_mode) && ::isatty(fd_) == 0) return;
  const std::string path = "/proc/self/fd/" + std::to_string(fd_);
  own_.reset(::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (own_.valid()) kind_ = Kind::kOwn;
}

size_t LineOut::write_some(std::string_view bytes) {
  size_t written = 0;
  while (written < bytes.size()) {
    const ssize_t wrote = try_write(bytes.substr(written));
    if (wrote >= 0) {
      written += static_cast<size_t>(wrote);
      continue;
    }
    error_ = errno;
    if (error_ != EINTR && !(error_ == EAGAIN && wait_a_little())) break;
  }
  stands_still_ = written < bytes.size();
  return written;
}

ssize_t LineOut::try_write(std::string_view bytes) {
  switch (kind_) {
    case Kind::kFile: return ::write(fd_, bytes.data(), bytes.size());
    case Kind::kSocket: return ::send(fd_, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    case Kind::kOwn: return ::write(own_.get(), bytes.data(), bytes.size());
    case Kind::kShared: break;
  }
  pollfd room{.fd = fd_, .events = POLLOUT, .revents = 0};
  const int ready = ::poll(&room, 1, 0);
  if (ready == 0) errno = EAGAIN;
  if (ready <= 0) return -1;
  return ::write(fd_, bytes.data(), std::min<size_t>(bytes.size(), PIPE_BUF));
}

bool LineOut::wait_a_little() {
  const uint64_t begun_ns = now_ns();
  if (begun_ns - wait_period_ns_ >= kLineWaitPeriodNs) {
    wait_period_ns_ = begun_ns;
    wait_left_ns_ = kLineWaitNs;
  }
  if (stands_still_ || wait_left_ns_ == 0) return false;
  pollfd room{.fd = fd_, .events = POLLOUT, .revents = 0};
  const timespec at_most{.tv_sec = 0, .tv_nsec = static_cast<long>(wait_left_ns_)};
  const int ready = ::ppoll(&room, 1, &at_most, nullptr);
  // Room that poll sees and write does not must not be waited for without an end.
  const uint64_t waited_ns = std::max(now_ns() - begun_ns, kLineWaitLeastNs);
  wait_left_ns_ -= std::min(wait_left_ns_, waited_ns);
  return ready != 0;
}

}  // namespace natrp
