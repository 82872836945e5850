#include "sockets.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "flags.h"

namespace natrp::bench {
namespace {

// Listeners are asked for a long queue; the kernel cuts it at net.core.somaxconn.
constexpr int kBacklog = 65535;
// Source addresses are 127.0.1.1 ... 127.0.250.250.
constexpr uint32_t kHostsPerNet = 250;

void set_congestion(int fd, const std::string& name) {
    if (name.empty()) {
        return;
    }
    if (::setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name.data(), static_cast<socklen_t>(name.size())) < 0) {
        refuse("this kernel does not let us use the congestion control '" + name + "' (" +
               std::strerror(errno) + "); leave out --cc, or load tcp_" + name +
               " and add it to net.ipv4.tcp_allowed_congestion_control");
    }
}

}  // namespace

void Fd::reset() {
    if (fd_ >= 0) {
        ::close(std::exchange(fd_, -1));
    }
}

Address parse_address(const std::string& text) {
    const size_t colon = text.rfind(':');
    if (colon == std::string::npos || colon == 0) {
        refuse("'" + text + "' is not ADDRESS:PORT");
    }
    std::string host = text.substr(0, colon);
    const std::string port_text = text.substr(colon + 1);
    char* end = nullptr;
    const unsigned long port = std::strtoul(port_text.c_str(), &end, 10);
    if (port_text.empty() || *end != '\0' || port > 65535) {
        refuse("'" + port_text + "' in '" + text + "' is not a port from 0 to 65535");
    }
    Address address;
    if (host.front() == '[' && host.back() == ']') {
        auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
        host = host.substr(1, host.size() - 2);
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(static_cast<uint16_t>(port));
        address.length = sizeof *v6;
        if (::inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) != 1) {
            refuse("'" + host + "' is not an IPv6 address in numbers");
        }
        return address;
    }
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(static_cast<uint16_t>(port));
    address.length = sizeof *v4;
    if (::inet_pton(AF_INET, host.c_str(), &v4->sin_addr) != 1) {
        refuse("'" + host + "' is not an IPv4 address in numbers");
    }
    return address;
}

std::string format_address(const Address& address) {
    char host[INET6_ADDRSTRLEN] = "";
    if (address.storage.ss_family == AF_INET6) {
        const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address.storage);
        ::inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        std::string text = "[";
        return text.append(host).append("]:").append(std::to_string(ntohs(v6->sin6_port)));
    }
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&address.storage);
    ::inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
    return std::string(host) + ":" + std::to_string(ntohs(v4->sin_port));
}

Fd listen_on(const Address& address, const std::string& congestion) {
    Fd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const int on = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    set_congestion(fd.get(), congestion);
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.length) < 0 ||
        ::listen(fd.get(), kBacklog) < 0) {
        refuse("cannot listen on " + format_address(address) + ": " + std::strerror(errno));
    }
    return fd;
}

Address local_address(const Fd& fd) {
    Address address;
    address.length = sizeof address.storage;
    ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address.storage), &address.length);
    return address;
}

Fd begin_connect(const Address& target, uint64_t index, uint32_t sources, const std::string& congestion) {
    Fd fd(::socket(target.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) {
        return fd;
    }
    set_no_delay(fd.get());
    set_congestion(fd.get(), congestion);
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&target.storage);
    if (sources > 0 && target.storage.ss_family == AF_INET && (ntohl(v4->sin_addr.s_addr) >> 24) == 127) {
        const auto host = static_cast<uint32_t>(index % sources);
        const uint32_t source_ip =
            (127U << 24) | ((1 + host / kHostsPerNet % kHostsPerNet) << 8) | (1 + host % kHostsPerNet);
        sockaddr_in from{};
        from.sin_family = AF_INET;
        from.sin_addr.s_addr = htonl(source_ip);
        const int on = 1;
        ::setsockopt(fd.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&from), sizeof from) < 0) {
            return Fd();
        }
    }
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&target.storage), target.length) < 0 &&
        errno != EINPROGRESS) {
        return Fd();
    }
    return fd;
}

int connect_result(int fd) {
    int error = 0;
    socklen_t length = sizeof error;
    ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    return error;
}

void reset_on_close(int fd) {
    const linger at_once{1, 0};
    ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

void set_no_delay(int fd) {
    const int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

void reserve_fds(uint64_t wanted) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < wanted) {
        // Root may go beyond the hard limit; everybody else goes up to it.
        rlimit higher{wanted, std::max<rlim_t>(wanted, limit.rlim_max)};
        if (::setrlimit(RLIMIT_NOFILE, &higher) < 0) {
            higher = {limit.rlim_max, limit.rlim_max};
            ::setrlimit(RLIMIT_NOFILE, &higher);
        }
        ::getrlimit(RLIMIT_NOFILE, &limit);
    }
    const Fd any(::eventfd(0, EFD_CLOEXEC));
    const auto last = static_cast<int>(std::min<rlim_t>(limit.rlim_cur, wanted)) - 1;
    const Fd highest(::fcntl(any.get(), F_DUPFD_CLOEXEC, last));
}

uint64_t now_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000U + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace natrp::bench
