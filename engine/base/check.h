// base/check.h
//
// NATRP_CHECK: a statement about our own code that must hold. When it does not, the process prints the
// sentence with file and line and aborts: continuing could mix two visitors' bytes. Never used for what a
// peer, an operator or the kernel may do: those are errors (base/result.h).
#pragma once

namespace natrp {

[[noreturn]] void check_failed(const char* condition, const char* sentence, const char* file, int line);

}  // namespace natrp

#define NATRP_CHECK(condition, sentence)                                        \
  do {                                                                          \
    if (__builtin_expect(!(condition), 0)) {                                    \
      ::natrp::check_failed(#condition, sentence, __FILE__, __LINE__);          \
    }                                                                           \
  } while (false)
