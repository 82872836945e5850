#pragma once
// Pattern: bytes that depend on where they stand, the same in every process.
//
// One table of pseudo-random bytes, made once. A slice begins at a place that its number chooses, so a lost,
// doubled or moved piece of a stream meets other bytes than were sent. Every slice begins with 'E', the byte
// that asks the service for an echo: an exchange may send a slice as it is.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace natrp::bench {

// The longest slice, and the size of one block of a bulk stream.
constexpr size_t kSliceBytes = 256 * 1024;

class Pattern {
public:
    static const Pattern& get() {
        static const Pattern pattern;
        return pattern;
    }

    // kSliceBytes bytes; lives as long as the program.
    const char* slice(uint64_t number) const {
        constexpr uint64_t kPlaces = kSliceBytes / kStep;
        // 2731 shares no factor with the number of places: 4,096 slices in a row all differ.
        return table_.data() + number * 2731 % kPlaces * kStep;
    }

private:
    static constexpr size_t kStep = 64;

    Pattern() : table_(2 * kSliceBytes) {
        uint64_t state = 0x9e3779b97f4a7c15U;
        for (size_t i = 0; i < table_.size(); ++i) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            table_[i] = i % kStep == 0 ? 'E' : static_cast<char>(state >> 32);
        }
    }

    std::vector<char> table_;
};

}  // namespace natrp::bench
