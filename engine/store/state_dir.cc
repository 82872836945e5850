#include "store/state_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/dir_owner.h"

namespace natrp {
namespace {

constexpr mode_t kDirMode = 0700;
constexpr unsigned kLockTries = 200;  // some 100 µs

Error not_makeable(const std::string& dir, const std::string& at, int errno_value) {
  Error error = Error::from_errno("cannot make the state folder " + dir + ": " + at, errno_value);
  error.message += "; give a folder that this user may write with --state";
  return error;
}

std::string lock_path(const std::string& dir) { return dir + "/edge.lock"; }

Status lock(int fd, const std::string& dir) {
  // Who only asks takes the lock for some µs, and an edge that starts in these would be refused.
  for (unsigned tries = 0; tries < kLockTries; ++tries) {
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return Done{};
    if (errno != EWOULDBLOCK && errno != EINTR) break;
  }
  if (errno != EWOULDBLOCK && errno != EINTR) return Error::from_errno("cannot lock " + lock_path(dir), errno);
  return Error{"another edge is running with the state folder " + dir +
                   ": stop it, or give this one a folder of its own with --state",
               EWOULDBLOCK};
}

// Who may write here can put a key and clients of his own in the place of the edge's; a sticky bit keeps him from ours,
// but not from making those that are not there yet. A group that was given the folder is its owner's choice.
Status check_not_everybodys(const std::string& dir) {
  struct stat info;
  if (stat(dir.c_str(), &info) != 0) return Error::from_errno("cannot look at the state folder " + dir, errno);
  if ((info.st_mode & S_IWOTH) == 0) return Done{};
  Error error{"everybody may write to the state folder " + dir +
                  ", and so put a key or a client there: give a folder of the edge's own with --state",
              EPERM};
  // One with a sticky bit, like /tmp, is everybody's on purpose.
  if ((info.st_mode & S_ISVTX) == 0) error.message += "; or look what is in this one, and run `chmod o-w " + dir + "`";
  return error;
}

}  // namespace

Status make_state_dir(const std::string& dir) {
  if (dir.empty()) return Error{"the state folder has no name: give one with --state"};
  for (size_t at = 0; at != std::string::npos;) {
    at = dir.find('/', at + 1);
    const std::string part = dir.substr(0, at);
    if (mkdir(part.c_str(), kDirMode) == 0) continue;
    const int failure = errno;
    struct stat info;
    // mkdir of a folder that exists may say EEXIST, or EACCES or EROFS where it may not write.
    if (stat(part.c_str(), &info) != 0) return not_makeable(dir, part, failure);
    if (!S_ISDIR(info.st_mode)) {
      return Error{"the state folder " + dir + " cannot be used: " + part +
                       " is not a folder; move it away, or give another folder with --state",
                   ENOTDIR};
    }
  }
  if (access(dir.c_str(), R_OK | W_OK | X_OK) != 0) {
    Error error = Error::from_errno("cannot use the state folder " + dir, errno);
    error.message += "; run as its owner, or give another folder with --state";
    return error;
  }
  return Done{};
}

Status make_private_state_dir(const std::string& dir) {
  const Status made = make_state_dir(dir);
  return made.ok() ? check_not_everybodys(dir) : made;
}

Result<Fd> lock_state_dir(const std::string& dir) {
  if (Status made = make_private_state_dir(dir); !made.ok()) return made.error();
  const std::string path = lock_path(dir);
  Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) return Error::from_errno("cannot open " + path, errno);
  give_to_owner_of_dir(dir, fd.get());
  if (Status locked = lock(fd.get(), dir); !locked.ok()) return locked.error();
  return fd;
}

void unlock_state_dir(const Fd& lock) { flock(lock.get(), LOCK_UN); }

bool another_has_state_dir(const Fd& lock) {
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) return errno == EWOULDBLOCK;
  unlock_state_dir(lock);
  return false;
}

Status check_state_dir(const std::string& dir) {
  std::string there = dir;
  // What is not there yet, a start makes.
  while (!there.empty() && access(there.c_str(), F_OK) != 0) {
    if (errno != ENOENT) return not_makeable(dir, there, errno);
    const size_t slash = there.rfind('/');
    there = slash == std::string::npos ? "." : slash == 0 ? "/" : there.substr(0, slash);
  }
  if (there == dir) {
    if (Status usable = make_private_state_dir(dir); !usable.ok()) return usable;
    const std::string lock = lock_path(dir);
    if (access(lock.c_str(), R_OK | W_OK) == 0 || errno == ENOENT) return Done{};
    return Error::from_errno("cannot open " + lock, errno);
  }
  struct stat info;
  if (stat(there.c_str(), &info) != 0) return not_makeable(dir, there, errno);
  if (!S_ISDIR(info.st_mode)) return not_makeable(dir, there, ENOTDIR);
  // As mkdir(2) would say it: EROFS, too.
  if (access(there.c_str(), W_OK | X_OK) != 0) return not_makeable(dir, there, errno);
  return Done{};
}

Status check_state_dir_is_free(const std::string& dir) {
  const Fd fd(open(lock_path(dir).c_str(), O_RDWR | O_CLOEXEC));
  // No lock file yet, or no right to it: lock_state_dir() will tell what is wrong with the folder.
  return fd.valid() ? lock(fd.get(), dir) : Done{};
}

}  // namespace natrp
