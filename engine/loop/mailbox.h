// loop/mailbox.h
//
// Mailbox: the only way one thread touches another. Any thread posts a piece of work; the owner runs it in its own
// loop, in the order in which each sender posted. A letter that was posted is run, or destroyed with the mailbox.
//
// Thread   post() any; everything else the owner.
// How      a stack pushed by one compare-and-swap and taken whole by one exchange; the owner turns it round. Only the
//          post that finds the stack empty wakes the owner, so a burst costs one wake-up.
#pragma once

#include <atomic>
#include <type_traits>
#include <utility>

#include "loop/loop.h"

namespace natrp {

class Mailbox {
 public:
  explicit Mailbox(Loop& loop);
  ~Mailbox();
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  // work: void(). Allocates one letter, in the sender.
  template <typename Work>
  void post(Work&& work) {
    push(new LetterOf<std::decay_t<Work>>(std::forward<Work>(work)));
  }
  // Runs what is there. Called by the loop when it was woken; the owner may call it any time.
  void deliver();

 private:
  struct Letter {
    Letter* next = nullptr;
    virtual ~Letter() = default;
    virtual void run() = 0;
  };
  template <typename Work>
  struct LetterOf final : Letter {
    explicit LetterOf(Work w) : work(std::move(w)) {}
    void run() override { work(); }
    Work work;
  };
  void push(Letter* letter);
  Letter* take_all();

  Loop& loop_;
  std::atomic<Letter*> newest_{nullptr};
};

}  // namespace natrp
