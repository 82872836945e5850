#include "exchange_run.h"

#include <algorithm>

#include "pattern.h"

namespace natrp::bench {
namespace {

// How long the last messages may take after the measured time is over.
constexpr uint64_t kDrainNs = 3 * kNsPerSecond;

}  // namespace

JsonObject ExchangeResult::json(bool with_buckets) const {
    JsonObject object;
    object.number("seconds", seconds);
    object.number("measured_seconds", measured_s);
    object.count("exchanges", exchanges);
    object.count("measured_exchanges", measured);
    object.number("rate_per_s", measured_s > 0 ? static_cast<double>(measured) / measured_s : 0);
    object.count("unanswered", unanswered);
    add_latencies(object, "", latency, with_buckets);
    return object;
}

ExchangeRun::ExchangeRun(const Target& target, const Options& options)
    : target_(target), options_(options), lanes_(options.connections) {
    for (size_t i = 0; i < lanes_.size(); ++i) {
        lanes_[i].visitor = std::make_unique<EchoVisitor>(loop_, target_, *this, i);
    }
}

void ExchangeRun::open_next() {
    if (opened_ < lanes_.size()) {
        EchoVisitor& visitor = *lanes_[opened_].visitor;
        ++opened_;
        visitor.open(visitor.number());
    }
}

bool ExchangeRun::connect(double timeout_s) {
    phase_ = Phase::connecting;
    for (size_t i = 0; i < kOpeningAtOnce; ++i) {
        open_next();
    }
    const uint64_t deadline = now_ns() + seconds_to_ns(timeout_s);
    while (connected_ + failures_.total() < lanes_.size() && now_ns() < deadline) {
        loop_.wait(kNsPerSecond / 10);
    }
    if (connected_ + failures_.total() < lanes_.size()) {
        failures_.add("not connected and answered in time");
    }
    return failures_.total() == 0;
}

void ExchangeRun::on_connected(EchoVisitor& visitor) {
    visitor.send(options_.size_bytes);
}

void ExchangeRun::on_failed(EchoVisitor&, const std::string& reason) {
    failures_.add(reason);
    if (phase_ == Phase::connecting) {
        open_next();
    }
}

void ExchangeRun::on_reply(EchoVisitor& visitor) {
    Lane& lane = lanes_[visitor.number()];
    if (phase_ == Phase::connecting) {
        ++connected_;
        open_next();
        return;
    }
    uint64_t began = visitor.sent_at_ns();
    if (options_.rate_per_s > 0) {
        began = lane.due_ns.front();
        lane.due_ns.pop_front();
    }
    ++result_->exchanges;
    result_->measured += visitor.replied_at_ns() >= counts_from_ns_ ? 1 : 0;
    if (began >= counts_from_ns_) {
        result_->latency.record(visitor.replied_at_ns() - began);
    }
    if (options_.rate_per_s > 0) {
        send_due(lane);
    } else if (phase_ == Phase::measuring) {
        visitor.send(options_.size_bytes);
    }
}

void ExchangeRun::send_due(Lane& lane) {
    if (!lane.due_ns.empty() && lane.visitor->is_idle()) {
        lane.visitor->send(options_.size_bytes);
    }
}

uint64_t ExchangeRun::next_gap_ns() {
    if (!options_.poisson) {
        return static_cast<uint64_t>(1e9 / options_.rate_per_s);
    }
    return static_cast<uint64_t>(std::exponential_distribution<double>(options_.rate_per_s)(random_) * 1e9);
}

void ExchangeRun::make_due(uint64_t now) {
    while (next_due_ns_ <= now) {
        Lane& lane = lanes_[next_lane_++ % lanes_.size()];
        lane.due_ns.push_back(next_due_ns_);
        send_due(lane);
        next_due_ns_ += next_gap_ns();
    }
}

ExchangeResult ExchangeRun::measure(double seconds, double warmup_s) {
    ExchangeResult result;
    result_ = &result;
    const uint64_t begin = now_ns();
    const uint64_t end = begin + seconds_to_ns(seconds);
    counts_from_ns_ = begin + seconds_to_ns(warmup_s);
    phase_ = Phase::measuring;
    const bool open_loop = options_.rate_per_s > 0;
    if (open_loop) {
        next_due_ns_ = begin + next_gap_ns();
    } else {
        for (Lane& lane : lanes_) {
            if (lane.visitor->is_idle()) {
                lane.visitor->send(options_.size_bytes);
            }
        }
    }
    uint64_t now = begin;
    while (now < end) {
        const uint64_t until = open_loop ? std::min(end, next_due_ns_) : end;
        loop_.wait(until - std::min(now, until));
        now = now_ns();
        if (open_loop && now < end) {
            make_due(now);
        }
    }
    result.seconds = static_cast<double>(now - begin) / 1e9;
    result.measured_s = static_cast<double>(now - std::min(now, counts_from_ns_)) / 1e9;
    // Rates are of what was answered in time; the rest may still arrive and counts for the latencies.
    const uint64_t in_time = result.exchanges;
    const uint64_t measured_in_time = result.measured;
    phase_ = Phase::draining;
    const auto is_busy = [](const Lane& lane) {
        return !lane.visitor->is_closed() && (!lane.visitor->is_idle() || !lane.due_ns.empty());
    };
    const uint64_t give_up = now + kDrainNs;
    while (now < give_up && std::any_of(lanes_.begin(), lanes_.end(), is_busy)) {
        loop_.wait(kNsPerSecond / 50);
        now = now_ns();
    }
    for (Lane& lane : lanes_) {
        const size_t left = open_loop ? lane.due_ns.size() : (is_busy(lane) ? 1 : 0);
        result.unanswered += left;
        // What never came back took at least this long: it must not vanish from the percentiles.
        for (const uint64_t due : lane.due_ns) {
            result.latency.record(now - due);
        }
        lane.due_ns.clear();
    }
    result.exchanges = in_time;
    result.measured = measured_in_time;
    result_ = nullptr;
    return result;
}

size_t ExchangeRun::check_all(double timeout_s) {
    ExchangeResult result;
    result_ = &result;
    counts_from_ns_ = 0;
    phase_ = Phase::draining;  // answered once, and not sent again
    loop_.wait(0);             // what ended meanwhile is told first
    size_t asked = 0;
    const uint64_t deadline = now_ns() + seconds_to_ns(timeout_s);
    const auto in_flight = [&] { return asked - result.exchanges; };
    const uint64_t failed_before = failures_.total();
    for (Lane& lane : lanes_) {
        if (lane.visitor->is_idle()) {
            ++asked;
            lane.visitor->send(options_.size_bytes);
        }
        while (in_flight() >= kOpeningAtOnce + (failures_.total() - failed_before) && now_ns() < deadline) {
            loop_.wait(kNsPerSecond / 50);
        }
    }
    while (in_flight() > failures_.total() - failed_before && now_ns() < deadline) {
        loop_.wait(kNsPerSecond / 50);
    }
    result_ = nullptr;
    return result.exchanges;
}

ExchangeRun::Options read_exchange_options(Flags& flags) {
    ExchangeRun::Options options;
    options.size_bytes = flags.count("size", 64, 1, kSliceBytes);
    options.connections = flags.count("connections", 1, 1, 1'000'000);
    options.rate_per_s = flags.number("rate", 0, 0, 1e8);
    options.poisson = flags.one_of("arrivals", {"poisson", "even"}, "poisson") == "poisson";
    return options;
}

}  // namespace natrp::bench
