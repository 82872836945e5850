#include "base/result.h"

#include <cstring>

namespace natrp {

Error Error::from_errno(std::string what, int errno_value) {
  what += ": ";
  what += std::strerror(errno_value);
  return Error{std::move(what), errno_value};
}

}  // namespace natrp
