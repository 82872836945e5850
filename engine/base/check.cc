#include "base/check.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "base/line_out.h"

namespace natrp {

void check_failed(const char* condition, const char* sentence, const char* file, int line) {
  char said[1024];
  const int length = std::snprintf(said, sizeof said,
                                   "natrp: internal error at %s:%d: %s (%s). This is a bug; please report it.\n", file,
                                   line, sentence, condition);
  // Nobody reads it: it ends all the same, and is started again.
  LineOut(STDERR_FILENO).write({said, std::min(static_cast<size_t>(length), sizeof said - 1)});
  std::abort();
}

}  // namespace natrp
