// base/dir_owner.h
//
// root working in the folder of a service user (natrpctl before the edge's first start): what it makes there belongs to
// the folder's owner, or the edge could not open it.
#pragma once

#include <string>

namespace natrp {

// fd is of a file in dir. Does nothing for users other than root, and nothing where even root may not.
void give_to_owner_of_dir(const std::string& dir, int fd);

}  // namespace natrp
