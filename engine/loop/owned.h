// loop/owned.h
//
// OwnedOp, OwnedTimer: an op or a timer that knows whose it is; a member function of its owner handles it.
//
//     OwnedOp<&Agent::on_received> receive_{*this};   // an Op, given to on_received() when it takes an Op&
//     OwnedTimer<&Agent::connect> retry_{*this};      // a Timer; connect() takes nothing
//
// A handler is given its op and nothing else. So a reference to the owner lies behind the op, and the cast that finds
// it is written here, and in no class. The function is part of the type: it costs no word of memory and no second call
// through a pointer. A class declares the function above the op or the timer that names it.
//
// Where the op is the first member of the record that its handler needs (relay/pump), a plain cast does, without this.
//
// Thread   its loop's.
// Memory   a member of its owner, so what loop/op.h and loop/timer_wheel.h ask of an op's and a timer's object holds.
// Never    touches anything after the owner's function, which may have deleted the owner.
#pragma once

#include <type_traits>

#include "loop/op.h"
#include "loop/timer_wheel.h"

namespace natrp {

template <typename Function>
struct OwnerOf;
template <typename Class, typename... Arguments>
struct OwnerOf<void (Class::*)(Arguments...)> {
  using Owner = Class;
};

template <typename Event, auto kFunction>
class Owned : public Event {
 public:
  using Owner = typename OwnerOf<decltype(kFunction)>::Owner;
  explicit Owned(Owner& owner) : owner_(owner) { this->handler = handle; }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;

 private:
  static void handle(Event& event) {
    Owner& owner = static_cast<Owned&>(event).owner_;
    if constexpr (std::is_invocable_v<decltype(kFunction), Owner&, Event&>) {
      (owner.*kFunction)(event);
    } else {
      (owner.*kFunction)();
    }
  }

  Owner& owner_;
};

template <auto kFunction>
using OwnedOp = Owned<Op, kFunction>;
template <auto kFunction>
using OwnedTimer = Owned<Timer, kFunction>;

}  // namespace natrp
