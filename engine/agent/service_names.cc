#include "agent/service_names.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "base/log.h"

namespace natrp {
namespace {

constexpr uint32_t kAskAgainMs = 5000;

bool are_same(const std::vector<Address>& some, const std::vector<Address>& others) {
  return std::ranges::equal(some, others, {}, &Address::text, &Address::text);
}

}  // namespace

ServiceNames::ServiceNames(Mailbox& mailbox, const std::vector<TunnelOptions>& tunnels, uint64_t now_ms,
                           OnChange on_change, Resolver::Lookup lookup)
    : resolver_(mailbox, std::move(lookup)),
      on_change_(std::move(on_change)),
      since_ms_(now_ms),
      now_ms_(now_ms),
      names_(tunnels.size()) {
  ServiceAddresses all;
  for (const TunnelOptions& tunnel : tunnels) {
    all.services.push_back({.tunnel = tunnel.name, .text = tunnel.local, .addresses = {}, .awaited = true});
  }
  addresses_ = std::make_shared<const ServiceAddresses>(std::move(all));
  for (uint32_t index = 0; index < names_.size(); ++index) {
    names_[index].target = parse_target(tunnels[index].local).value();
    ask(index);
  }
}

void ServiceNames::tick(uint64_t now_ms) {
  now_ms_ = now_ms;
  const bool is_late = now_ms - since_ms_ >= kServiceDialTimeoutMs;
  for (uint32_t index = 0; index < names_.size(); ++index) {
    if (is_late && addresses_->services[index].awaited) await_no_longer(index);
    const Name& name = names_[index];
    const bool wanted = name.doubted || addresses_->services[index].addresses.empty();
    if (wanted && !name.asked && now_ms - name.asked_ms >= kAskAgainMs) ask(index);
  }
}

void ServiceNames::doubt(uint32_t tunnel_index) {
  if (tunnel_index < names_.size()) names_[tunnel_index].doubted = true;
}

void ServiceNames::ask(uint32_t index) {
  Name& name = names_[index];
  name.asked = true;
  name.doubted = false;
  name.asked_ms = now_ms_;
  resolver_.resolve(name.target, [this, index](Resolver::Found found) { answered(index, std::move(found)); });
}

void ServiceNames::answered(uint32_t index, Resolver::Found found) {
  names_[index].asked = false;
  const ServiceAddresses::Service& service = addresses_->services[index];
  if (found.ok()) {
    if (!std::exchange(names_[index].told, {}).empty()) {
      const bool was_known = !service.addresses.empty();
      log_info(was_known ? "the service's name can be looked up again" : "the service's name has an address now",
               {{"tunnel", service.tunnel}, {"local", service.text}});
    }
    if (!are_same(found.value(), service.addresses)) change(index, std::move(found).value());
    return;
  }
  const bool is_known = !service.addresses.empty();
  tell(index, found.error().message +
                  (is_known ? "; visitors go where it was" : "; visitors are reset until it can be"));
  if (service.awaited) change(index, {});
}

void ServiceNames::tell(uint32_t index, const std::string& what) {
  if (names_[index].told == what) return;
  names_[index].told = what;
  log_warning(what, {{"tunnel", addresses_->services[index].tunnel}});
}

// A visitor waits for a name no longer than for its service. A DNS server that is dead takes longer.
void ServiceNames::await_no_longer(uint32_t index) {
  const std::string& name = addresses_->services[index].text;
  tell(index, "'" + name + "' is still being looked up; visitors are reset until it has an address");
  change(index, {});
}

void ServiceNames::change(uint32_t index, std::vector<Address> addresses) {
  ServiceAddresses all = *addresses_;
  all.services[index].addresses = std::move(addresses);
  all.services[index].awaited = false;
  addresses_ = std::make_shared<const ServiceAddresses>(std::move(all));
  on_change_();
}

}  // namespace natrp
