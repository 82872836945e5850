// store/state_dir.h
//
// The state folder: the edge's key, its clients and its sticky leases. Ours alone (mode 0700); one running
// edge at a time, any number of natrpctl beside it.
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace natrp {

// Makes the folder and its parents (0700) when they are missing, and checks that files can be made in it. An
// error names the folder, the reason and the remedy.
Status make_state_dir(const std::string& dir);

// Likewise, and fails where everybody may make files in the folder. For who puts a key or a client there, and not for
// commands that only look or that take a right away.
Status make_private_state_dir(const std::string& dir);

// The right to be the edge of this folder, as long as the Fd is open; the kernel gives it back when the
// process ends, however it ends. Fails when another edge has it.
Result<Fd> lock_state_dir(const std::string& dir);

// Gives the right up, and keeps the Fd to ask whether another edge has it now: no descriptor more is needed for that.
void unlock_state_dir(const Fd& lock);
bool another_has_state_dir(const Fd& lock);

// Whether make_state_dir() and lock_state_dir() would succeed, apart from another edge's lock. Makes nothing.
Status check_state_dir(const std::string& dir);

// Fails when another edge has the folder now. Makes nothing and keeps nothing: lock_state_dir() decides.
Status check_state_dir_is_free(const std::string& dir);

}  // namespace natrp
