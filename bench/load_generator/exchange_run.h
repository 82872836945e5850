#pragma once
// ExchangeRun: many visitors that exchange messages, in closed loop (each sends again as soon as it was
// answered) or in open loop (messages come due at a given rate, whether or not the earlier ones were answered).
//
// In open loop a latency counts from the moment at which a message was due, not from the one at which a busy
// conn could send it: a stall of the tunnel is charged for every message it delayed (no coordinated omission).
//
// Life: made -> connect() -> measure(), any number of times -> destroyed. One thread.

#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "echo_visitor.h"
#include "histogram.h"
#include "modes.h"

namespace natrp::bench {

struct ExchangeResult {
    Histogram latency;       // of the messages due after the warm-up
    double seconds = 0;      // warm-up included
    double measured_s = 0;   // warm-up excluded
    uint64_t exchanges = 0;  // warm-up included
    uint64_t measured = 0;   // of those, answered after the warm-up: the rate is theirs
    uint64_t unanswered = 0;

    JsonObject json(bool with_buckets) const;
};

class ExchangeRun final : public EchoVisitor::Owner {
public:
    struct Options {
        size_t size_bytes = 64;
        size_t connections = 1;
        double rate_per_s = 0;  // 0: closed loop
        bool poisson = true;    // arrivals of the open loop; otherwise evenly spaced
    };

    ExchangeRun(const Target& target, const Options& options);

    // Connects all visitors, 64 at once, and makes each do one exchange. False when some could not.
    bool connect(double timeout_s);
    ExchangeResult measure(double seconds, double warmup_s);
    // One exchange on every visitor that is still there; returns how many were answered.
    size_t check_all(double timeout_s);
    const Failures& failures() const { return failures_; }

private:
    struct Lane {
        std::unique_ptr<EchoVisitor> visitor;
        std::deque<uint64_t> due_ns;  // messages that are due or sent, oldest first; open loop only
    };

    void on_connected(EchoVisitor& visitor) override;
    void on_reply(EchoVisitor& visitor) override;
    void on_failed(EchoVisitor& visitor, const std::string& reason) override;

    void open_next();
    void send_due(Lane& lane);
    uint64_t next_gap_ns();
    void make_due(uint64_t now);

    static constexpr size_t kOpeningAtOnce = 64;

    Target target_;
    Options options_;
    ReadyLoop loop_;
    std::vector<Lane> lanes_;
    Failures failures_;
    std::mt19937_64 random_{20240229};

    enum class Phase { connecting, measuring, draining } phase_ = Phase::connecting;
    size_t opened_ = 0;
    size_t connected_ = 0;
    uint64_t counts_from_ns_ = 0;
    uint64_t next_due_ns_ = 0;
    size_t next_lane_ = 0;
    ExchangeResult* result_ = nullptr;
};

// The flags of an exchange: --size, --connections, --rate, --arrivals.
ExchangeRun::Options read_exchange_options(Flags& flags);

}  // namespace natrp::bench
