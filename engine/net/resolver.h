// net/resolver.h
//
// Resolver: host names to addresses on threads of its own, so that a slow DNS server never stops a loop, and names of a
// dead one (10 s and more each) do not hold the others up.
//
// Thread   made, used and destroyed by the owner of the mailbox; answers are letters to it.
//          They start as lookups find no idle one, 8 at most, and stay until the resolver goes.
// Order    of the answers: none.
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
  using Found = Result<std::vector<Address>>;
  using Answer = std::function<void(Found)>;
  using Lookup = std::function<Found(const HostPort&)>;
  // lookup runs in any of the threads, in several at a time.
  explicit Resolver(Mailbox& mailbox, Lookup lookup = natrp::resolve);
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
