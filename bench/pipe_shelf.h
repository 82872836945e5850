#pragma once
// PipeShelf: the empty pipes of a relay, borrowed while bytes are in flight and made when none is there. Both relays
// have the same, so that what they cost differs by what they do and not by their pipes.
// One thread.

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "load_generator/flags.h"
#include "load_generator/sockets.h"

namespace natrp::bench {

struct Pipe {
    Fd out;  // read end
    Fd in;   // write end
    size_t slots = 0;
};

class PipeShelf {
public:
    static constexpr int kPipeBytes = 1 << 20;

    // Gives up, with a sentence, when more than `most` pipes would be needed at once.
    explicit PipeShelf(size_t most = std::numeric_limits<size_t>::max()) : most_(most) {}

    std::unique_ptr<Pipe> take() {
        if (!pipes_.empty()) {
            auto pipe = std::move(pipes_.back());
            pipes_.pop_back();
            return pipe;
        }
        if (made_ == most_) {
            refuse("more than " + std::to_string(most_) + " pipes would be needed");
        }
        int ends[2];
        if (::pipe2(ends, O_NONBLOCK | O_CLOEXEC) < 0) {
            refuse(std::string("no pipe to be had: ") + std::strerror(errno));
        }
        // Refused beyond the page budget of an unprivileged user; the pipe is smaller then and works all the
        // same.
        ::fcntl(ends[0], F_SETPIPE_SZ, kPipeBytes);
        const auto slots = static_cast<size_t>(::fcntl(ends[0], F_GETPIPE_SZ) / ::getpagesize());
        ++made_;
        return std::make_unique<Pipe>(Pipe{Fd(ends[0]), Fd(ends[1]), slots});
    }
    // Empty.
    void give_back(std::unique_ptr<Pipe> pipe) { pipes_.push_back(std::move(pipe)); }
    // With bytes in it: of no more use.
    void drop(std::unique_ptr<Pipe>) { --made_; }

private:
    std::vector<std::unique_ptr<Pipe>> pipes_;
    const size_t most_;
    size_t made_ = 0;
};

}  // namespace natrp::bench
