// delay_relay: a TCP relay that hands on every byte a fixed time after it came, each way. It stands in for a
// long line where the kernel has no netem.
//
//     delay_relay --listen ADDR:PORT --to ADDR:PORT [--delay-ms 25] [--gbps 10] [--cc cubic]
//
// What it models: the time that bytes, FINs, resets and the opening of a conn take; and, with --gbps, the rate
// of the line, which all conns share, each direction for itself. What it does not: the handshake, the
// acknowledgements and the windows of TCP end here, at once, on both sides; nothing is lost or reordered. A
// sender is therefore never stopped by a window that is too small for the line, only by the bounds below.
//
// Bytes wait in pipes, moved by splice(2) and never copied, so that the relay costs about as much as
// floor_relay. Bounds: kHeldBytesMax per direction of a conn (20 Gb/s for 25 ms is 63 MB), and a line for which
// more than kQueueMostNs of bytes wait, beyond which it does not read; and kPipesMax pipes over all, beyond
// which it gives up, since it would be what is measured. Dues are exact to the time that this one thread takes
// to come to them. It prints one line, {"listening":"ADDRESS:PORT"}, and exits 0 on SIGTERM.

#include <fcntl.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "load_generator/flags.h"
#include "load_generator/json_object.h"
#include "load_generator/ready_loop.h"
#include "load_generator/sockets.h"
#include "load_generator/stop_signal.h"
#include "pipe_shelf.h"

namespace natrp::bench {
namespace {

constexpr size_t kSpliceBytes = 1 << 20;
constexpr size_t kHeldBytesMax = 128 << 20;
constexpr size_t kPipesMax = 4096;
constexpr int kAcceptsPerTurn = 64;
constexpr int kReadsPerTurn = 4;
// A line with a rate: what one conn hands over before the next has its turn; and how much waits to go onto the
// line, as time: it is full at the one, and read for again at the other.
constexpr size_t kShareBytes = 64 << 10;
constexpr uint64_t kQueueMostNs = 10'000'000;
constexpr uint64_t kQueueLeastNs = 5'000'000;
constexpr uint64_t kFdsWanted = 200'000;

class Relay;

// What comes due.
struct Due {
    enum class What { dial, bytes, eof, reset };
    uint64_t at_ns;
    Relay* relay;
    What what;
    bool up;
    size_t bytes;
};

// One direction. Bytes are read (held) -> due (released) -> written. Never touches a clock.
class Line {
public:
    enum class Outcome { ok, blocked, eof, broken };

    // Moves what the socket has into the pipes, at most about `most`; `moved` of it, whatever the outcome.
    Outcome read(int from, PipeShelf& shelf, size_t most, size_t& moved) {
        moved = 0;
        for (int i = 0; i < kReadsPerTurn; ++i) {
            if (held_ >= kHeldBytesMax || moved >= most) {
                return Outcome::ok;
            }
            if (tail_full_ || parts_.empty()) {
                parts_.push_back({shelf.take()});
                tail_full_ = false;
            }
            Part& part = parts_.back();
            const ssize_t got = ::splice(from, nullptr, part.pipe->in.get(), nullptr,
                                         std::min(most - moved, kSpliceBytes), SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
            if (got > 0) {
                part.filled += static_cast<size_t>(got);
                held_ += static_cast<size_t>(got);
                moved += static_cast<size_t>(got);
                continue;
            }
            const int error = errno;
            // The socket is empty, or the pipe is full: only an empty pipe tells which.
            tail_full_ = got < 0 && error == EAGAIN && part.filled > 0;
            if (part.filled == 0) {
                shelf.give_back(std::move(part.pipe));
                parts_.pop_back();
            }
            if (got == 0) {
                return Outcome::eof;
            }
            if (error != EAGAIN && error != EINTR) {
                return Outcome::broken;
            }
            if (!tail_full_) {
                return Outcome::ok;
            }
        }
        return Outcome::ok;
    }

    void release(size_t bytes) { released_ += bytes; }

    Outcome write(int to, PipeShelf& shelf) {
        while (released_ > 0) {
            Part& part = parts_.front();
            const ssize_t put = ::splice(part.pipe->out.get(), nullptr, to, nullptr, std::min(released_, part.filled),
                                         SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
            if (put < 0 && errno == EINTR) {
                continue;
            }
            if (put <= 0) {
                return put < 0 && errno == EAGAIN ? Outcome::blocked : Outcome::broken;
            }
            part.filled -= static_cast<size_t>(put);
            held_ -= static_cast<size_t>(put);
            released_ -= static_cast<size_t>(put);
            if (part.filled == 0) {
                tail_full_ = tail_full_ && parts_.size() > 1;
                shelf.give_back(std::move(part.pipe));
                parts_.pop_front();
            }
        }
        return Outcome::ok;
    }

    void drop(PipeShelf& shelf) {
        for (Part& part : parts_) {
            shelf.drop(std::move(part.pipe));
        }
        parts_.clear();
    }

    bool has_room() const { return held_ < kHeldBytesMax; }
    size_t held() const { return held_; }

    bool eof_read = false;  // and waiting to be due
    bool eof_due = false;
    bool ended = false;  // the other side has its FIN

private:
    struct Part {
        std::unique_ptr<Pipe> pipe;
        size_t filled = 0;
    };
    std::deque<Part> parts_;
    size_t held_ = 0;
    size_t released_ = 0;
    bool tail_full_ = false;
};

// One direction of the line itself, which all relays share: what is on its way, and when the next byte may go
// onto it. All are on their way equally long, so the order of coming is the order of leaving.
class Wire {
public:
    Wire(uint64_t delay_ns, double ns_per_byte) : delay_ns_(delay_ns), ns_per_byte_(ns_per_byte) {}

    void put(Relay& relay, Due::What what, bool up, size_t bytes) {
        const uint64_t now = now_ns();
        const auto takes_ns = static_cast<uint64_t>(static_cast<double>(bytes) * ns_per_byte_);
        free_at_ns_ = std::max(free_at_ns_, now) + takes_ns;
        queue_.push_back({free_at_ns_ + delay_ns_, &relay, what, up, bytes});
        full_ = has_rate() && free_at_ns_ > now + kQueueMostNs;
    }
    bool has_due(uint64_t now) const { return !queue_.empty() && queue_.front().at_ns <= now; }
    Due take() {
        const Due due = queue_.front();
        queue_.pop_front();
        return due;
    }

    size_t share() const { return has_rate() ? kShareBytes : kReadsPerTurn * kSpliceBytes; }
    bool full() const { return full_; }
    // True: it was full, and is not any more.
    bool drained(uint64_t now) {
        if (!full_ || now < reopens_at_ns()) {
            return false;
        }
        full_ = false;
        return true;
    }
    // When to look again.
    uint64_t next_ns() const {
        const uint64_t due = queue_.empty() ? UINT64_MAX : queue_.front().at_ns;
        return full_ ? std::min(due, reopens_at_ns()) : due;
    }

private:
    bool has_rate() const { return ns_per_byte_ > 0; }
    uint64_t reopens_at_ns() const { return free_at_ns_ - kQueueLeastNs; }

    uint64_t delay_ns_;
    double ns_per_byte_;
    uint64_t free_at_ns_ = 0;
    bool full_ = false;
    std::deque<Due> queue_;
};

class DelayRelay;

// One socket of a relay.
struct Side final : ReadyHandler {
    Side(Relay& its_relay, bool front) : relay(its_relay), is_front(front) {}
    void on_ready(uint32_t events) override;

    Relay& relay;
    const bool is_front;
    Fd fd;
    uint32_t wanted = 0;
    bool watched = false;
};

// A conn that came and the one that it goes on to.
// Life: accepted -> dialled when due -> flowing -> both ended, or reset -> over; swept when nothing that
// waits in the queue names it.
class Relay {
public:
    Relay(DelayRelay& owner, Fd front_fd) : owner_(owner), front_(*this, true), back_(*this, false) {
        front_.fd = std::move(front_fd);
    }

    void start();
    void on_due(const Due& due);
    void on_side_ready(Side& side, uint32_t events);

    bool may_be_swept() const { return over_ && waiting_ == 0; }
    void update();

private:
    void queue(Due::What what, bool up, size_t bytes);
    void read(bool up);
    void write(bool up);
    void finish(bool reset);
    void watch(Side& side, bool watched, uint32_t events);

    Line& line(bool up) { return up ? up_ : down_; }
    Side& source(bool up) { return up ? front_ : back_; }
    Side& sink(bool up) { return up ? back_ : front_; }

    DelayRelay& owner_;
    Side front_;
    Side back_;
    Line up_;
    Line down_;
    size_t waiting_ = 0;  // entries of the queue that name this
    bool blocked_up_ = false;
    bool blocked_down_ = false;
    bool reset_waits_ = false;
    bool over_ = false;
};

class DelayRelay final : public ReadyHandler {
public:
    DelayRelay(const Address& listen, const Address& to, const Wire& wire, std::string congestion)
        : to_(to),
          up_(wire),
          down_(wire),
          congestion_(std::move(congestion)),
          listener_(listen_on(listen, congestion_)) {
        loop_.add(listener_.get(), *this, EPOLLIN);
    }

    std::string where() const { return format_address(local_address(listener_)); }

    void run(int stop_fd) {
        struct Stop final : ReadyHandler {
            void on_ready(uint32_t) override { raised = true; }
            bool raised = false;
        } stop;
        loop_.add(stop_fd, stop, EPOLLIN);
        while (!stop.raised) {
            const uint64_t next = std::min(up_.next_ns(), down_.next_ns());
            const uint64_t asked = now_ns();
            loop_.wait(next == UINT64_MAX ? ReadyLoop::kForever : next > asked ? next - asked : 0);
            const uint64_t now = now_ns();
            for (Wire* wire : {&up_, &down_}) {
                while (wire->has_due(now)) {
                    const Due due = wire->take();
                    due.relay->on_due(due);
                }
                if (wire->drained(now)) {
                    for (const auto& relay : relays_) {
                        relay->update();
                    }
                }
            }
            std::erase_if(relays_, [](const auto& relay) { return relay->may_be_swept(); });
        }
    }

    void on_ready(uint32_t) override {
        for (int i = 0; i < kAcceptsPerTurn; ++i) {
            Fd front(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
            if (!front) {
                return;
            }
            set_no_delay(front.get());
            relays_.push_back(std::make_unique<Relay>(*this, std::move(front)));
            relays_.back()->start();
        }
    }

    Wire& wire(bool up) { return up ? up_ : down_; }
    Fd dial() { return begin_connect(to_, 0, 0, congestion_); }
    ReadyLoop& loop() { return loop_; }
    PipeShelf& shelf() { return shelf_; }

private:
    Address to_;
    Wire up_;
    Wire down_;
    std::string congestion_;
    Fd listener_;
    ReadyLoop loop_;
    PipeShelf shelf_{kPipesMax};
    std::vector<std::unique_ptr<Relay>> relays_;
};

void Side::on_ready(uint32_t events) {
    relay.on_side_ready(*this, events);
}

void Relay::start() {
    queue(Due::What::dial, true, 0);
    update();
}

void Relay::queue(Due::What what, bool up, size_t bytes) {
    ++waiting_;
    owner_.wire(up).put(*this, what, up, bytes);
}

void Relay::on_due(const Due& due) {
    --waiting_;
    if (over_) {
        return;
    }
    switch (due.what) {
        case Due::What::dial:
            back_.fd = owner_.dial();
            if (!back_.fd) {
                return finish(true);
            }
            break;
        case Due::What::bytes:
            line(due.up).release(due.bytes);
            write(due.up);
            break;
        case Due::What::eof:
            line(due.up).eof_due = true;
            write(due.up);
            break;
        case Due::What::reset:
            return finish(true);
    }
    update();
}

void Relay::on_side_ready(Side& side, uint32_t events) {
    if (over_) {
        return;  // ended earlier in this batch of events
    }
    if ((events & EPOLLOUT) != 0) {
        write(!side.is_front);
    }
    // A socket that is broken tells so again and again until it is read.
    const bool broken = (events & (EPOLLERR | EPOLLHUP)) != 0;
    if (!over_ && (broken || ((events & EPOLLIN) != 0 && !owner_.wire(side.is_front).full()))) {
        read(side.is_front);
    }
    update();
}

void Relay::read(bool up) {
    Line& from = line(up);
    Line::Outcome outcome = Line::Outcome::broken;  // an error behind the FIN
    size_t moved = 0;
    if (!from.eof_read) {
        outcome = from.read(source(up).fd.get(), owner_.shelf(), owner_.wire(up).share(), moved);
    }
    if (moved > 0) {
        queue(Due::What::bytes, up, moved);
    }
    if (outcome == Line::Outcome::eof) {
        from.eof_read = true;
        queue(Due::What::eof, up, 0);
    } else if (outcome == Line::Outcome::broken) {
        from.eof_read = true;
        reset_waits_ = true;
        queue(Due::What::reset, up, 0);
    }
}

void Relay::write(bool up) {
    Line& to = line(up);
    const Line::Outcome outcome = to.write(sink(up).fd.get(), owner_.shelf());
    (up ? blocked_up_ : blocked_down_) = outcome == Line::Outcome::blocked;
    if (outcome == Line::Outcome::broken) {
        return finish(true);
    }
    if (to.eof_due && to.held() == 0 && !to.ended) {
        to.ended = true;
        ::shutdown(sink(up).fd.get(), SHUT_WR);
        if (up_.ended && down_.ended) {
            finish(false);
        }
    }
}

void Relay::finish(bool reset) {
    over_ = true;
    for (Side* side : {&front_, &back_}) {
        if (side->fd && reset) {
            reset_on_close(side->fd.get());
        }
        side->fd.reset();
    }
    up_.drop(owner_.shelf());
    down_.drop(owner_.shelf());
}

// What epoll shall tell: bytes while there is room for them, room while bytes are due.
void Relay::update() {
    if (over_) {
        return;
    }
    for (const bool up : {true, false}) {
        Side& side = source(up);
        const bool reads = !line(up).eof_read && line(up).has_room() && !owner_.wire(up).full();
        const bool writes = up ? blocked_down_ : blocked_up_;
        // A socket that is broken, or done with both ways, tells so again and again.
        const bool done = reset_waits_ || (line(up).eof_read && line(!up).ended);
        watch(side, !done, (reads ? EPOLLIN : 0U) | (writes ? EPOLLOUT : 0U));
    }
}

void Relay::watch(Side& side, bool watched, uint32_t events) {
    if (!side.fd) {
        return;
    }
    if (watched && !side.watched) {
        owner_.loop().add(side.fd.get(), side, events);
    } else if (!watched && side.watched) {
        owner_.loop().remove(side.fd.get());
    } else if (watched && side.wanted != events) {
        owner_.loop().change(side.fd.get(), side, events);
    }
    side.watched = watched;
    side.wanted = events;
}

}  // namespace
}  // namespace natrp::bench

int main(int argc, char** argv) {
    using namespace natrp::bench;
    Flags flags(argc, argv, 1);
    const Address listen = parse_address(flags.required("listen"));
    const Address to = parse_address(flags.required("to"));
    const double delay_ms = flags.number("delay-ms", 25, 0, 1000);
    const double gbps = flags.number("gbps", 0, 0, 400);  // 0: no rate
    const std::string congestion = flags.text("cc", "");
    flags.reject_unknown();

    reserve_fds(kFdsWanted);
    ::signal(SIGPIPE, SIG_IGN);
    const Fd stop = watch_stop_signals();

    DelayRelay relay(listen, to, Wire(static_cast<uint64_t>(delay_ms * 1e6), gbps > 0 ? 8 / gbps : 0), congestion);
    JsonObject().text("listening", relay.where()).print();
    relay.run(stop.get());
    return 0;
}
