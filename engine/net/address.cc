#include "net/address.h"

#include <arpa/inet.h>
#include <netdb.h>

#include <charconv>
#include <cstddef>
#include <cstring>

#include "base/limits.h"

namespace natrp {
namespace {

// Letters of other alphabets are for the resolver to judge; what no resolver takes is told now, not as a name that
// is not found, again and again.
bool may_be_host(std::string_view host) {
  for (const char c : host) {
    const bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
                      c == '-' || c == '_' || static_cast<unsigned char>(c) >= 0x80;
    if (!good) return false;
  }
  return true;
}

// What stands in brackets, with or without a zone: fe80::1%eth0.
bool is_v6_literal(std::string_view host) {
  in6_addr ignored;
  const std::string address(host.substr(0, host.find('%')));
  return address.find('\0') == std::string::npos && inet_pton(AF_INET6, address.c_str(), &ignored) == 1;
}

}  // namespace

Address Address::from_sockaddr(const sockaddr* address, socklen_t length) {
  Address out;
  if (length > sizeof out.storage_) length = sizeof out.storage_;
  std::memcpy(&out.storage_, address, length);
  out.length_ = length;
  return out;
}

Result<Address> Address::parse(std::string_view text) {
  auto host_port = parse_host_port(text);
  if (!host_port.ok()) return host_port.error();
  const std::string& host = host_port.value().host;
  Address out;
  if (inet_pton(AF_INET, host.c_str(), &out.storage_.v4.sin_addr) == 1) {
    out.storage_.v4.sin_family = AF_INET;
    out.storage_.v4.sin_port = htons(host_port.value().port);
    out.length_ = sizeof(sockaddr_in);
    return out;
  }
  if (inet_pton(AF_INET6, host.c_str(), &out.storage_.v6.sin6_addr) == 1) {
    out.storage_.v6.sin6_family = AF_INET6;
    out.storage_.v6.sin6_port = htons(host_port.value().port);
    out.length_ = sizeof(sockaddr_in6);
    return out;
  }
  return Error{"'" + std::string(text) + "' is not an IP address and port: write 127.0.0.1:80 or [::1]:80"};
}

Result<Address> Address::unix_path(std::string_view path) {
  Address out;
  if (path.empty()) return Error{"the path of the unix socket is empty: write unix:PATH"};
  if (path.size() >= sizeof out.storage_.path.sun_path) {
    return Error{"a unix socket path has 1 to 107 bytes, and '" + std::string(path) + "' has " +
                 std::to_string(path.size()) + ": use a shorter one, or a symbolic link"};
  }
  if (path.find('\0') != std::string_view::npos) return Error{"a unix socket path holds no zero byte"};
  out.storage_.path.sun_family = AF_UNIX;
  std::memcpy(out.storage_.path.sun_path, path.data(), path.size());
  out.length_ = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  return out;
}

uint16_t Address::port() const {
  if (family() == AF_INET) return ntohs(storage_.v4.sin_port);
  if (family() == AF_INET6) return ntohs(storage_.v6.sin6_port);
  return 0;
}

Address Address::with_port(uint16_t port) const {
  Address out = *this;
  if (family() == AF_INET) out.storage_.v4.sin_port = htons(port);
  if (family() == AF_INET6) out.storage_.v6.sin6_port = htons(port);
  return out;
}

bool Address::is_v4_mapped() const {
  return family() == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&storage_.v6.sin6_addr);
}

std::string Address::host_text() const {
  char buffer[INET6_ADDRSTRLEN] = "";
  if (family() == AF_INET) inet_ntop(AF_INET, &storage_.v4.sin_addr, buffer, sizeof buffer);
  if (is_v4_mapped()) {
    inet_ntop(AF_INET, &storage_.v6.sin6_addr.s6_addr[12], buffer, sizeof buffer);
  } else if (family() == AF_INET6) {
    inet_ntop(AF_INET6, &storage_.v6.sin6_addr, buffer, sizeof buffer);
  }
  return buffer;
}

std::string Address::text() const {
  if (!valid()) return "-";
  if (family() == AF_UNIX) return std::string("unix:") + storage_.path.sun_path;
  if (family() == AF_INET6 && !is_v4_mapped()) return "[" + host_text() + "]:" + std::to_string(port());
  return host_text() + ":" + std::to_string(port());
}

bool overlap(const Address& one, const Address& other) {
  const auto covers = [](const Address& whole, const Address& part) {
    const std::string host = whole.host_text();
    return host == "::" || host == part.host_text() || (host == "0.0.0.0" && part.family() == AF_INET);
  };
  return one.port() == other.port() && (covers(one, other) || covers(other, one));
}

std::string HostPort::text() const {
  const bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<HostPort> parse_host_port(std::string_view text) {
  const std::string given = "'" + std::string(text) + "'";
  if (const size_t slashes = text.find("://"); slashes != std::string_view::npos) {
    return Error{given + " is a URL: write HOST:PORT, without '" + std::string(text.substr(0, slashes + 3)) + "'"};
  }
  const size_t colon = text.rfind(':');
  const auto without_host = [&given](std::string_view port) {
    const std::string behind = ":" + std::string(port);
    return Error{given + " has no host: write HOST:PORT, for example 127.0.0.1" + behind + ", or 0.0.0.0" + behind +
                 " to listen on all addresses"};
  };
  const bool is_port = !text.empty() && text.size() <= 5 && text.find_first_not_of("0123456789") == text.npos;
  if (is_port) return without_host(text);
  if (colon == std::string_view::npos) return Error{given + " has no port: write HOST:PORT"};
  std::string_view host = text.substr(0, colon);
  const std::string_view digits = text.substr(colon + 1);
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return Error{given + " looks like IPv6 without brackets: write [ADDRESS]:PORT"};
  }
  if (host.empty()) return without_host(digits);
  if (bracketed && !is_v6_literal(host)) {
    return Error{given + " is not a host: in brackets stands an IPv6 address, and nothing else"};
  }
  if (!bracketed && !may_be_host(host)) {
    return Error{given + " is not a host: write a name or an IP address, and a port"};
  }
  if (host.size() > kHostBytesMax) return Error{given + " is longer than a host name may be"};
  unsigned port = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc{} || end != digits.data() + digits.size() || port > 65535) {
    return Error{given + " has no valid port: a port is a number from 0 to 65535"};
  }
  return HostPort{std::string(host), static_cast<uint16_t>(port)};
}

Result<Target> parse_target(std::string_view text) {
  Target target;
  target.text = text;
  if (text.substr(0, 5) == "unix:") {
    auto address = Address::unix_path(text.substr(5));
    if (!address.ok()) return address.error();
    target.unix_path = text.substr(5);
    return target;
  }
  auto host_port = parse_host_port(text);
  if (!host_port.ok()) return host_port.error();
  if (host_port.value().port == 0) return Error{"'" + std::string(text) + "': port 0 cannot be dialled"};
  target.host_port = std::move(host_port).value();
  return target;
}

Result<std::vector<Address>> resolve(const HostPort& host_port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string port = std::to_string(host_port.port);
  if (const int error = getaddrinfo(host_port.host.c_str(), port.c_str(), &hints, &found); error != 0) {
    return Error{"cannot resolve host '" + host_port.host + "': " + gai_strerror(error)};
  }
  std::vector<Address> out;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    out.push_back(Address::from_sockaddr(at->ai_addr, at->ai_addrlen));
  }
  freeaddrinfo(found);
  if (out.empty()) return Error{"host '" + host_port.host + "' has no address"};
  return out;
}

}  // namespace natrp
