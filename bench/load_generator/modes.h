#pragma once
// The modes of visitor_swarm: each reads its flags, runs on the calling thread, prints its lines and returns
// the exit code (0: all visitors were served rightly; 1: some were not, and the result line says how many and why).
//
// Every mode prints {"phase":"measuring"} when its visitors are connected and the measured time begins (idle:
// {"phase":"holding"}), and one result object as its last line, before it closes what is still open: whoever
// reads the relays' CPU time between these two lines has the measured work and nothing else.

#include <cstdint>
#include <map>
#include <string>

#include "echo_visitor.h"
#include "flags.h"
#include "histogram.h"
#include "json_object.h"

namespace natrp::bench {

int run_bulk(Flags& flags);
int run_exchange(Flags& flags);
int run_churn(Flags& flags);
int run_first_byte(Flags& flags);
int run_idle(Flags& flags);
int run_mixed(Flags& flags);

// --to, --sources, --cc, which all modes share.
Target read_target(Flags& flags);

// Failures, counted by reason.
class Failures {
public:
    void add(const std::string& reason) {
        ++total_;
        ++by_reason_[reason];
    }
    uint64_t total() const { return total_; }
    std::string json() const {
        JsonObject object;
        for (const auto& [reason, count] : by_reason_) {
            object.count(reason, count);
        }
        return object.str();
    }

private:
    uint64_t total_ = 0;
    std::map<std::string, uint64_t> by_reason_;
};

// `<prefix>p50_us` and so on, and the buckets themselves when asked for.
void add_latencies(JsonObject& object, const std::string& prefix, const Histogram& histogram,
                   bool with_buckets);

// Prints {"phase":name}; "measuring" then waits for a line on standard input when --wait on asked for it, so
// that whoever measures has read the clocks before the work begins.
void print_phase(const std::string& name);
void wait_before_measuring(bool wanted);

constexpr uint64_t kNsPerSecond = 1'000'000'000U;
inline uint64_t seconds_to_ns(double seconds) {
    return static_cast<uint64_t>(seconds * 1e9);
}

}  // namespace natrp::bench
