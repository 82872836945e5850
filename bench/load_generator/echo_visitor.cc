#include "echo_visitor.h"

#include <array>
#include <cerrno>
#include <cstring>

#include "pattern.h"

namespace natrp::bench {
namespace {

constexpr size_t kReceiveBytes = 64 * 1024;

// Shared by all visitors of a thread: nothing stays in it from one call to the next.
std::array<char, kReceiveBytes>& receive_buffer() {
    static thread_local std::array<char, kReceiveBytes> buffer;
    return buffer;
}

}  // namespace

void EchoVisitor::open(uint64_t turn) {
    opened_at_ns_ = now_ns();
    fd_ = begin_connect(target_.address, turn, target_.sources, target_.congestion);
    if (!fd_) {
        fail(std::string("connect: ") + std::strerror(errno));
        return;
    }
    state_ = State::connecting;
    // Edge-triggered and registered once: no epoll_ctl between connect and close.
    loop_.add(fd_.get(), *this, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
}

void EchoVisitor::send(size_t bytes) {
    message_ = Pattern::get().slice(number_ * 7 + exchanges_++);
    size_ = bytes;
    sent_ = 0;
    received_ = 0;
    state_ = State::busy;
    sent_at_ns_ = now_ns();
    push();
}

void EchoVisitor::close(CloseBy how) {
    if (how == CloseBy::rst && fd_) {
        reset_on_close(fd_.get());
    }
    fd_.reset();
    state_ = State::closed;
}

void EchoVisitor::fail(const std::string& reason) {
    close(CloseBy::rst);
    owner_.on_failed(*this, reason);
}

bool EchoVisitor::push() {
    while (sent_ < size_) {
        const ssize_t sent = ::send(fd_.get(), message_ + sent_, size_ - sent_, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN || errno == EINTR) {
                return true;
            }
            fail(std::string("send: ") + std::strerror(errno));
            return false;
        }
        sent_ += static_cast<size_t>(sent);
    }
    return true;
}

// Reads until the message is complete or the socket is empty. False when the conn is gone.
bool EchoVisitor::pull() {
    auto& buffer = receive_buffer();
    while (received_ < size_) {
        // One byte more than expected may be asked for: a service that says too much is noticed at once.
        const size_t wanted = std::min(size_ - received_ + 1, buffer.size());
        const ssize_t got = ::recv(fd_.get(), buffer.data(), wanted, 0);
        if (got < 0) {
            if (errno == EAGAIN || errno == EINTR) {
                return true;
            }
            fail(std::string("receive: ") + std::strerror(errno));
            return false;
        }
        if (got == 0) {
            fail("ended before the reply was complete");
            return false;
        }
        const auto bytes = static_cast<size_t>(got);
        if (bytes > size_ - received_ || std::memcmp(buffer.data(), message_ + received_, bytes) != 0) {
            fail("the reply differs from what was sent");
            return false;
        }
        received_ += bytes;
    }
    return true;
}

void EchoVisitor::on_ready(uint32_t events) {
    if (state_ == State::connecting) {
        const int error = (events & (EPOLLERR | EPOLLHUP)) != 0 ? connect_result(fd_.get()) : 0;
        if (error != 0) {
            fail(std::string("connect: ") + std::strerror(error));
            return;
        }
        if ((events & EPOLLOUT) == 0) {
            return;
        }
        state_ = State::idle;
        owner_.on_connected(*this);
        return;
    }
    if (state_ == State::busy) {
        if (!push() || !pull()) {
            return;
        }
        if (received_ == size_) {
            replied_at_ns_ = now_ns();
            state_ = State::idle;
            owner_.on_reply(*this);
        }
        return;
    }
    if (state_ == State::idle && (events & (EPOLLRDHUP | EPOLLERR | EPOLLHUP)) != 0) {
        fail("closed from the other end while idle");
    }
}

}  // namespace natrp::bench
