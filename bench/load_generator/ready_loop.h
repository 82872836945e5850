#pragma once
// ReadyLoop: epoll, and who is to be told.
//
// Life: made -> add() handlers, wait() again and again -> destroyed. One thread waits; another thread may
// add() (the kernel orders it), nothing else. A handler may close its own descriptor inside on_ready(), never
// that of another handler: an event of the same batch may already name it.

#include <sys/epoll.h>

#include <array>
#include <cstdint>

#include "sockets.h"

namespace natrp::bench {

class ReadyHandler {
public:
    virtual ~ReadyHandler() = default;
    // `events` as epoll gives them.
    virtual void on_ready(uint32_t events) = 0;
};

class ReadyLoop {
public:
    static constexpr uint64_t kForever = UINT64_MAX;

    ReadyLoop();

    void add(int fd, ReadyHandler& handler, uint32_t events);
    void change(int fd, ReadyHandler& handler, uint32_t events);
    void remove(int fd);

    // Waits at most `timeout_ns` and tells every handler that is ready. Returns how many were told.
    int wait(uint64_t timeout_ns);

private:
    void control(int how, int fd, ReadyHandler* handler, uint32_t events);

    Fd epoll_;
    std::array<epoll_event, 256> ready_{};
};

}  // namespace natrp::bench
