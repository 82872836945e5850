#pragma once
// What stands between the bytes of a service and the DATA of the original natrp's Msg stream: a row of
// gRPC messages, each of one protobuf field, `bytes data = 1`.
//
//     5 bytes of gRPC prefix (0, and the length of the message) | 0x0a | varint length | content
//
// MessageSlots cuts what a socket gives into messages, in place; MessageReader finds the content of messages
// in what comes. One thread each; they own no socket.

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace natrp::bench {

// Content of one message: what the original client reads from its service at a time.
constexpr size_t kMessageContentBytes = 16 * 1024;

// A buffer in which each message has its place, so that one readv() fills many and nothing is moved but the
// content of a last, shorter one.
//
// Life: empty -> fill() -> bytes() shrinks by take() -> empty, and again.
class MessageSlots {
public:
    MessageSlots();

    // Reads from `fd` as readv() does, with its result and errno. Precondition: empty().
    ssize_t fill(int fd);

    bool empty() const { return begin_ == end_; }
    std::string_view bytes() const { return {buffer_.data() + begin_, end_ - begin_}; }
    void take(size_t count) { begin_ += count; }

private:
    static constexpr size_t kSlots = 16;
    static constexpr size_t kHeaderBytes = 9;  // with a length of three bytes
    static constexpr size_t kSlotBytes = kHeaderBytes + kMessageContentBytes;

    std::vector<char> buffer_;
    iovec contents_[kSlots];
    size_t begin_ = 0;
    size_t end_ = 0;
};

class MessageReader {
public:
    struct Piece {
        std::string_view content;
        bool sound = true;  // false: not what an edge sends; the stream is of no use any more
    };

    // Takes from the front of `bytes` up to and including the next piece of content. Call until it is empty.
    Piece next(std::string_view& bytes);

private:
    bool on_header_byte(uint8_t byte);

    size_t header_bytes_ = 0;  // of this message, so far
    size_t message_bytes_ = 0;
    size_t length_ = 0;  // of its content, as far as it was read
    size_t length_bits_ = 0;
    size_t content_left_ = 0;
};

}  // namespace natrp::bench
