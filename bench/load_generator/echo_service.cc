// echo_service: the service at the far end of every contestant.
//
//     echo_service --listen 127.0.0.1:0 [--cc cubic]
//
// It prints one line, {"listening":"ADDRESS:PORT"}, and serves until SIGTERM. The first byte of a conn
// chooses its role:
//
//   'E'  every byte is sent back, that first one included;
//   'B'  bulk: a BulkRequest (block_stream.h), then a row of blocks in either or both directions, then a
//        verdict on what was received.
//
// One thread accepts and echoes. Bulk conns move once, at their first bytes, to a second thread, so that an
// exchange never waits behind a quarter of a megabyte of somebody else's bytes: what is measured is the
// tunnel, not this.

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "block_stream.h"
#include "flags.h"
#include "json_object.h"
#include "ready_loop.h"
#include "sockets.h"
#include "stop_signal.h"

namespace natrp::bench {
namespace {

constexpr size_t kBufferBytes = 256 * 1024;
constexpr int kAcceptsPerTurn = 64;
constexpr uint64_t kFdsWanted = 200'000;

bool try_again(int error) {
    return error == EAGAIN || error == EINTR;
}

// One bulk conn in the bulk thread. Life: request -> blocks -> verdict -> eof -> deleted by itself.
class BulkConn final : public ReadyHandler {
public:
    BulkConn(Fd fd, std::string_view first_bytes, std::vector<char>& buffer)
        : fd_(std::move(fd)), first_bytes_(first_bytes), buffer_(buffer) {}

    // Gives the conn to the thread of `loop`; not to be touched by the caller afterwards.
    static void start(std::unique_ptr<BulkConn> conn, ReadyLoop& loop) {
        conn->loop_ = &loop;
        const int fd = conn->fd_.get();
        loop.add(fd, *conn.release(), EPOLLIN | EPOLLOUT);
    }

    void on_ready(uint32_t events) override {
        bool alive = true;
        if (!first_bytes_.empty()) {
            const std::string first = std::exchange(first_bytes_, {});
            alive = take(first.data(), first.size());
        }
        if (alive && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
            alive = receive();
        }
        if (alive) {
            alive = transmit();
        }
        if (!alive) {
            delete this;
        }
    }

private:
    bool receive() {
        const ssize_t got = ::recv(fd_.get(), buffer_.data(), buffer_.size(), 0);
        if (got < 0) {
            return try_again(errno);
        }
        return got > 0 && take(buffer_.data(), static_cast<size_t>(got));
    }

    bool take(const char* data, size_t size) {
        if (request_bytes_ < sizeof request_) {
            const size_t part = std::min(sizeof request_ - request_bytes_, size);
            std::memcpy(reinterpret_cast<char*>(&request_) + request_bytes_, data, part);
            request_bytes_ += part;
            data += part;
            size -= part;
            if (request_bytes_ < sizeof request_) {
                return true;
            }
            ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), std::min<int>(request_.nice, 19));
            reader_ = BlockReader(static_cast<Verify>(std::min<uint8_t>(request_.verify, 2)));
            writer_ = BlockWriter(request_.down_limit_bytes);
            if (request_.wants_down == 0) {
                writer_.finish();
            }
        }
        reader_.consume(data, size);
        if (reader_.done() && request_.down_limit_bytes == 0) {
            writer_.finish();
        }
        return true;
    }

    // Sends what is due, and asks for EPOLLOUT exactly while something is.
    bool transmit() {
        bool due = false;
        const bool asked = request_bytes_ == sizeof request_;
        const bool may_send = asked && (request_.wants_down != 0 || reader_.done());
        if (may_send && !writer_.done()) {
            if (writer_.write(fd_.get()) == WriteResult::broken) {
                return false;
            }
            due = true;
        } else if (may_send && reader_.done() && verdict_sent_ < sizeof verdict_) {
            verdict_.payload_bytes = reader_.payload_bytes();
            verdict_.errors = reader_.errors();
            const ssize_t sent = ::send(fd_.get(), reinterpret_cast<const char*>(&verdict_) + verdict_sent_,
                                        sizeof verdict_ - verdict_sent_, MSG_NOSIGNAL);
            if (sent < 0 && !try_again(errno)) {
                return false;
            }
            verdict_sent_ += sent > 0 ? static_cast<size_t>(sent) : 0;
            due = verdict_sent_ < sizeof verdict_;
        }
        if (due != wants_out_) {
            wants_out_ = due;
            loop_->change(fd_.get(), *this, due ? EPOLLIN | EPOLLOUT : EPOLLIN);
        }
        return true;
    }

    Fd fd_;
    std::string first_bytes_;
    std::vector<char>& buffer_;
    ReadyLoop* loop_ = nullptr;
    BulkRequest request_{};
    size_t request_bytes_ = 0;
    BlockReader reader_{Verify::off};
    BlockWriter writer_{0};
    BulkVerdict verdict_;
    size_t verdict_sent_ = 0;
    bool wants_out_ = true;
};

// The thread that serves bulk conns, and the buffer they share.
class BulkThread {
public:
    BulkThread() : buffer_(kBufferBytes), thread_([this] { run(); }) {}
    // The process ends with it: whatever it serves is of no more interest.
    ~BulkThread() { thread_.detach(); }

    void serve(Fd fd, std::string_view first_bytes) {
        BulkConn::start(std::make_unique<BulkConn>(std::move(fd), first_bytes, buffer_), loop_);
    }

private:
    [[noreturn]] void run() {
        for (;;) {
            loop_.wait(ReadyLoop::kForever);
        }
    }

    ReadyLoop loop_;
    std::vector<char> buffer_;
    std::thread thread_;
};

struct Service {
    ReadyLoop loop;
    std::vector<char> buffer = std::vector<char>(kBufferBytes);
    BulkThread bulk;
};

// One conn in the accepting thread. Life: first byte -> echo until eof -> deleted by itself, or handed on.
class EchoConn final : public ReadyHandler {
public:
    EchoConn(Fd fd, Service& service) : fd_(std::move(fd)), service_(service) {
        service_.loop.add(fd_.get(), *this, EPOLLIN);
    }

    void on_ready(uint32_t events) override {
        const bool alive = (events & EPOLLOUT) != 0 ? flush() : receive();
        if (!alive) {
            delete this;
        }
    }

private:
    bool receive() {
        std::vector<char>& buffer = service_.buffer;
        const ssize_t got = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
        if (got <= 0) {
            return got < 0 && try_again(errno);
        }
        const std::string_view bytes(buffer.data(), static_cast<size_t>(got));
        if (!role_known_) {
            role_known_ = true;
            if (bytes.front() == 'B') {
                service_.loop.remove(fd_.get());
                service_.bulk.serve(std::move(fd_), bytes);
                return false;
            }
            if (bytes.front() != 'E') {
                reset_on_close(fd_.get());
                return false;
            }
        }
        ssize_t sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent < 0) {
            if (!try_again(errno)) {
                return false;
            }
            sent = 0;
        }
        if (static_cast<size_t>(sent) < bytes.size()) {
            pending_ = bytes.substr(static_cast<size_t>(sent));
            service_.loop.change(fd_.get(), *this, EPOLLOUT);
        }
        return true;
    }

    bool flush() {
        const ssize_t sent = ::send(fd_.get(), pending_.data(), pending_.size(), MSG_NOSIGNAL);
        if (sent < 0) {
            return try_again(errno);
        }
        pending_.erase(0, static_cast<size_t>(sent));
        if (pending_.empty()) {
            service_.loop.change(fd_.get(), *this, EPOLLIN);
        }
        return true;
    }

    Fd fd_;
    Service& service_;
    bool role_known_ = false;
    std::string pending_;  // echoed bytes the socket did not take; nothing is read meanwhile
};

class Listener final : public ReadyHandler {
public:
    Listener(Fd fd, Service& service) : fd_(std::move(fd)), service_(service) {
        service_.loop.add(fd_.get(), *this, EPOLLIN);
    }

    void on_ready(uint32_t) override {
        for (int i = 0; i < kAcceptsPerTurn; ++i) {
            Fd conn(::accept4(fd_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
            if (!conn) {
                return;
            }
            set_no_delay(conn.get());
            new EchoConn(std::move(conn), service_);  // owns itself
        }
    }

private:
    Fd fd_;
    Service& service_;
};

// The signals to stop, as something that the loop waits for.
class StopSignal final : public ReadyHandler {
public:
    StopSignal(ReadyLoop& loop, Fd fd) : fd_(std::move(fd)) {
        loop.add(fd_.get(), *this, EPOLLIN);
    }
    void on_ready(uint32_t) override { raised_ = true; }
    bool raised() const { return raised_; }

private:
    Fd fd_;
    bool raised_ = false;
};

int run(int argc, char** argv) {
    Flags flags(argc, argv, 1);
    const Address address = parse_address(flags.required("listen"));
    const std::string congestion = flags.text("cc", "");
    flags.reject_unknown();

    reserve_fds(kFdsWanted);
    Fd stop_signals = watch_stop_signals();
    Service service;
    StopSignal stop_signal(service.loop, std::move(stop_signals));
    Fd listener_fd = listen_on(address, congestion);
    const std::string where = format_address(local_address(listener_fd));
    Listener listener(std::move(listener_fd), service);
    JsonObject().text("listening", where).print();

    while (!stop_signal.raised()) {
        service.loop.wait(ReadyLoop::kForever);
    }
    // The conns own themselves and the bulk thread may be in the middle of one: leave them to the kernel.
    std::_Exit(0);
}

}  // namespace
}  // namespace natrp::bench

int main(int argc, char** argv) {
    return natrp::bench::run(argc, argv);
}
