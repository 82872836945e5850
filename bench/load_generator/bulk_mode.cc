// The mode bulk: streams that carry as much as they can, in one direction or both, for a time or a number of bytes.

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "block_stream.h"
#include "modes.h"

namespace natrp::bench {
namespace {

constexpr size_t kBufferBytes = 256 * 1024;

struct BulkOptions {
    size_t streams = 1;
    bool up = false;
    bool down = true;
    double seconds = 3;
    uint64_t bytes = 0;  // of each stream and direction; 0: `seconds` decide
    Verify verify = Verify::sample;
    int nice = 0;  // of this process and of the service's bulk thread
};

// One stream. Life: connecting -> request and blocks -> verdict received (done) or failed. One thread.
class BulkVisitor final : public ReadyHandler {
public:
    BulkVisitor(ReadyLoop& loop, const BulkOptions& options, std::vector<char>& buffer)
        : loop_(loop), buffer_(buffer), may_send_(options.up), writer_(options.up ? options.bytes : 0),
          reader_(options.verify) {
        request_.wants_down = options.down ? 1 : 0;
        request_.verify = static_cast<uint8_t>(options.verify);
        request_.nice = static_cast<uint8_t>(options.nice);
        request_.down_limit_bytes = options.down ? options.bytes : 0;
        if (options.bytes > 0 && !options.up) {
            stop();  // the service knows where to end
        }
    }

    void open(const Target& target, uint64_t turn) {
        fd_ = begin_connect(target.address, turn, target.sources, target.congestion);
        if (!fd_) {
            fail(std::string("connect: ") + std::strerror(errno));
            return;
        }
        loop_.add(fd_.get(), *this, EPOLLIN | EPOLLOUT);
    }

    // Ends our own stream behind the block under way; the service ends the other one when it sees that.
    void stop() {
        may_send_ = true;
        writer_.finish();
        if (fd_ && !is_over()) {
            want_out(true);
        }
    }

    bool is_over() const { return done_ || !failure_.empty(); }
    bool is_connected() const { return connected_; }
    const std::string& failure() const { return failure_; }
    uint64_t up_bytes() const { return verdict_.payload_bytes; }
    uint64_t down_bytes() const { return reader_.payload_bytes(); }
    uint64_t errors() const { return verdict_.errors + reader_.errors(); }

    void fail(const std::string& reason) {
        failure_ = reason;
        fd_.reset();
    }

    void on_ready(uint32_t events) override {
        if (!connected_) {
            const int error = connect_result(fd_.get());
            if (error != 0) {
                fail(std::string("connect: ") + std::strerror(error));
                return;
            }
            connected_ = true;
        }
        if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0) {
            receive();
        }
        if (fd_ && (events & EPOLLOUT) != 0) {
            transmit();
        }
    }

private:
    void want_out(bool wanted) {
        if (wanted != wants_out_) {
            wants_out_ = wanted;
            loop_.change(fd_.get(), *this, wanted ? EPOLLIN | EPOLLOUT : EPOLLIN);
        }
    }

    void transmit() {
        if (request_sent_ < sizeof request_) {
            const ssize_t sent = ::send(fd_.get(), reinterpret_cast<const char*>(&request_) + request_sent_,
                                        sizeof request_ - request_sent_, MSG_NOSIGNAL);
            if (sent < 0 && errno != EAGAIN && errno != EINTR) {
                fail(std::string("send: ") + std::strerror(errno));
                return;
            }
            request_sent_ += sent > 0 ? static_cast<size_t>(sent) : 0;
            if (request_sent_ < sizeof request_) {
                return;
            }
        }
        if (may_send_ && !writer_.done() && writer_.write(fd_.get()) == WriteResult::broken) {
            fail(std::string("send: ") + std::strerror(errno));
            return;
        }
        want_out(may_send_ && !writer_.done());
    }

    void receive() {
        const ssize_t got = ::recv(fd_.get(), buffer_.data(), buffer_.size(), 0);
        if (got < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                fail(std::string("receive: ") + std::strerror(errno));
            }
            return;
        }
        if (got == 0) {
            fail("ended before the verdict of the service");
            return;
        }
        const auto size = static_cast<size_t>(got);
        const size_t taken = reader_.consume(buffer_.data(), size);
        const size_t part = std::min(size - taken, sizeof verdict_ - verdict_bytes_);
        std::memcpy(reinterpret_cast<char*>(&verdict_) + verdict_bytes_, buffer_.data() + taken, part);
        verdict_bytes_ += part;
        if (verdict_bytes_ == sizeof verdict_) {
            if (verdict_.magic != BulkVerdict::kMagic || taken + part != size) {
                fail("what follows the last block is no verdict");
                return;
            }
            done_ = true;
            want_out(false);
        }
    }

    ReadyLoop& loop_;
    std::vector<char>& buffer_;
    Fd fd_;
    bool connected_ = false;
    bool wants_out_ = true;
    bool may_send_;
    bool done_ = false;
    std::string failure_;
    BulkRequest request_;
    size_t request_sent_ = 0;
    BlockWriter writer_;
    BlockReader reader_;
    BulkVerdict verdict_{0, 0, 0};
    size_t verdict_bytes_ = 0;
};

BulkOptions read_options(Flags& flags) {
    BulkOptions options;
    options.streams = flags.count("streams", 1, 1, 100'000);
    const std::string direction = flags.one_of("direction", {"up", "down", "both"}, "down");
    options.up = direction != "down";
    options.down = direction != "up";
    options.bytes = flags.count("bytes", 0, 0, UINT64_MAX / 2);
    options.seconds = flags.number("seconds", 3, 0.05, 86'400);
    options.nice = static_cast<int>(flags.count("nice", 0, 0, 19));
    const std::string verify = flags.one_of("verify", {"off", "sample", "full"}, "sample");
    options.verify = verify == "off" ? Verify::off : verify == "full" ? Verify::full : Verify::sample;
    return options;
}

using Visitors = std::vector<std::unique_ptr<BulkVisitor>>;

// Until all are over; those that `deadline_ns` finds under way fail.
void finish_all(ReadyLoop& loop, Visitors& visitors, uint64_t deadline_ns) {
    const auto is_over = [](const auto& visitor) { return visitor->is_over(); };
    while (!std::all_of(visitors.begin(), visitors.end(), is_over)) {
        if (now_ns() >= deadline_ns) {
            for (auto& visitor : visitors) {
                if (!visitor->is_over()) {
                    visitor->fail("did not end in time");
                }
            }
            return;
        }
        loop.wait(kNsPerSecond / 20);
    }
}

int report(const BulkOptions& options, const Visitors& visitors, double seconds, bool with_streams) {
    Failures failures;
    uint64_t up = 0;
    uint64_t down = 0;
    uint64_t errors = 0;
    uint64_t least = UINT64_MAX;
    uint64_t most = 0;
    std::string streams = "[";
    for (const auto& visitor : visitors) {
        up += visitor->up_bytes();
        down += visitor->down_bytes();
        errors += visitor->errors();
        const uint64_t bytes = visitor->up_bytes() + visitor->down_bytes();
        least = std::min(least, bytes);
        most = std::max(most, bytes);
        streams.append(streams.size() > 1 ? "," : "").append(std::to_string(bytes));
        if (!visitor->failure().empty()) {
            failures.add(visitor->failure());
        }
    }
    const uint64_t expected = options.bytes * visitors.size();
    const bool complete = options.bytes == 0 || ((!options.up || up == expected) &&
                                                 (!options.down || down == expected));
    const bool sound = failures.total() == 0 && errors == 0 && complete;
    JsonObject object;
    object.text("mode", "bulk")
        .count("streams", visitors.size())
        .text("direction", options.up ? (options.down ? "both" : "up") : "down")
        .number("seconds", seconds)
        .count("bytes", up + down)
        .count("bytes_up", up)
        .count("bytes_down", down)
        .number("gbps", static_cast<double>(up + down) * 8 / 1e9 / seconds)
        .number("least_over_most", most == 0 ? 0 : static_cast<double>(least) / static_cast<double>(most))
        .count("errors", errors)
        .count("failed", failures.total())
        .raw("failures", failures.json())
        .flag("verified", sound);
    if (with_streams) {
        object.raw("stream_bytes", streams + "]");
    }
    object.print();
    return sound ? 0 : 1;
}

}  // namespace

int run_bulk(Flags& flags) {
    const Target target = read_target(flags);
    const BulkOptions options = read_options(flags);
    const double patience_s = (options.bytes > 0 ? 600 : options.seconds) + 20;
    const double timeout_s = flags.number("timeout", patience_s, 1, 1e6);
    const bool with_streams = flags.one_of("per-stream", {"on", "off"}, "off") == "on";
    flags.reject_unknown();

    ::setpriority(PRIO_PROCESS, 0, options.nice);
    ReadyLoop loop;
    std::vector<char> buffer(kBufferBytes);
    Visitors visitors;
    for (size_t i = 0; i < options.streams; ++i) {
        visitors.push_back(std::make_unique<BulkVisitor>(loop, options, buffer));
    }
    print_phase("measuring");
    const uint64_t begin = now_ns();
    for (size_t i = 0; i < visitors.size(); ++i) {
        visitors[i]->open(target, i);
    }
    if (options.bytes == 0) {
        const uint64_t end = begin + seconds_to_ns(options.seconds);
        for (uint64_t now = begin; now < end; now = now_ns()) {
            loop.wait(end - now);
        }
        for (auto& visitor : visitors) {
            if (!visitor->is_over()) {
                visitor->stop();
            }
        }
    }
    finish_all(loop, visitors, begin + seconds_to_ns(timeout_s));
    return report(options, visitors, static_cast<double>(now_ns() - begin) / 1e9, with_streams);
}

}  // namespace natrp::bench
