// visitor_swarm: the visitors. One thread, epoll, results as JSON lines on standard output.
//
//     visitor_swarm bulk       --to A:P [--streams 1] [--direction up|down|both] [--seconds 3 | --bytes N]
//                              [--verify off|sample|full] [--per-stream on] [--timeout S] [--nice 0]
//     visitor_swarm exchange   --to A:P [--size 64] [--connections 1] [--seconds 3] [--warmup S]
//                              [--rate N [--arrivals poisson|even]] [--buckets on]
//     visitor_swarm churn      --to A:P [--at-once 32] [--size 64] [--seconds 3] [--warmup S]
//                              [--close fin|rst]
//     visitor_swarm first_byte --to A:P [--at-once 1] [--rounds 50] [--gap-ms 20]
//     visitor_swarm idle       --to A:P [--connections 1000] [--first 0] [--size 64] [--check-seconds 30]
//     visitor_swarm mixed      --to A:P [--streams 10] [--direction down] [--connections 1000] [--rate 2000]
//                              [--size 64] [--seconds 3] [--nice 0]
//
// All modes: [--sources 64] source addresses in 127/8 (0: the kernel's choice), [--cc cubic] the congestion
// control of the visitors' own sockets. `exchange` is a closed loop without --rate and an open loop with it;
// modes.h and exchange_run.h say what is measured from when. `idle` holds its visitors until standard input
// ends or SIGTERM comes. --nice is the niceness of the bulk visitors and of the service's bulk thread: above
// 0, what the interactive visitors of `mixed` meet is the tunnel's order of service, not the generators'
// share of the CPUs. With --wait on, the measured time begins when a line comes on standard input (modes.h).
//
// The payload is verified. Exit code 0: all was served rightly; 1: something was not; 2: the flags are wrong.

#include <sys/prctl.h>
#include <unistd.h>

#include <map>
#include <string>

#include "modes.h"

namespace natrp::bench {

constexpr uint64_t kFdsWanted = 200'000;

Target read_target(Flags& flags) {
    Target target;
    target.address = parse_address(flags.required("to"));
    target.sources = static_cast<uint32_t>(flags.count("sources", 64, 0, 62'500));
    target.congestion = flags.text("cc", "");
    return target;
}

void add_latencies(JsonObject& object, const std::string& prefix, const Histogram& histogram,
                   bool with_buckets) {
    object.number(prefix + "mean_us", histogram.mean_ns() / 1e3);
    object.number(prefix + "p50_us", static_cast<double>(histogram.percentile_ns(50)) / 1e3);
    object.number(prefix + "p90_us", static_cast<double>(histogram.percentile_ns(90)) / 1e3);
    object.number(prefix + "p99_us", static_cast<double>(histogram.percentile_ns(99)) / 1e3);
    object.number(prefix + "p999_us", static_cast<double>(histogram.percentile_ns(99.9)) / 1e3);
    object.number(prefix + "max_us", static_cast<double>(histogram.max_ns()) / 1e3);
    if (with_buckets) {
        object.raw(prefix + "buckets_ns", histogram.buckets_json());
    }
}

namespace {

bool waits_before_measuring = false;

}  // namespace

void wait_before_measuring(bool wanted) {
    waits_before_measuring = wanted;
}

void print_phase(const std::string& name) {
    JsonObject().text("phase", name).print();
    char line[64];
    if (waits_before_measuring && name == "measuring" && ::read(STDIN_FILENO, line, sizeof line) <= 0) {
        refuse("standard input ended where a line was to say that the measuring may begin");
    }
}

}  // namespace natrp::bench

int main(int argc, char** argv) {
    using namespace natrp::bench;
    const std::map<std::string, int (*)(Flags&)> modes = {
        {"bulk", run_bulk},   {"exchange", run_exchange}, {"churn", run_churn},
        {"idle", run_idle},   {"mixed", run_mixed},       {"first_byte", run_first_byte},
    };
    const auto mode = modes.find(argc > 1 ? argv[1] : "");
    if (mode == modes.end()) {
        refuse("the first argument is the mode: bulk, exchange, churn, first_byte, idle or mixed");
    }
    reserve_fds(kFdsWanted);
    // The kernel may wake a sleeper 50 us late: a message due since then would be charged with it.
    ::prctl(PR_SET_TIMERSLACK, 1);
    Flags flags(argc, argv, 2);
    wait_before_measuring(flags.one_of("wait", {"on", "off"}, "off") == "on");
    return mode->second(flags);
}
