// base/version.h
//
// The version that the programs print; the build gives it (-DNATRP_VERSION), from the project's one place for it.
#pragma once

#include <string>

namespace natrp {

#ifdef NATRP_VERSION
inline const std::string kVersion = NATRP_VERSION;
#else
inline const std::string kVersion = "unversioned";
#endif

}  // namespace natrp
