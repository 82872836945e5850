#pragma once
// The few socket calls that every bench tool needs: an owned descriptor, a parsed address, listen, connect.
// Any thread may call them; nothing here keeps state.

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <utility>

namespace natrp::bench {

// Owned: closes its descriptor. -1 when empty.
class Fd {
public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}
    Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd& operator=(Fd&& other) noexcept {
        if (this != &other) {
            reset();
            fd_ = std::exchange(other.fd_, -1);
        }
        return *this;
    }
    Fd(const Fd&) = delete;
    Fd& operator=(const Fd&) = delete;
    ~Fd() { reset(); }

    int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }
    int release() { return std::exchange(fd_, -1); }
    void reset();

private:
    int fd_ = -1;
};

struct Address {
    sockaddr_storage storage{};
    socklen_t length = 0;
};

// "127.0.0.1:80" or "[::1]:80", numbers only. Ends the program with a sentence when it cannot be read.
Address parse_address(const std::string& text);
std::string format_address(const Address& address);

// A non-blocking listener with SO_REUSEADDR. `congestion` is inherited by what it accepts; empty means the
// system's. Ends the program with a sentence when the address cannot be had.
Fd listen_on(const Address& address, const std::string& congestion);
// The address that a listener really has (its port may have been asked as 0).
Address local_address(const Fd& fd);

// Begins a non-blocking connect with TCP_NODELAY. For a target in 127/8 the visitor comes from one of
// `sources` addresses 127.0.x.y, chosen by `index`, and the kernel picks the port at connect
// (IP_BIND_ADDRESS_NO_PORT), so that one address pair's 28,000 ephemeral ports are no bound. An empty Fd and
// errno on failure.
Fd begin_connect(const Address& target, uint64_t index, uint32_t sources, const std::string& congestion);
// 0, or the errno with which the connect ended.
int connect_result(int fd);

// close() will then send RST and leave no TIME_WAIT behind.
void reset_on_close(int fd);
void set_no_delay(int fd);

// Raises RLIMIT_NOFILE as far as this process may, and gives so many descriptors their places in the kernel's table.
// Call before other threads start: from then on the table grows behind an RCU grace period, some 10 ms in which a
// service accepts nobody, and that would be everybody's first burst.
void reserve_fds(uint64_t wanted);

uint64_t now_ns();

}  // namespace natrp::bench
