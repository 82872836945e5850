// loop/owned.h
//
// OwnedOp, OwnedTimer: an op or a timer that knows whose it is; a member function of its owner handles it.
//
//     OwnedOp<&Agent::on_received> receive_{*this};   // .op is the Op, given to on_received() when it takes an Op&
//     OwnedTimer<&Agent::connect> retry_{*this};      // .timer is the Timer; connect() takes nothing
//
// A handler is given its op and nothing else, so the owner stands beside the op, and the cast from one to the other
// stands here and in no class. The function belongs to the type: it costs no word and no second call through a pointer.
// A class declares it above the member that names it.
//
// A record that is itself what the handler looks for, and whose first member is the op (relay/pump), needs none of it.
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

template <auto kFunction>
struct OwnedOp {
  using Owner = typename OwnerOf<decltype(kFunction)>::Owner;

  Op op;  // first, for the cast
  Owner* const owner;

  explicit OwnedOp(Owner& its) : owner(&its) { op.handler = handle; }
  OwnedOp(const OwnedOp&) = delete;
  OwnedOp& operator=(const OwnedOp&) = delete;

 private:
  static void handle(Op& op) {
    static_assert(std::is_standard_layout_v<OwnedOp>, "an Op that comes first has the address of its OwnedOp");
    Owner& owner = *reinterpret_cast<OwnedOp&>(op).owner;
    if constexpr (std::is_invocable_v<decltype(kFunction), Owner&, Op&>) {
      (owner.*kFunction)(op);
    } else {
      (owner.*kFunction)();
    }
  }
};

template <auto kFunction>
struct OwnedTimer {
  using Owner = typename OwnerOf<decltype(kFunction)>::Owner;

  Timer timer;  // first, for the cast
  Owner* const owner;

  explicit OwnedTimer(Owner& its) : owner(&its) { timer.handler = handle; }
  OwnedTimer(const OwnedTimer&) = delete;
  OwnedTimer& operator=(const OwnedTimer&) = delete;

 private:
  static void handle(Timer& timer) {
    static_assert(std::is_standard_layout_v<OwnedTimer>, "a Timer that comes first has the address of its OwnedTimer");
    (reinterpret_cast<OwnedTimer&>(timer).owner->*kFunction)();
  }
};

}  // namespace natrp
