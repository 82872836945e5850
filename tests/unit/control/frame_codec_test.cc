#include "control/frame_codec.h"

#include <gtest/gtest.h>

#include "base/limits.h"

namespace natrp {
namespace {

std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string with_length(size_t length, const std::string& body) {
  std::string text;
  for (const unsigned shift : {24u, 16u, 8u, 0u}) text += static_cast<char>(length >> shift & 0xff);
  return text + body;
}

std::string encoded_bye(const std::string& reason) {
  wire::Frame frame;
  frame.mutable_bye()->set_reason(reason);
  std::string text;
  EXPECT_TRUE(encode_frame(frame, text));
  return text;
}

TEST(FrameCodec, ATextIsCutBetweenCharacters) {
  EXPECT_EQ(cut_text("", 3), "");
  EXPECT_EQ(cut_text("abc", 3), "abc");
  EXPECT_EQ(cut_text("abcd", 3), "abc");
  const std::string text = "a\xc3\xa9\xe2\x80\xa6\xf0\x9f\x98\x80";  // of 1, 2, 3 and 4 bytes
  const std::vector<size_t> kept{0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10};
  for (size_t bytes = 0; bytes <= text.size(); ++bytes) {
    EXPECT_EQ(cut_text(text, bytes), text.substr(0, kept[bytes])) << bytes;
  }
}

TEST(FrameCodec, ASentenceOfAnyBytesArrives) {
  // A byte of Latin-1, one alone, a half, the longer form of '/', a surrogate, what is past the last character.
  for (const std::string bytes :
       {"unix:/run/caf\xe9.sock", "\x80", "\xe2\x80", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
        "\xff", "\xf0\x9f\x98", "\xe2\xe2\x80\xa6"}) {
    FrameDecoder decoder;
    const std::string text = cut_text(bytes, kSentenceBytesMax);
    decoder.feed(bytes_of(encoded_bye(text)));
    const auto next = decoder.next();
    ASSERT_TRUE(next) << text << ": " << next.error().message;
    EXPECT_EQ(next.value()->bye().reason(), text);
    EXPECT_EQ(text.size(), bytes.size());
    EXPECT_NE(text.find('?'), std::string::npos) << text;
  }
  EXPECT_EQ(cut_text("unix:/run/caf\xe9.sock", 64), "unix:/run/caf?.sock");
  EXPECT_EQ(cut_text("\xe2\xe2\x80\xa6", 64), "?\xe2\x80\xa6");
  // The first and the last of each length.
  const std::string good(
      "\x00\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", 26);
  EXPECT_EQ(cut_text(good, 64), good);
}

TEST(FrameCodec, ASentenceOfAnyLengthFits) {
  std::string sentence;
  while (sentence.size() <= kFrameBytesMax) sentence += "\xe2\x80\xa6";
  FrameDecoder decoder;
  decoder.feed(bytes_of(encoded_bye(cut_text(sentence, kSentenceBytesMax))));
  const auto next = decoder.next();
  ASSERT_TRUE(next) << next.error().message;
  EXPECT_EQ(next.value()->bye().reason().size(), kSentenceBytesMax / 3 * 3);
}

TEST(FrameCodec, FramesComeOutAsTheyWentInByteByByteOrAllAtOnce) {
  const std::string stream = encoded_bye("one") + encoded_bye("") + encoded_bye(std::string(60'000, 'x'));
  for (const size_t step : {size_t{1}, size_t{7}, stream.size()}) {
    FrameDecoder decoder;
    std::vector<std::string> reasons;
    for (size_t at = 0; at < stream.size(); at += step) {
      decoder.feed(bytes_of(stream.substr(at, step)));
      for (;;) {
        auto next = decoder.next();
        ASSERT_TRUE(next) << next.error().message;
        if (!next.value()) break;
        ASSERT_TRUE(next.value()->has_bye());
        reasons.push_back(next.value()->bye().reason());
      }
    }
    ASSERT_EQ(reasons.size(), 3u) << "step " << step;
    EXPECT_EQ(reasons[0], "one");
    EXPECT_EQ(reasons[1], "");
    EXPECT_EQ(reasons[2].size(), 60'000u);
    EXPECT_EQ(decoder.pending(), 0u);
  }
}

TEST(FrameCodec, ATruncatedFrameIsNoFrame) {
  const std::string whole = encoded_bye("farewell");
  for (size_t length = 0; length < whole.size(); ++length) {
    FrameDecoder decoder;
    decoder.feed(bytes_of(whole.substr(0, length)));
    auto next = decoder.next();
    ASSERT_TRUE(next);
    EXPECT_FALSE(next.value()) << length;
    EXPECT_EQ(decoder.pending(), length);
  }
}

TEST(FrameCodec, AFrameOfTheLimitPassesAndOneByteMoreIsRefusedBeforeItsBytesAreThere) {
  const size_t overhead = encoded_bye(std::string(60'000, 'x')).size() - 4 - 60'000;
  wire::Frame frame;
  frame.mutable_bye()->set_reason(std::string(kFrameBytesMax - overhead, 'x'));
  ASSERT_EQ(frame.ByteSizeLong(), kFrameBytesMax);
  std::string text;
  ASSERT_TRUE(encode_frame(frame, text));
  FrameDecoder decoder;
  decoder.feed(bytes_of(text));
  auto next = decoder.next();
  ASSERT_TRUE(next);
  EXPECT_TRUE(next.value());

  frame.mutable_bye()->set_reason(std::string(kFrameBytesMax - overhead + 1, 'x'));
  std::string none;
  EXPECT_FALSE(encode_frame(frame, none));
  EXPECT_TRUE(none.empty());
  for (const size_t length : {kFrameBytesMax + 1, size_t{0xffffffff}}) {
    FrameDecoder strict;
    strict.feed(bytes_of(with_length(length, "")));
    EXPECT_FALSE(strict.next()) << length;
  }
}

TEST(FrameCodec, BytesThatAreNoProtobufAreRefused) {
  FrameDecoder decoder;
  decoder.feed(bytes_of(with_length(3, "\xff\xff\xff")));
  EXPECT_FALSE(decoder.next());
}

TEST(FrameCodec, AnUnknownMessageIsRefused) {
  // Field 99 of Frame, an empty message; and a Frame with nothing in it.
  for (const std::string& body : {std::string("\x9a\x06\x00", 3), std::string()}) {
    FrameDecoder decoder;
    decoder.feed(bytes_of(with_length(body.size(), body)));
    auto next = decoder.next();
    ASSERT_FALSE(next);
    EXPECT_NE(next.error().message.find("does not know"), std::string::npos);
  }
}

TEST(FrameCodec, AnUnknownFieldOfAKnownMessageIsKept) {
  // Bye (13) with field 15 = 7.
  const std::string body("\x6a\x02\x78\x07", 4);
  FrameDecoder decoder;
  decoder.feed(bytes_of(with_length(body.size(), body)));
  auto next = decoder.next();
  ASSERT_TRUE(next) << next.error().message;
  ASSERT_TRUE(next.value());
  EXPECT_EQ(next.value()->SerializeAsString(), body);
}

}  // namespace
}  // namespace natrp
