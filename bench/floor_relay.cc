// floor_relay: a bare splice relay. Two of them chained are the floor: what a tunnel of two processes costs
// when it does nothing but let the kernel move the bytes.
//
//     floor_relay --listen ADDR:PORT --to ADDR:PORT
//
// One thread, edge-triggered epoll, non-blocking sockets registered once, splice(2) until EAGAIN through
// pipes of 1 MiB that are borrowed while bytes are in flight. It carries half-close and resets, and it has
// nothing else: no timeouts, no limits, no names, no counters, no promises about memory. It prints one line,
// {"listening":"ADDRESS:PORT"}, and exits 0 on SIGTERM.

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "load_generator/flags.h"
#include "load_generator/json_object.h"
#include "load_generator/sockets.h"
#include "load_generator/stop_signal.h"
#include "pipe_shelf.h"

namespace natrp::bench {
namespace {

constexpr size_t kSpliceBytes = 1 << 20;
constexpr int kAcceptsPerTurn = 64;
// A direction that never runs dry comes back after the others had their turn.
constexpr int kRoundsPerTurn = 4;
constexpr uint64_t kFdsWanted = 200'000;

class Relay;

// One socket of a relay, as epoll hands it back, and what its edges have promised so far.
struct Side {
    Relay* relay = nullptr;
    Fd fd;
    bool readable = false;  // until a read finds it empty
    bool writable = false;  // until a write finds it full
    bool hung_up = false;   // a FIN or RST is queued behind the bytes: read on to the end

    void promise(uint32_t events) {
        const bool over = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
        readable = readable || over || (events & EPOLLIN) != 0;
        writable = writable || (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0;
        hung_up = hung_up || over;
    }
};

// One direction. Life: flowing -> source at eof, pipe not yet empty -> ended.
class Flow {
public:
    enum class Outcome { waits, goes_on, ended, broken };

    // Moves bytes until a socket has nothing to give or to take, the stream ended, or its turn is over.
    Outcome move(Side& from, Side& to, PipeShelf& shelf) {
        if (ended_) {
            return Outcome::ended;
        }
        Outcome outcome = Outcome::goes_on;
        for (int round = 0; round < kRoundsPerTurn && outcome == Outcome::goes_on; ++round) {
            outcome = move_once(from, to, shelf);
        }
        if (filled_ == 0 && pipe_) {
            shelf.give_back(std::move(pipe_));
        }
        return outcome;
    }

    bool ended() const { return ended_; }

private:
    Outcome move_once(Side& from, Side& to, PipeShelf& shelf) {
        if (from.readable && !eof_ && !read(from, shelf)) {
            return Outcome::broken;
        }
        while (filled_ > 0 && to.writable) {
            const ssize_t put = ::splice(pipe_->out.get(), nullptr, to.fd.get(), nullptr, filled_,
                                         SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
            if (put > 0) {
                filled_ -= static_cast<size_t>(put);
            } else if (put < 0 && errno == EAGAIN) {
                to.writable = false;
            } else if (put == 0 || errno != EINTR) {
                return Outcome::broken;
            }
        }
        if (filled_ > 0) {
            return Outcome::waits;
        }
        if (eof_) {
            ended_ = true;
            ::shutdown(to.fd.get(), SHUT_WR);
            return Outcome::ended;
        }
        return from.readable ? Outcome::goes_on : Outcome::waits;
    }

    bool read(Side& from, PipeShelf& shelf) {
        if (!pipe_) {
            pipe_ = shelf.take();
        }
        const ssize_t got = ::splice(from.fd.get(), nullptr, pipe_->in.get(), nullptr, kSpliceBytes,
                                     SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (got > 0) {
            filled_ += static_cast<size_t>(got);
            // A slot holds at least one byte, so fewer bytes than slots leave a slot free: it was the socket
            // that ended the move, and whatever comes later is a new edge. It saves the call that says
            // EAGAIN.
            from.readable = from.hung_up || filled_ >= pipe_->slots;
        } else if (got == 0) {
            eof_ = true;
        } else if (errno == EAGAIN) {
            // The socket is empty, or the pipe is full: only an empty pipe tells which.
            from.readable = filled_ > 0;
        } else if (errno != EINTR) {
            return false;
        }
        return true;
    }

    std::unique_ptr<Pipe> pipe_;
    size_t filled_ = 0;
    bool eof_ = false;
    bool ended_ = false;
};

class Relay {
public:
    Relay(Fd front, Fd back) : front_{this, std::move(front)}, back_{this, std::move(back)} {}

    Side& front() { return front_; }
    Side& back() { return back_; }

    enum class Next { sleep, again, close };
    Next advance(PipeShelf& shelf) {
        const auto up = up_.move(front_, back_, shelf);
        const auto down = down_.move(back_, front_, shelf);
        if (up == Flow::Outcome::broken || down == Flow::Outcome::broken) {
            reset_on_close(front_.fd.get());
            reset_on_close(back_.fd.get());
            return Next::close;
        }
        if (up_.ended() && down_.ended()) {
            return Next::close;
        }
        const bool again = up == Flow::Outcome::goes_on || down == Flow::Outcome::goes_on;
        return again ? Next::again : Next::sleep;
    }

    bool queued = false;

private:
    Side front_;
    Side back_;
    Flow up_;
    Flow down_;
};

class FloorRelay {
public:
    FloorRelay(const Address& listen, const Address& to, Fd stop)
        : to_(to), listener_(listen_on(listen, "")), epoll_(::epoll_create1(EPOLL_CLOEXEC)),
          stop_(std::move(stop)) {
        watch(listener_.get(), EPOLLIN, &listener_);
        watch(stop_.get(), EPOLLIN, &stop_);
    }

    std::string where() const { return format_address(local_address(listener_)); }

    void run() {
        std::array<epoll_event, 256> events;
        for (;;) {
            const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                                           again_.empty() ? -1 : 0);
            for (int i = 0; i < count; ++i) {
                void* const what = events[static_cast<size_t>(i)].data.ptr;
                if (what == &stop_) {
                    return;
                }
                if (what == &listener_) {
                    accept_some();
                } else {
                    Side& side = *static_cast<Side*>(what);
                    side.promise(events[static_cast<size_t>(i)].events);
                    enqueue(*side.relay);
                }
            }
            serve_queue();
        }
    }

private:
    void watch(int fd, uint32_t interest, void* what) const {
        epoll_event event{};
        event.events = interest;
        event.data.ptr = what;
        ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
    }

    void accept_some() {
        for (int i = 0; i < kAcceptsPerTurn; ++i) {
            Fd front(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
            if (!front) {
                return;
            }
            set_no_delay(front.get());
            Fd back = begin_connect(to_, 0, 0, "");
            if (!back) {
                reset_on_close(front.get());
                continue;
            }
            auto* relay = new Relay(std::move(front), std::move(back));
            constexpr uint32_t kEdges = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
            watch(relay->front().fd.get(), kEdges, &relay->front());
            watch(relay->back().fd.get(), kEdges, &relay->back());
        }
    }

    // Both sockets of a relay may be in one batch of events: it is served once.
    void enqueue(Relay& relay) {
        if (!relay.queued) {
            relay.queued = true;
            again_.push_back(&relay);
        }
    }

    void serve_queue() {
        std::swap(again_, turn_);
        for (Relay* relay : turn_) {
            relay->queued = false;
            switch (relay->advance(shelf_)) {
                case Relay::Next::sleep:
                    break;
                case Relay::Next::again:
                    enqueue(*relay);
                    break;
                case Relay::Next::close:
                    delete relay;  // the batch that named it is behind us: nothing else points to it
                    break;
            }
        }
        turn_.clear();
    }

    Address to_;
    Fd listener_;
    Fd epoll_;
    Fd stop_;
    PipeShelf shelf_;
    std::vector<Relay*> again_;
    std::vector<Relay*> turn_;
};

}  // namespace
}  // namespace natrp::bench

int main(int argc, char** argv) {
    using namespace natrp::bench;
    Flags flags(argc, argv, 1);
    const Address listen = parse_address(flags.required("listen"));
    const Address to = parse_address(flags.required("to"));
    flags.reject_unknown();

    reserve_fds(kFdsWanted);
    ::signal(SIGPIPE, SIG_IGN);
    FloorRelay relay(listen, to, watch_stop_signals());
    JsonObject().text("listening", relay.where()).print();
    relay.run();
    return 0;
}
