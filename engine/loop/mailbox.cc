#include "loop/mailbox.h"

namespace natrp {

Mailbox::Mailbox(Loop& loop) : loop_(loop) {
  loop_.set_wake_handler([](void* self) { static_cast<Mailbox*>(self)->deliver(); }, this);
}

Mailbox::~Mailbox() {
  loop_.set_wake_handler(nullptr, nullptr);
  for (Letter* letter = take_all(); letter != nullptr;) delete std::exchange(letter, letter->next);
}

void Mailbox::push(Letter* letter) {
  Letter* newest = newest_.load(std::memory_order_relaxed);
  do {
    letter->next = newest;
  } while (!newest_.compare_exchange_weak(newest, letter, std::memory_order_release, std::memory_order_relaxed));
  if (newest == nullptr) loop_.wake();
}

Mailbox::Letter* Mailbox::take_all() {
  Letter* newest = newest_.exchange(nullptr, std::memory_order_acquire);
  Letter* oldest = nullptr;
  while (newest != nullptr) {
    Letter* next = newest->next;
    newest->next = oldest;
    oldest = newest;
    newest = next;
  }
  return oldest;
}

void Mailbox::deliver() {
  for (Letter* letter = take_all(); letter != nullptr;) {
    letter->run();
    delete std::exchange(letter, letter->next);
  }
}

}  // namespace natrp
