#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace natrp {

void check_failed(const char* condition, const char* sentence, const char* file, int line) {
  std::fprintf(stderr, "natrp: internal error at %s:%d: %s (%s). This is a bug; please report it.\n", file, line,
               sentence, condition);
  std::abort();
}

}  // namespace natrp
