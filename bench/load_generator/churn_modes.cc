// The modes made of new conns: churn (connect, one exchange, close, at full speed) and first_byte (one
// visitor, or a burst of them, after a pause: how long until the first byte is back).

#include <memory>
#include <string>
#include <vector>

#include "modes.h"
#include "pattern.h"

namespace natrp::bench {
namespace {

// A contestant that refuses everything must end the run, not fill a minute with failures.
constexpr uint64_t kFailuresMost = 10'000;
constexpr uint64_t kReplyTimeoutNs = 15 * kNsPerSecond;

// A number of visitors that connect, exchange once and close; each begins again while `again_` says so.
class ChurnRun final : public EchoVisitor::Owner {
public:
    ChurnRun(const Target& target, size_t size_bytes, size_t at_once, CloseBy close_by)
        : target_(target), size_bytes_(size_bytes), close_by_(close_by) {
        for (size_t i = 0; i < at_once; ++i) {
            visitors_.push_back(std::make_unique<EchoVisitor>(loop_, target_, *this, i));
        }
    }

    // All visitors, again and again, for `seconds`. What happens in the first `warmup_s` is not counted.
    void run_for(double seconds, double warmup_s) {
        const uint64_t begin = now_ns();
        const uint64_t end = begin + seconds_to_ns(seconds);
        counts_from_ns_ = begin + seconds_to_ns(warmup_s);
        again_ = true;
        open_all();
        uint64_t now = begin;
        while (now < end && failures_.total() < kFailuresMost) {
            loop_.wait(end - now);
            now = now_ns();
        }
        seconds_ = static_cast<double>(now - begin) / 1e9;
        measured_s_ = static_cast<double>(now - std::min(now, counts_from_ns_)) / 1e9;
        again_ = false;
        cycles_in_time_ = cycles_;
        measured_in_time_ = measured_;
        wait_until_closed();
    }

    // All visitors once, at once.
    void run_once() {
        again_ = false;
        open_all();
        wait_until_closed();
    }

    JsonObject json(bool with_buckets) const {
        JsonObject object;
        object.number("seconds", seconds_);
        object.number("measured_seconds", measured_s_);
        object.count("cycles", cycles_in_time_);
        object.number("rate_per_s",
                      measured_s_ > 0 ? static_cast<double>(measured_in_time_) / measured_s_ : 0);
        object.count("failed", failures_.total());
        object.raw("failures", failures_.json());
        add_latencies(object, "", first_reply_, with_buckets);
        add_latencies(object, "connect_", connect_, false);
        return object;
    }

    const Failures& failures() const { return failures_; }
    const Histogram& first_reply() const { return first_reply_; }
    uint64_t cycles() const { return cycles_; }

private:
    void open_all() {
        for (const auto& visitor : visitors_) {
            visitor->open(turn_++);
        }
    }

    void wait_until_closed() {
        const uint64_t give_up = now_ns() + kReplyTimeoutNs;
        size_t open = visitors_.size();
        while (open > 0 && now_ns() < give_up) {
            loop_.wait(kNsPerSecond / 50);
            open = 0;
            for (const auto& visitor : visitors_) {
                open += visitor->is_closed() ? 0 : 1;
            }
        }
        for (const auto& visitor : visitors_) {
            if (!visitor->is_closed()) {
                visitor->close(CloseBy::rst);
                failures_.add("no reply within 15 s");
            }
        }
    }

    void begin_again(EchoVisitor& visitor) {
        if (again_ && failures_.total() < kFailuresMost) {
            visitor.open(turn_++);
        }
    }

    void on_connected(EchoVisitor& visitor) override {
        connect_.record(now_ns() - visitor.opened_at_ns());
        visitor.send(size_bytes_);
    }

    void on_reply(EchoVisitor& visitor) override {
        ++cycles_;
        measured_ += visitor.replied_at_ns() >= counts_from_ns_ ? 1 : 0;
        if (visitor.opened_at_ns() >= counts_from_ns_) {
            first_reply_.record(visitor.replied_at_ns() - visitor.opened_at_ns());
        }
        visitor.close(close_by_);
        begin_again(visitor);
    }

    void on_failed(EchoVisitor& visitor, const std::string& reason) override {
        failures_.add(reason);
        begin_again(visitor);
    }

    Target target_;
    size_t size_bytes_;
    CloseBy close_by_;
    ReadyLoop loop_;
    std::vector<std::unique_ptr<EchoVisitor>> visitors_;
    Failures failures_;
    Histogram first_reply_;
    Histogram connect_;
    bool again_ = false;
    uint64_t turn_ = 0;
    uint64_t cycles_ = 0;
    uint64_t measured_ = 0;
    uint64_t cycles_in_time_ = 0;
    uint64_t measured_in_time_ = 0;
    uint64_t counts_from_ns_ = 0;
    double seconds_ = 0;
    double measured_s_ = 0;
};

CloseBy read_close(Flags& flags) {
    return flags.one_of("close", {"fin", "rst"}, "fin") == "fin" ? CloseBy::fin : CloseBy::rst;
}

void sleep_ms(uint64_t ms) {
    const timespec pause{static_cast<time_t>(ms / 1000), static_cast<long>(ms % 1000 * 1'000'000)};
    ::nanosleep(&pause, nullptr);
}

}  // namespace

int run_churn(Flags& flags) {
    const Target target = read_target(flags);
    const size_t at_once = flags.count("at-once", 32, 1, 100'000);
    const size_t size = flags.count("size", 64, 1, kSliceBytes);
    const double seconds = flags.number("seconds", 3, 0.05, 86'400);
    const double warmup_s = flags.number("warmup", seconds / 10, 0, seconds);
    const CloseBy close_by = read_close(flags);
    const bool with_buckets = flags.one_of("buckets", {"on", "off"}, "off") == "on";
    flags.reject_unknown();

    ChurnRun run(target, size, at_once, close_by);
    print_phase("measuring");
    run.run_for(seconds, warmup_s);
    const bool sound = run.failures().total() == 0;
    run.json(with_buckets)
        .text("mode", "churn")
        .count("at_once", at_once)
        .count("size", size)
        .text("close", close_by == CloseBy::fin ? "fin" : "rst")
        .flag("verified", sound)
        .print();
    return sound ? 0 : 1;
}

int run_first_byte(Flags& flags) {
    const Target target = read_target(flags);
    const size_t at_once = flags.count("at-once", 1, 1, 100'000);
    const uint64_t rounds = flags.count("rounds", 50, 1, 1'000'000);
    const uint64_t gap_ms = flags.count("gap-ms", 20, 0, 60'000);
    const bool with_buckets = flags.one_of("buckets", {"on", "off"}, "off") == "on";
    flags.reject_unknown();

    ChurnRun run(target, 1, at_once, CloseBy::fin);
    print_phase("measuring");
    for (uint64_t round = 0; round < rounds && run.failures().total() < kFailuresMost; ++round) {
        run.run_once();
        sleep_ms(gap_ms);
    }
    const bool sound = run.failures().total() == 0;
    JsonObject object;
    object.text("mode", "first_byte")
        .count("at_once", at_once)
        .count("rounds", rounds)
        .count("gap_ms", gap_ms)
        .count("visitors", run.cycles())
        .count("failed", run.failures().total())
        .raw("failures", run.failures().json())
        .flag("verified", sound);
    add_latencies(object, "", run.first_reply(), with_buckets);
    object.print();
    return sound ? 0 : 1;
}

}  // namespace natrp::bench
