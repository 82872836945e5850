#pragma once
// BlockWriter and BlockReader: one direction of a bulk stream, as the load generator and its service speak it.
//
// A stream is a row of blocks; a block is an 8-byte head (payload length, sequence number, flags, a magic
// byte) and a slice of the Pattern that its sequence number chooses. The last block is flagged, so that the
// end of a stream is known in-band: contestants that do not carry a half-close can be measured, too.
//
// Life: made -> written or read until done() -> destroyed. One thread. They own no socket and never block.

#include <cstddef>
#include <cstdint>
#include <string>

#include "pattern.h"

namespace natrp::bench {

// How a bulk conn begins: what the visitor asks of the service.
struct BulkRequest {
    char role = 'B';
    uint8_t wants_down = 0;
    uint8_t verify = 0;
    uint8_t nice = 0;  // the service's bulk thread gets at least this niceness
    uint8_t reserved[4] = {};
    uint64_t down_limit_bytes = 0;  // 0: until the visitor's own stream ends
};
static_assert(sizeof(BulkRequest) == 16);

// What the service answers behind its last block: what it received, and how often it met a wrong byte.
struct BulkVerdict {
    uint64_t magic = kMagic;
    uint64_t payload_bytes = 0;
    uint64_t errors = 0;

    static constexpr uint64_t kMagic = 0x54434944524556ULL;  // "VERDICT"
};
static_assert(sizeof(BulkVerdict) == 24);

enum class Verify : uint8_t { off, sample, full };

enum class WriteResult { wrote, blocked, broken };

struct BlockHead {
    uint32_t payload_bytes = 0;
    uint16_t sequence = 0;
    uint8_t last = 0;
    uint8_t magic = kMagic;

    static constexpr uint8_t kMagic = 0xB7;
};
static_assert(sizeof(BlockHead) == 8);

constexpr size_t kBlockPayloadBytes = kSliceBytes - sizeof(BlockHead);

class BlockWriter {
public:
    // `limit_bytes` of payload, then the last block; 0: until finish().
    explicit BlockWriter(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}

    // Ends the stream behind the block that is under way.
    void finish() { finishing_ = true; }
    bool done() const { return done_; }
    uint64_t payload_bytes() const { return payload_bytes_; }

    // One sendmsg of at most one block. errno tells why when broken. Precondition: not done().
    WriteResult write(int fd);

private:
    void begin_block();

    BlockHead head_;
    size_t offset_ = 0;  // in the block under way, its head included
    bool under_way_ = false;
    bool finishing_ = false;
    bool done_ = false;
    uint64_t next_sequence_ = 0;
    uint64_t limit_bytes_;
    uint64_t payload_bytes_ = 0;  // of all blocks begun
};

class BlockReader {
public:
    explicit BlockReader(Verify verify) : verify_(verify) {}

    // Takes bytes up to the end of the last block and returns how many it took.
    size_t consume(const char* data, size_t size);

    bool done() const { return done_; }
    uint64_t payload_bytes() const { return payload_bytes_; }
    // Heads that cannot be, and pieces that differ from the pattern.
    uint64_t errors() const { return errors_; }

private:
    void check_head();
    void check_payload(const char* data, size_t size);

    Verify verify_;
    BlockHead head_;
    size_t offset_ = 0;  // in the block under way, its head included
    bool done_ = false;
    uint64_t next_sequence_ = 0;
    uint64_t payload_bytes_ = 0;
    uint64_t errors_ = 0;
};

}  // namespace natrp::bench
