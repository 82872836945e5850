// Chunks, without a socket: what is written before the bytes, and what is taken out of them again, however they are
// cut.
#include "relay/chunks.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "net/conn.h"
#include "relay/chunk_text.h"
#include "relay/pump.h"

namespace natrp {
namespace {

constexpr size_t kRoom = 1 << 17;

// One direction's pump and its buffer, with the room before it that a header needs.
struct Direction {
  Pump pump;
  Conn source;
  std::vector<unsigned char> memory = std::vector<unsigned char>(kBufferHeadBytes + kRoom, 0xaa);

  unsigned char* buffer() { return memory.data() + kBufferHeadBytes; }
  void receive(std::string_view bytes) {
    ASSERT_LE(bytes.size(), kRoom);
    std::memcpy(buffer(), bytes.data(), bytes.size());
    pump.offset = 0;
    pump.pending = static_cast<uint32_t>(bytes.size());
  }
  // What would be sent: the header and the bytes behind it.
  std::string wrapped(const std::string& bytes) {
    receive(bytes);
    chunk_wrap(pump, buffer(), source);
    const unsigned char* at = buffer() + pump.offset - pump.header_left;
    std::string out(reinterpret_cast<const char*>(at), pump.pending + pump.header_left);
    pump.header_left = 0;
    return out;
  }
};

struct Unwrapped {
  std::string payload;
  bool ours = true;
  bool end = false;
  bool free = false;
  bool raw = false;
  bool operator==(const Unwrapped&) const = default;
};

void PrintTo(const Unwrapped& what, std::ostream* out) {
  *out << what.payload.size() << " bytes" << (what.ours ? "" : " not ours") << (what.end ? " END" : "")
       << (what.free ? " FREE" : "") << (what.raw ? " RAW" : "");
}

Unwrapped unwrapped(const std::vector<std::string_view>& receives) {
  Direction direction;
  direction.pump.unwraps = true;
  Unwrapped out;
  for (const std::string_view bytes : receives) {
    if (bytes.empty()) continue;
    direction.receive(bytes);
    if (direction.pump.unwraps) {
      out.ours = chunk_unwrap(direction.pump, direction.buffer());
      if (!out.ours) return out;
    }
    out.payload.append(reinterpret_cast<const char*>(direction.buffer()) + direction.pump.offset,
                       direction.pump.pending);
  }
  out.end = direction.pump.end_came;
  out.free = direction.pump.free_came;
  out.raw = !direction.pump.unwraps;
  return out;
}

std::vector<std::string_view> one_by_one(const std::string& bytes) {
  std::vector<std::string_view> out;
  for (size_t at = 0; at < bytes.size(); ++at) out.emplace_back(bytes.data() + at, 1);
  return out;
}

std::string some_bytes(size_t size) {
  std::mt19937 random{static_cast<unsigned>(size)};
  std::string out(size, 0);
  for (char& c : out) c = static_cast<char>(random());
  return out;
}

// --- Wrapping -----------------------------------------------------------------------------------------------------

TEST(Chunks, AMessageGetsTwoBytesThatSayItsLength) {
  for (const size_t size : {size_t{1}, size_t{2}, size_t{100}, size_t{kChunkBytesMax}}) {
    Direction direction;
    direction.pump.wraps = true;
    const std::string bytes = some_bytes(size);
    EXPECT_EQ(direction.wrapped(bytes), chunk_header(static_cast<uint16_t>(size)) + bytes) << size;
    EXPECT_TRUE(direction.pump.wraps) << size;
  }
}

TEST(Chunks, WhatLooksLikeAStreamIsSaidRawOnce) {
  for (const size_t size : {size_t{kChunkBytesMax} + 1, size_t{40'000}, size_t{65'534}}) {
    Direction direction;
    direction.pump.wraps = true;
    const std::string bytes = some_bytes(size);
    EXPECT_EQ(direction.wrapped(bytes), chunk_header(kChunkRaw) + bytes) << size;
    EXPECT_FALSE(direction.pump.wraps) << "the next receive is sent as it came";
  }
}

TEST(Chunks, AfterSoManyBytesASmallMessageIsAStreamToo) {
  Direction direction;
  direction.pump.wraps = true;
  direction.source.bytes_received = kChunkedBytesMax - 1;
  EXPECT_EQ(direction.wrapped("x"), chunk_header(1) + "x");
  EXPECT_TRUE(direction.pump.wraps);
  direction.source.bytes_received = kChunkedBytesMax;
  EXPECT_EQ(direction.wrapped("y"), chunk_header(kChunkRaw) + "y");
  EXPECT_FALSE(direction.pump.wraps);
}

// --- Unwrapping ---------------------------------------------------------------------------------------------------

TEST(Chunks, WhatWasWrappedIsUnwrapped) {
  for (const size_t size : {size_t{1}, size_t{2}, size_t{100}, size_t{kChunkBytesMax}, size_t{kChunkBytesMax} + 1}) {
    Direction direction;
    direction.pump.wraps = true;
    const std::string bytes = some_bytes(size);
    const std::string wire = direction.wrapped(bytes);
    const Unwrapped whole = unwrapped({wire});
    EXPECT_EQ(whole, (Unwrapped{.payload = bytes, .raw = size > kChunkBytesMax})) << size;
    EXPECT_EQ(unwrapped(one_by_one(wire)), whole) << size;
  }
}

TEST(Chunks, SeveralInOneReceiveBecomeOneRunOfBytes) {
  const std::string wire = chunk_of("a") + chunk_of("bc") + chunk_of(std::string(300, 'd')) + chunk_of("e");
  EXPECT_EQ(unwrapped({wire}), (Unwrapped{.payload = "abc" + std::string(300, 'd') + "e"}));
}

TEST(Chunks, HoweverAStreamIsCutItsBytesAndItsEndAreTheSame) {
  const std::vector<std::string> wires{
      chunk_of("GET /") + chunk_of("x") + chunk_of(std::string(20, '\x80')) + kEndText + kFreeText,
      chunk_of(std::string("\x80\x01\x80\x02", 4)) + kEndText,
      kEndText + kFreeText,
      chunk_of("ab") + chunk_header(kChunkRaw) + std::string("\x80\x01\x00\x00\x80\x02\xff\xff raw", 12),
      chunk_of("a whole one") + std::string("\x00\x05half", 6),
      chunk_of("a whole one") + std::string("\x01", 1),
  };
  for (const std::string& wire : wires) {
    const std::string_view all = wire;
    const Unwrapped whole = unwrapped({all});
    EXPECT_TRUE(whole.ours);
    EXPECT_EQ(unwrapped(one_by_one(wire)), whole);
    for (size_t first = 0; first <= wire.size(); ++first) {
      EXPECT_EQ(unwrapped({all.substr(0, first), all.substr(first)}), whole) << first;
      for (size_t second = first; second <= wire.size(); ++second) {
        EXPECT_EQ(unwrapped({all.substr(0, first), all.substr(first, second - first), all.substr(second)}), whole)
            << first << " " << second;
      }
    }
  }
}

TEST(Chunks, BehindRawAllIsBytesAlsoWhatLooksLikeAHeader) {
  const std::string bytes("\x80\x01\x80\x02\x00\x00\xff\xff", 8);
  const std::string wire = chunk_header(kChunkRaw) + bytes;
  EXPECT_EQ(unwrapped({wire}), (Unwrapped{.payload = bytes, .raw = true}));
  EXPECT_EQ(unwrapped({std::string_view(wire).substr(0, 2), bytes}), (Unwrapped{.payload = bytes, .raw = true}));
}

TEST(Chunks, WhatIsNotOurProtocolIsRefused) {
  const std::vector<std::string> refused{
      chunk_header(0),
      chunk_header(0x8003),
      chunk_header(0xffff),
      chunk_header(kChunkFree),               // before END
      kEndText + chunk_of("x"),
      kEndText + kEndText,
      kEndText + chunk_header(kChunkRaw),
      kEndText + kFreeText + "x",
      kEndText + kFreeText + kFreeText,
      kEndText + kFreeText + chunk_of("x"),
  };
  for (const std::string& tail : refused) {
    for (const std::string& head : {std::string(), chunk_of("before")}) {
      const std::string wire = head + tail;
      EXPECT_FALSE(unwrapped({wire}).ours) << testing::PrintToString(wire);
      EXPECT_FALSE(unwrapped(one_by_one(wire)).ours) << testing::PrintToString(wire);
    }
  }
}

TEST(Chunks, RandomStreamsCutAtRandomAreWhatTheyAreOneByteAtATime) {
  std::mt19937 random{7};
  for (int round = 0; round < 3000; ++round) {
    std::string wire;
    for (unsigned parts = random() % 6; parts > 0; --parts) {
      switch (random() % 12) {
        case 0: wire += kEndText; break;
        case 1: wire += kFreeText; break;
        case 2: wire += chunk_header(kChunkRaw); break;
        case 3: wire += some_bytes(random() % 4); break;
        default: wire += chunk_of(some_bytes(1 + random() % 40)); break;
      }
    }
    std::vector<std::string_view> cut;
    for (std::string_view rest = wire; !rest.empty();) {
      const size_t n = 1 + random() % rest.size();
      cut.push_back(rest.substr(0, n));
      rest.remove_prefix(n);
    }
    const Unwrapped expected = unwrapped(one_by_one(wire));
    const Unwrapped got = unwrapped(cut);
    if (expected.ours) {
      ASSERT_EQ(got, expected) << testing::PrintToString(wire);
    } else {
      ASSERT_FALSE(got.ours) << testing::PrintToString(wire);
    }
  }
}

}  // namespace
}  // namespace natrp
