// admin/admin_client.h
//
// What an edge's admin server tells, for natrpctl.
//
// Thread   any; blocks until the server has answered, for some seconds at most.
#pragma once

#include <vector>

#include "base/result.h"
#include "control/status_info.h"
#include "net/address.h"

namespace natrp {

// Of the edge that has its admin server there. On failure the sentence says what came instead and what to do.
Result<std::vector<SessionInfo>> ask_for_sessions(const Address& admin);

}  // namespace natrp
