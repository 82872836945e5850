// net/resolver.h
//
// Resolver: host names to addresses on a thread of its own, so that a slow DNS server never stops a loop.
//
// Thread   made, used and destroyed by the owner of the mailbox; answers are letters to it.
// Never    waits for DNS when it is destroyed: a lookup that is under way is left behind, its answer dropped.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "loop/mailbox.h"
#include "net/address.h"

namespace natrp {

class Resolver {
 public:
  using Answer = std::function<void(Result<std::vector<Address>>)>;
  explicit Resolver(Mailbox& mailbox);
  ~Resolver();
  Resolver(const Resolver&) = delete;
  Resolver& operator=(const Resolver&) = delete;

  // answer runs as a letter in the mailbox's thread, never inside this call. A unix path or a literal address needs
  // no lookup.
  void resolve(const Target& target, Answer answer);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace natrp
