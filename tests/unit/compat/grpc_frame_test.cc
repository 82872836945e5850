#include "compat/grpc_frame.h"

#include <gtest/gtest.h>

#include <random>

#include "compat/byte_ring.h"
#include "grpc_peer.h"

namespace natrp {
namespace {

using namespace std::string_literals;

struct Outcome {
  std::string data;
  const GrpcFault* fault = nullptr;
  bool between = true;
  int messages = 0;
};

// Fed in pieces of `step`, which must never make a difference.
Outcome deframe(std::string_view input, size_t step, size_t bytes_max = 4 * 1024 * 1024) {
  GrpcDeframer deframer(bytes_max);
  Outcome outcome;
  for (size_t done = 0; done < input.size() && !outcome.fault; done += step) {
    auto in = bytes_of(input.substr(done, step));
    while (!in.empty()) {
      const auto result = deframer.next(in);
      outcome.data.append(result.data.begin(), result.data.end());
      outcome.fault = result.fault;
      if (result.fault) break;
    }
  }
  outcome.between = deframer.between_messages();
  outcome.messages = deframer.messages();
  return outcome;
}

std::string raw_message(std::string_view body, char flag = 0) {
  std::string message(5, '\0');
  message[0] = flag;
  for (int i = 0; i < 4; ++i) message[1 + i] = static_cast<char>(body.size() >> (24 - 8 * i));
  return message.append(body);
}

void expect_fault(std::string_view input, GrpcStatus status, std::string_view about) {
  for (const size_t step : {1u, 3u, 1000u}) {
    const Outcome outcome = deframe(input, step);
    ASSERT_NE(nullptr, outcome.fault) << "in pieces of " << step;
    EXPECT_EQ(status, outcome.fault->status);
    EXPECT_NE(std::string_view::npos, std::string_view(outcome.fault->sentence).find(about))
        << outcome.fault->sentence;
  }
}

TEST(GrpcDeframer, GivesTheContentsOfMessagesInOrderHoweverTheyAreCut) {
  std::mt19937 random(7);
  std::string wire, content;
  for (const size_t size : {1u, 2u, 127u, 128u, 16375u, 16384u, 70000u, 300u}) {
    std::string part(size, '\0');
    for (char& c : part) c = static_cast<char>(random());
    content += part;
    wire += message_of(part);
  }
  for (const size_t step : {1u, 2u, 7u, 1000u, 16384u, 1000000u}) {
    const Outcome outcome = deframe(wire, step);
    EXPECT_EQ(nullptr, outcome.fault);
    EXPECT_TRUE(outcome.between);
    EXPECT_EQ(content, outcome.data) << "in pieces of " << step;
  }
}

TEST(GrpcDeframer, TakesEmptyMessagesAndEmptyFields) {
  const Outcome outcome = deframe(raw_message("") + raw_message("\x0a\x00"s) + message_of("x"), 1);
  EXPECT_EQ(nullptr, outcome.fault);
  EXPECT_EQ("x", outcome.data);
  EXPECT_EQ(2, outcome.messages) << "counts no further than 2";
  EXPECT_TRUE(outcome.between);
}

TEST(GrpcDeframer, SkipsFieldsItDoesNotKnow) {
  // 2: varint, 3: eight bytes, 4: a string, 5: four bytes, 1 as a varint (another type is another field),
  // then the data.
  const std::string body = "\x10\xff\xff\x01"s + "\x19" + "12345678" +
                           "\x22\x03"
                           "abc" +
                           "\x2d"
                           "1234" +
                           "\x08\x05" +
                           "\x0a\x02"
                           "hi" +
                           "\x10\x01";
  for (const size_t step : {1u, 2u, 100u}) {
    const Outcome outcome = deframe(raw_message(body) + message_of("!"), step);
    EXPECT_EQ(nullptr, outcome.fault);
    EXPECT_EQ("hi!", outcome.data);
  }
}

TEST(GrpcDeframer, KnowsThatAMessageIsNotWholeYet) {
  const std::string wire = message_of("hello");
  for (size_t size = 1; size < wire.size(); ++size) {
    EXPECT_FALSE(deframe(std::string_view(wire).substr(0, size), 1).between) << size;
  }
}

TEST(GrpcDeframer, RefusesCompressedMessages) {
  expect_fault(raw_message("\x0a\x01x", 1), GrpcStatus::kUnimplemented, "compressed");
}

TEST(GrpcDeframer, RefusesAFlagThatDoesNotExist) {
  expect_fault(raw_message("\x0a\x01x", 2), GrpcStatus::kInternal, "flag");
}

TEST(GrpcDeframer, RefusesAMessageThatIsTooLongBeforeItsFirstByte) {
  EXPECT_EQ(nullptr, deframe(message_of(std::string(1000, 'x')), 1, 1003).fault);
  const Outcome outcome = deframe(message_of(std::string(1001, 'x')), 1, 1003);
  ASSERT_NE(nullptr, outcome.fault);
  EXPECT_EQ(GrpcStatus::kResourceExhausted, outcome.fault->status);
  EXPECT_EQ("", outcome.data);
}

TEST(GrpcDeframer, RefusesWhatIsNotProtobuf) {
  expect_fault(raw_message("\x0a\x05"
                           "abc"),
               GrpcStatus::kInternal, "past the end");
  expect_fault(raw_message("\x0a"), GrpcStatus::kInternal, "past the end");
  expect_fault(raw_message("\x0a\x80"), GrpcStatus::kInternal, "past the end");
  expect_fault(raw_message("\x19"
                           "1234567"),
               GrpcStatus::kInternal, "past the end");
  expect_fault(raw_message("\x02\x01x"s), GrpcStatus::kInternal, "a number or a type");
  expect_fault(raw_message("\x0e\x01x"s), GrpcStatus::kInternal, "a number or a type");
  expect_fault(raw_message("\x13\x14"), GrpcStatus::kInternal, "group");
  expect_fault(raw_message("\x10" + std::string(10, '\xff') + "\x01"), GrpcStatus::kInternal, "64 bits");
  expect_fault(raw_message("\x0a" + std::string(9, '\xff') + "\x01"), GrpcStatus::kInternal, "past the end");
}

TEST(GrpcDeframer, RefusesASecondDataFieldInOneMessage) {
  expect_fault(raw_message("\x0a\x01x\x0a\x01y"), GrpcStatus::kInvalidArgument, "more than once");
}

TEST(GrpcHeader, IsWhatAParserOfMessagesExpects) {
  for (const size_t size : {1u, 127u, 128u, 16375u, 16383u, 16384u, (1u << 21) - 1}) {
    const std::string content(size, 'c');
    GrpcHeader header;
    const size_t header_size = put_grpc_header(header, size);
    EXPECT_EQ(message_of(content), std::string(header.begin(), header.begin() + header_size) + content);
  }
}

TEST(FailedAccountAnswer, IsAMessageWithCodeFailedAndTheSentence) {
  EXPECT_EQ("\0\0\0\0\x06\x08\x01\x12\x02no"s, failed_account_answer("no"));
  const std::string sentence(200, 's');
  EXPECT_EQ("\0\0\0\0\xcd\x08\x01\x12\xc8\x01"s + sentence, failed_account_answer(sentence));
}

TEST(GrpcMessage, IsPercentEncoded) {
  EXPECT_EQ("bad metadata", grpc_message("bad metadata"));
  EXPECT_EQ("100%25%0A%C3%A9%7F~", grpc_message("100%\n\xc3\xa9\x7f~"));
}

TEST(GrpcTimeout, IsReadInEveryUnitAndRoundedUp) {
  EXPECT_EQ(7'200'000u, grpc_timeout_ms("2H"));
  EXPECT_EQ(120'000u, grpc_timeout_ms("2M"));
  EXPECT_EQ(2000u, grpc_timeout_ms("2S"));
  EXPECT_EQ(250u, grpc_timeout_ms("250m"));
  EXPECT_EQ(3u, grpc_timeout_ms("2001u"));
  EXPECT_EQ(1u, grpc_timeout_ms("1n"));
  EXPECT_EQ(99999999ull * 3'600'000, grpc_timeout_ms("99999999H"));
  for (const char* bad : {"", "S", "5", "1x", "-1S", "1.5S", " 1S", "100000000S"}) {
    EXPECT_FALSE(grpc_timeout_ms(bad)) << bad;
  }
}

TEST(ByteRing, KeepsTheOrderWhileItGrowsAndWraps) {
  std::mt19937 random(3);
  ByteRing ring(5000);
  uint8_t next_in = 0, next_out = 0;
  for (int round = 0; round < 2000; ++round) {
    std::vector<uint8_t> in(random() % 1500), out(random() % 1500);
    const uint8_t first = next_in;
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint8_t>(first + i);
    const size_t room = ring.room();
    const size_t put = ring.put(in);
    ASSERT_EQ(std::min(room, in.size()), put);
    next_in = static_cast<uint8_t>(first + put);
    const size_t size = ring.size();
    const size_t taken = ring.take(out);
    ASSERT_EQ(std::min(size, out.size()), taken);
    for (size_t i = 0; i < taken; ++i) ASSERT_EQ(next_out++, out[i]);
  }
  ring.release();
  EXPECT_TRUE(ring.empty());
  EXPECT_EQ(5000u, ring.room());
  EXPECT_EQ(3u, ring.put(bytes_of("abc")));
}

}  // namespace
}  // namespace natrp
