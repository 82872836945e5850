// base/result.h
//
// Result<T>: a value or an Error. Used wherever something may fail because of the outside world (an operator's
// input, a peer, the kernel). The data path's handlers use plain negative errno instead.
//
// Thread   a value type; belongs to whoever holds it.
// Never    throws; reading the value of a failed Result is a bug and aborts.
#pragma once

#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace natrp {

// What went wrong, as a sentence for an operator: what happened, why, what to do.
struct Error {
  std::string message;
  int errno_value = 0;  // the errno behind it, 0 when there is none

  // "cannot bind 0.0.0.0:10022: Address already in use"
  static Error from_errno(std::string what, int errno_value);
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() & {
    NATRP_CHECK(ok(), "value() of a failed Result");
    return std::get<0>(state_);
  }
  const T& value() const& {
    NATRP_CHECK(ok(), "value() of a failed Result");
    return std::get<0>(state_);
  }
  // By value: what a reference led to would be gone at the end of the expression, a range-for's beginning.
  T value() && {
    NATRP_CHECK(ok(), "value() of a failed Result");
    return std::get<0>(std::move(state_));
  }
  const Error& error() const {
    NATRP_CHECK(!ok(), "error() of a successful Result");
    return std::get<1>(state_);
  }

 private:
  std::variant<T, Error> state_;
};

// Success without a value: `return Done{};`
struct Done {};
using Status = Result<Done>;

}  // namespace natrp
