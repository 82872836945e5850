// The modes made of exchanges: exchange, mixed and idle.

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "exchange_run.h"
#include "modes.h"
#include "stop_signal.h"

namespace natrp::bench {
namespace {

constexpr double kConnectTimeoutS = 60;

void refuse_unconnected(const ExchangeRun& run, const std::string& mode) {
    JsonObject()
        .text("mode", mode)
        .text("error", "not all visitors could connect and be answered")
        .count("failed", run.failures().total())
        .raw("failures", run.failures().json())
        .print();
}

// A bulk run in a process of its own: it must not make the interactive visitors wait for this program's
// thread.
// Life: forked, waiting -> go() -> its result line is read.
class BulkChild {
public:
    explicit BulkChild(Flags flags) {
        int go_pipe[2];
        int out_pipe[2];
        if (::pipe(go_pipe) < 0 || ::pipe(out_pipe) < 0) {
            refuse("cannot make a pipe for the bulk process");
        }
        pid_ = ::fork();
        if (pid_ < 0) {
            refuse("cannot fork the bulk process");
        }
        if (pid_ == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // whoever ends our parent knows nothing of us
            ::dup2(out_pipe[1], STDOUT_FILENO);
            ::close(go_pipe[1]);
            ::close(out_pipe[0]);
            char go = 0;
            const bool wanted = ::read(go_pipe[0], &go, 1) == 1;
            wait_before_measuring(false);  // our parent did
            std::_Exit(wanted ? run_bulk(flags) : 0);
        }
        ::close(go_pipe[0]);
        ::close(out_pipe[1]);
        go_ = Fd(go_pipe[1]);
        out_ = Fd(out_pipe[0]);
    }

    void go() const {
        if (::write(go_.get(), "g", 1) != 1) {
            refuse("the bulk process is gone");
        }
    }

    // The last line it printed; empty when it printed none.
    std::string result() const {
        std::string text;
        char buffer[4096];
        for (ssize_t got = 0; (got = ::read(out_.get(), buffer, sizeof buffer)) > 0;) {
            text.append(buffer, static_cast<size_t>(got));
        }
        ::waitpid(pid_, nullptr, 0);
        while (!text.empty() && text.back() == '\n') {
            text.pop_back();
        }
        return text.substr(text.rfind('\n') + 1);
    }

private:
    pid_t pid_ = -1;
    Fd go_;
    Fd out_;
};

// What idle visitors wait for: a line or the end of standard input, or a signal to stop. One per process.
class StopWatch {
public:
    enum class Why { line, stop };

    Why wait() const {
        for (;;) {
            pollfd waits[2] = {{signal_.get(), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
            ::poll(waits, 2, -1);
            if (waits[0].revents != 0) {
                return Why::stop;
            }
            char input[256];
            if (waits[1].revents != 0) {
                return ::read(STDIN_FILENO, input, sizeof input) > 0 ? Why::line : Why::stop;
            }
        }
    }

private:
    const Fd signal_ = watch_stop_signals();
};

}  // namespace

int run_exchange(Flags& flags) {
    const Target target = read_target(flags);
    const ExchangeRun::Options options = read_exchange_options(flags);
    const double seconds = flags.number("seconds", 3, 0.05, 86'400);
    const double warmup_s = flags.number("warmup", seconds / 10, 0, seconds);
    const bool with_buckets = flags.one_of("buckets", {"on", "off"}, "off") == "on";
    flags.reject_unknown();

    ExchangeRun run(target, options);
    if (!run.connect(kConnectTimeoutS)) {
        refuse_unconnected(run, "exchange");
        return 1;
    }
    print_phase("measuring");
    const ExchangeResult result = run.measure(seconds, warmup_s);
    const bool sound = run.failures().total() == 0 && result.unanswered == 0;
    JsonObject object = result.json(with_buckets);
    object.text("mode", "exchange")
        .text("loop", options.rate_per_s > 0 ? "open" : "closed")
        .count("size", options.size_bytes)
        .count("connections", options.connections)
        .number("rate_wanted_per_s", options.rate_per_s)
        .count("failed", run.failures().total())
        .raw("failures", run.failures().json())
        .flag("verified", sound)
        .print();
    return sound ? 0 : 1;
}

// First the interactive visitors alone, then the same ones beside bulk streams: the ratio of the two is the metric.
int run_mixed(Flags& flags) {
    const Target target = read_target(flags);
    ExchangeRun::Options options = read_exchange_options(flags);
    if (options.rate_per_s <= 0) {
        options.rate_per_s = 2000;
    }
    const double seconds = flags.number("seconds", 3, 0.2, 3600);
    const bool with_buckets = flags.one_of("buckets", {"on", "off"}, "off") == "on";
    constexpr double kSettleS = 0.5;
    Flags bulk_flags = flags;
    const std::string streams = flags.text("streams", "10");
    const std::string direction = flags.text("direction", "down");
    const std::string nice = flags.text("nice", "0");
    flags.text("verify", "");
    flags.reject_unknown();

    // Forked before anything is open, so that the child shares no socket with us.
    bulk_flags.keep_only({"to", "cc", "sources", "streams", "direction", "verify"});
    bulk_flags.set("streams", streams);
    bulk_flags.set("direction", direction);
    bulk_flags.set("nice", nice);
    bulk_flags.set("seconds", std::to_string(seconds + kSettleS));
    const BulkChild child(bulk_flags);

    ExchangeRun run(target, options);
    if (!run.connect(kConnectTimeoutS)) {
        refuse_unconnected(run, "mixed");
        return 1;
    }
    print_phase("measuring");
    const ExchangeResult alone = run.measure(seconds, seconds / 10);
    print_phase("beside");
    child.go();
    const ExchangeResult beside = run.measure(seconds + kSettleS, kSettleS);
    const std::string bulk = child.result();
    const bool all_answered = run.failures().total() == 0 && alone.unanswered + beside.unanswered == 0;
    const bool sound = all_answered && bulk.find("\"verified\":true") != std::string::npos;
    JsonObject()
        .text("mode", "mixed")
        .raw("alone", alone.json(with_buckets).str())
        .raw("beside", beside.json(with_buckets).str())
        .raw("bulk", bulk.empty() ? "null" : bulk)
        .count("failed", run.failures().total())
        .raw("failures", run.failures().json())
        .flag("verified", sound)
        .print();
    return sound ? 0 : 1;
}

// Opens visitors, checks each with one exchange, holds them until standard input ends or SIGTERM comes, and
// checks each once more. With --first N it opens N of them, says so, and waits for a line on standard input
// before it opens the rest: whoever measures memory then has the same processes around before and after.
int run_idle(Flags& flags) {
    const Target target = read_target(flags);
    ExchangeRun::Options options = read_exchange_options(flags);
    const double check_s = flags.number("check-seconds", 30, 0.1, 600);
    const uint64_t first = flags.count("first", 0, 0, options.connections - 1);
    flags.reject_unknown();
    options.rate_per_s = 0;

    const StopWatch stop;
    std::vector<std::unique_ptr<ExchangeRun>> runs;
    const auto open = [&](uint64_t connections) {
        options.connections = connections;
        runs.push_back(std::make_unique<ExchangeRun>(target, options));
        return runs.back()->connect(kConnectTimeoutS);
    };
    const uint64_t all = options.connections;
    if (first > 0) {
        if (!open(first)) {
            refuse_unconnected(*runs.back(), "idle");
            return 1;
        }
        JsonObject().text("phase", "first").count("open", first).print();
        if (stop.wait() == StopWatch::Why::stop) {
            return 0;
        }
    }
    if (!open(all - first)) {
        refuse_unconnected(*runs.back(), "idle");
        return 1;
    }
    JsonObject().text("phase", "holding").count("open", all).print();
    while (stop.wait() == StopWatch::Why::line) {
    }
    uint64_t answered = 0;
    uint64_t failed = 0;
    std::string failures;
    for (const auto& run : runs) {
        answered += run->check_all(check_s);
        failed += run->failures().total();
        failures.append(failures.empty() ? "[" : ",").append(run->failures().json());
    }
    const bool sound = answered == all && failed == 0;
    JsonObject()
        .text("mode", "idle")
        .count("connections", all)
        .count("answered_at_end", answered)
        .count("failed", failed)
        .raw("failures", failures + "]")
        .flag("verified", sound)
        .print();
    return sound ? 0 : 1;
}

}  // namespace natrp::bench
