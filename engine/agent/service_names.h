// agent/service_names.h
//
// ServiceNames: where the services of an agent's tunnels are. Each name is looked up at the start; again while it has
// no address; and again when its service could not be reached, as it may have moved.
//
// Life     awaited ──the first answer, or kServiceDialTimeoutMs──▶ known, or unknown ──a later answer──▶ known
//          A known one whose lookup fails keeps what it had.
// Thread   the control thread.
// Never    waits for DNS (net/resolver).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/agent_session.h"
#include "net/resolver.h"
#include "runtime/options.h"

namespace natrp {

class ServiceNames {
 public:
  using OnChange = std::function<void()>;
  // The tunnels' services were checked by the options. on_change runs in tick(), or as a letter.
  ServiceNames(Mailbox& mailbox, const std::vector<TunnelOptions>& tunnels, uint64_t now_ms, OnChange on_change,
               Resolver::Lookup lookup = natrp::resolve);
  ServiceNames(const ServiceNames&) = delete;
  ServiceNames& operator=(const ServiceNames&) = delete;

  // Some four times a second.
  void tick(uint64_t now_ms);
  // The service of this tunnel could not be reached.
  void doubt(uint32_t tunnel_index);
  // By tunnel index. What is given stays as it is; a change makes another.
  const std::shared_ptr<const ServiceAddresses>& addresses() const { return addresses_; }

 private:
  struct Name {
    Target target{};
    bool asked = false;     // its last answer is still to come
    bool doubted = false;
    uint64_t asked_ms = 0;
    std::string told{};     // of what is wrong with it; the log has it. Empty: nothing
  };
  void ask(uint32_t index);
  void answered(uint32_t index, Resolver::Found found);
  void tell(uint32_t index, const std::string& what);
  void await_no_longer(uint32_t index);
  void change(uint32_t index, std::vector<Address> addresses);

  Resolver resolver_;
  const OnChange on_change_;
  const uint64_t since_ms_;
  uint64_t now_ms_;  // of the last tick
  std::vector<Name> names_;
  std::shared_ptr<const ServiceAddresses> addresses_;
};

}  // namespace natrp
