// loop/patient_ops.h
//
// PatientOps: finished ops of streams whose handlers wait until a turn's messages are out.
//
// A stream's turn takes some 100 µs, and ten streams are often ready at once. A message that came with them would wait
// for all ten, in each process on its way. While this is on, one of their ops is handled in a turn, and while others
// wait the loop yields the processor (SystemCallLoop::let_others_go_first).
//
//     off   keeps nothing; what was kept goes in the next turn, all of it
//     on    keeps the patient ops that finish; the first that came goes first, one a turn
//
// Thread   its loop's.
// Memory   none: a kept op is a link of the list (Op::data, which a poll does not use). It stays in flight, and says so
//          (Op::kept).
// Never    holds the last one for good: one goes at least every second turn, and a loop that keeps any does not wait.
#pragma once

#include "loop/op.h"

namespace natrp {

class PatientOps {
 public:
  void set(bool on) { on_ = on; }
  bool empty() const { return first_ == nullptr; }

  // True: it is kept, and its handler does not run yet.
  bool keep(Op& op) {
    if (!on_ || !op.patient || op.kind != OpKind::kPoll) return false;
    op.data = nullptr;
    op.kept = true;
    if (first_ == nullptr) {
      first_ = &op;
    } else {
      last_->data = &op;
    }
    last_ = &op;
    return true;
  }

  // At the end of a turn: finish(op) for each that goes now. messages_wait: what this turn's handlers submitted reaches
  // the kernel only in the next turn, so no kept op goes before it. But not twice: after the next turn one goes.
  template <typename Finish>
  void end_turn(bool messages_wait, Finish finish) {
    if (empty()) return;
    passed_over_ = on_ && messages_wait && !passed_over_;
    if (passed_over_) return;
    const Op* const last = on_ ? first_ : last_;
    for (bool more = true; more;) {
      Op& op = *first_;
      more = &op != last;
      first_ = static_cast<Op*>(op.data);
      op.kept = false;
      finish(op);  // may keep it again
    }
  }

 private:
  Op* first_ = nullptr;
  Op* last_ = nullptr;  // of no meaning while first_ is null
  bool on_ = false;
  bool passed_over_ = false;
};

}  // namespace natrp
