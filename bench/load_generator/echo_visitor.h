#pragma once
// EchoVisitor: one visitor that sends messages and expects each of them back, byte for byte.
//
// Life: closed -> connecting -> idle <-> busy -> closed, and again. One thread, that of its loop. It never
// sends a second message before the first has come back, and never closes by itself: it tells its owner, who decides.

#include <cstdint>
#include <string>

#include "ready_loop.h"
#include "sockets.h"

namespace natrp::bench {

// Where visitors go and where they come from.
struct Target {
    Address address;
    uint32_t sources = 64;   // source addresses in 127/8; 0: the kernel's choice
    std::string congestion;  // empty: the system's
};

enum class CloseBy { fin, rst };

class EchoVisitor final : public ReadyHandler {
public:
    class Owner {
    public:
        virtual void on_connected(EchoVisitor& visitor) = 0;
        // The whole message is back and was right.
        virtual void on_reply(EchoVisitor& visitor) = 0;
        // Refused, reset, ended early or answered wrongly; the conn is closed already.
        virtual void on_failed(EchoVisitor& visitor, const std::string& reason) = 0;

    protected:
        ~Owner() = default;
    };

    EchoVisitor(ReadyLoop& loop, const Target& target, Owner& owner, uint64_t number)
        : loop_(loop), target_(target), owner_(owner), number_(number) {}

    // Precondition: closed. `turn` chooses the source address. A failure may be told before this returns.
    void open(uint64_t turn);
    // Precondition: idle. At most kSliceBytes. A failure may be told before this returns.
    void send(size_t bytes);
    void close(CloseBy how);

    bool is_closed() const { return state_ == State::closed; }
    bool is_idle() const { return state_ == State::idle; }
    uint64_t number() const { return number_; }
    uint64_t opened_at_ns() const { return opened_at_ns_; }
    uint64_t sent_at_ns() const { return sent_at_ns_; }
    // When the reply to the latest message was complete.
    uint64_t replied_at_ns() const { return replied_at_ns_; }

    void on_ready(uint32_t events) override;

private:
    enum class State { closed, connecting, idle, busy };

    void fail(const std::string& reason);
    bool push();
    bool pull();

    ReadyLoop& loop_;
    const Target& target_;
    Owner& owner_;
    uint64_t number_;
    Fd fd_;
    State state_ = State::closed;
    uint64_t exchanges_ = 0;
    const char* message_ = nullptr;
    size_t size_ = 0;
    size_t sent_ = 0;
    size_t received_ = 0;
    uint64_t opened_at_ns_ = 0;
    uint64_t sent_at_ns_ = 0;
    uint64_t replied_at_ns_ = 0;
};

}  // namespace natrp::bench
