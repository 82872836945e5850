#include "message_stream.h"

#include <algorithm>
#include <cstring>

namespace natrp::bench {
namespace {

constexpr size_t kPrefixBytes = 5;
constexpr char kDataTag = 0x0a;  // field 1, length-delimited

size_t varint_bytes(size_t value) {
    return value < (1U << 7) ? 1 : value < (1U << 14) ? 2 : 3;
}

// Writes the header of a message with `content` bytes; returns its length.
size_t put_header(char* to, size_t content) {
    const size_t message = 1 + varint_bytes(content) + content;
    to[0] = 0;  // not compressed
    for (size_t i = 0; i < 4; ++i) {
        to[1 + i] = static_cast<char>(message >> (24 - 8 * i));
    }
    to[kPrefixBytes] = kDataTag;
    size_t at = kPrefixBytes + 1;
    for (size_t rest = content; at == kPrefixBytes + 1 || rest > 0; rest >>= 7) {
        to[at++] = static_cast<char>((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
    }
    return at;
}

}  // namespace

MessageSlots::MessageSlots() : buffer_(kSlots * kSlotBytes) {
    for (size_t i = 0; i < kSlots; ++i) {
        contents_[i] = {buffer_.data() + i * kSlotBytes + kHeaderBytes, kMessageContentBytes};
    }
}

ssize_t MessageSlots::fill(int fd) {
    const ssize_t got = ::readv(fd, contents_, kSlots);
    begin_ = end_ = 0;
    for (size_t left = got > 0 ? static_cast<size_t>(got) : 0; left > 0;) {
        const size_t content = std::min(left, kMessageContentBytes);
        const size_t header = put_header(buffer_.data() + end_, content);
        if (header < kHeaderBytes) {
            std::memmove(buffer_.data() + end_ + header, buffer_.data() + end_ + kHeaderBytes, content);
        }
        end_ += header + content;
        left -= content;
    }
    return got;
}

MessageReader::Piece MessageReader::next(std::string_view& bytes) {
    while (content_left_ == 0 && !bytes.empty()) {
        const auto byte = static_cast<uint8_t>(bytes.front());
        bytes.remove_prefix(1);
        if (!on_header_byte(byte)) {
            return {{}, false};
        }
    }
    const std::string_view content = bytes.substr(0, content_left_);
    bytes.remove_prefix(content.size());
    content_left_ -= content.size();
    return {content, true};
}

bool MessageReader::on_header_byte(uint8_t byte) {
    const size_t at = header_bytes_++;
    if (at == 0) {
        message_bytes_ = length_ = length_bits_ = 0;
        return byte == 0;
    }
    if (at < kPrefixBytes) {
        message_bytes_ = message_bytes_ << 8 | byte;
        if (at + 1 == kPrefixBytes && message_bytes_ == 0) {
            header_bytes_ = 0;  // a message without content
        }
        return true;
    }
    if (at == kPrefixBytes) {
        return byte == static_cast<uint8_t>(kDataTag);
    }
    if (length_bits_ > 21) {
        return false;
    }
    length_ |= static_cast<size_t>(byte & 0x7f) << length_bits_;
    length_bits_ += 7;
    if ((byte & 0x80) != 0) {
        return true;
    }
    content_left_ = length_;
    const size_t expected = header_bytes_ - kPrefixBytes + length_;
    header_bytes_ = 0;
    return message_bytes_ == expected;
}

}  // namespace natrp::bench
