// net/address.h
//
// Address: where a socket is or goes: IPv4, IPv6 or a unix path. A value; parsing never asks the network.
// resolve() does, and blocks: never call it on a loop's thread (net/resolver does it elsewhere).
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace natrp {

class Address {
 public:
  Address() = default;
  static Address from_sockaddr(const sockaddr* address, socklen_t length);
  // "127.0.0.1:80", "[::1]:80" with a literal address.
  static Result<Address> parse(std::string_view text);
  static Result<Address> unix_path(std::string_view path);

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  socklen_t length() const { return length_; }
  int family() const { return storage_.generic.sa_family; }
  bool valid() const { return length_ != 0; }
  uint16_t port() const;
  Address with_port(uint16_t port) const;
  // IPv4 as it comes to a socket of [::], ::ffff:127.0.0.1, is written as what it is.
  std::string text() const;       // "127.0.0.1:80", "[::1]:80", "unix:/run/x"
  std::string host_text() const;  // "127.0.0.1", "::1"

 private:
  bool is_v4_mapped() const;

  union {
    sockaddr generic;
    sockaddr_in v4;
    sockaddr_in6 v6;
    sockaddr_un path;
  } storage_{};
  socklen_t length_ = 0;
};

// Whether a listener on one keeps others from listening on the other. A wildcard has all addresses, and [::] has those
// of IPv4, too (listen_on).
bool overlap(const Address& one, const Address& other);

// A host and port as an operator writes them: "example.com:10022", "[::1]:80", ":80" is refused.
struct HostPort {
  std::string host;
  uint16_t port = 0;
  std::string text() const;  // "example.com:10022", "[::1]:80"
};
Result<HostPort> parse_host_port(std::string_view text);

// Where a service or an edge is: a unix path, or a host name and port to be resolved.
struct Target {
  std::string unix_path;  // empty: use host_port
  HostPort host_port;
  std::string text;
};
Result<Target> parse_target(std::string_view text);

// All addresses of host, in the system's order (RFC 6724). Blocks on DNS.
Result<std::vector<Address>> resolve(const HostPort& host_port);

}  // namespace natrp
