#include "base/dir_owner.h"

#include <sys/stat.h>
#include <unistd.h>

namespace natrp {

void give_to_owner_of_dir(const std::string& dir, int fd) {
  if (geteuid() != 0) return;
  struct stat folder;
  struct stat file;
  if (stat(dir.c_str(), &folder) != 0 || fstat(fd, &file) != 0 || folder.st_uid == file.st_uid) return;
  // Where even root may not (a user namespace, a network file system) the file stays root's.
  if (fchown(fd, folder.st_uid, folder.st_gid) != 0) return;
}

}  // namespace natrp
