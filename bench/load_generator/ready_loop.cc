#include "ready_loop.h"

#include <time.h>

#include <cerrno>
#include <cstring>

#include "flags.h"

namespace natrp::bench {

ReadyLoop::ReadyLoop() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {}

void ReadyLoop::control(int how, int fd, ReadyHandler* handler, uint32_t events) {
    epoll_event event{};
    event.events = events;
    event.data.ptr = handler;
    if (::epoll_ctl(epoll_.get(), how, fd, &event) < 0) {
        refuse(std::string("epoll_ctl failed: ") + std::strerror(errno));
    }
}

void ReadyLoop::add(int fd, ReadyHandler& handler, uint32_t events) {
    control(EPOLL_CTL_ADD, fd, &handler, events);
}

void ReadyLoop::change(int fd, ReadyHandler& handler, uint32_t events) {
    control(EPOLL_CTL_MOD, fd, &handler, events);
}

void ReadyLoop::remove(int fd) {
    control(EPOLL_CTL_DEL, fd, nullptr, 0);
}

int ReadyLoop::wait(uint64_t timeout_ns) {
    timespec timeout{};
    timeout.tv_sec = static_cast<time_t>(timeout_ns / 1'000'000'000U);
    timeout.tv_nsec = static_cast<long>(timeout_ns % 1'000'000'000U);
    const int count = ::epoll_pwait2(epoll_.get(), ready_.data(), static_cast<int>(ready_.size()),
                                     timeout_ns == kForever ? nullptr : &timeout, nullptr);
    for (int i = 0; i < count; ++i) {
        static_cast<ReadyHandler*>(ready_[static_cast<size_t>(i)].data.ptr)
            ->on_ready(ready_[static_cast<size_t>(i)].events);
    }
    return count < 0 ? 0 : count;
}

}  // namespace natrp::bench
