#include "block_stream.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace natrp::bench {
namespace {

// `sample` compares the first 64 bytes of every 4 KiB: 1/64 of the stream, yet any lost, doubled or moved
// piece shifts all that follows it inside the block and meets the next sample.
constexpr size_t kSampleEvery = 4096;
constexpr size_t kSampleBytes = 64;

}  // namespace

void BlockWriter::begin_block() {
    uint64_t payload = 0;
    bool last = finishing_;
    if (!finishing_) {
        payload = kBlockPayloadBytes;
        if (limit_bytes_ != 0) {
            payload = std::min<uint64_t>(payload, limit_bytes_ - payload_bytes_);
            last = payload_bytes_ + payload == limit_bytes_;
        }
    }
    head_ = BlockHead{};
    head_.payload_bytes = static_cast<uint32_t>(payload);
    head_.sequence = static_cast<uint16_t>(next_sequence_++);
    head_.last = last ? 1 : 0;
    payload_bytes_ += payload;
    offset_ = 0;
    under_way_ = true;
}

WriteResult BlockWriter::write(int fd) {
    if (!under_way_) {
        begin_block();
    }
    const char* payload = Pattern::get().slice(head_.sequence);
    iovec parts[2];
    size_t count = 0;
    if (offset_ < sizeof head_) {
        parts[count++] = {reinterpret_cast<char*>(&head_) + offset_, sizeof head_ - offset_};
    }
    const size_t payload_offset = offset_ < sizeof head_ ? 0 : offset_ - sizeof head_;
    if (payload_offset < head_.payload_bytes) {
        parts[count++] = {const_cast<char*>(payload) + payload_offset, head_.payload_bytes - payload_offset};
    }
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = count;
    const ssize_t sent = ::sendmsg(fd, &message, MSG_NOSIGNAL);
    if (sent < 0) {
        return errno == EAGAIN || errno == EINTR ? WriteResult::blocked : WriteResult::broken;
    }
    offset_ += static_cast<size_t>(sent);
    if (offset_ == sizeof head_ + head_.payload_bytes) {
        under_way_ = false;
        done_ = head_.last != 0;
    }
    return WriteResult::wrote;
}

void BlockReader::check_head() {
    const bool sound = head_.magic == BlockHead::kMagic && head_.payload_bytes <= kBlockPayloadBytes &&
                       head_.sequence == static_cast<uint16_t>(next_sequence_);
    if (!sound) {
        ++errors_;
        // Nothing behind a wrong head means anything: end the stream, so that the error is reported, not a
        // hang.
        head_.payload_bytes = 0;
        head_.last = 1;
    }
    ++next_sequence_;
}

void BlockReader::check_payload(const char* data, size_t size) {
    const char* expected = Pattern::get().slice(head_.sequence);
    const size_t begin = offset_ - sizeof head_;
    if (verify_ == Verify::full) {
        errors_ += std::memcmp(data, expected + begin, size) != 0 ? 1 : 0;
        return;
    }
    size_t sample = (begin + kSampleEvery - 1) / kSampleEvery * kSampleEvery;
    for (; sample < begin + size; sample += kSampleEvery) {
        const size_t length = std::min(kSampleBytes, begin + size - sample);
        errors_ += std::memcmp(data + (sample - begin), expected + sample, length) != 0 ? 1 : 0;
    }
}

size_t BlockReader::consume(const char* data, size_t size) {
    size_t taken = 0;
    while (!done_ && taken < size) {
        if (offset_ < sizeof head_) {
            const size_t part = std::min(sizeof head_ - offset_, size - taken);
            std::memcpy(reinterpret_cast<char*>(&head_) + offset_, data + taken, part);
            offset_ += part;
            taken += part;
            if (offset_ == sizeof head_) {
                check_head();
            }
        } else {
            const size_t left = sizeof head_ + head_.payload_bytes - offset_;
            const size_t part = std::min(left, size - taken);
            if (verify_ != Verify::off && part > 0) {
                check_payload(data + taken, part);
            }
            offset_ += part;
            taken += part;
            payload_bytes_ += part;
        }
        if (offset_ >= sizeof head_ && offset_ == sizeof head_ + head_.payload_bytes) {
            done_ = head_.last != 0;
            offset_ = 0;
        }
    }
    return taken;
}

}  // namespace natrp::bench
