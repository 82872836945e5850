// compat/grpc_frame.h
//
// The few words of gRPC and protobuf that the original natrp speaks, coded by hand: its messages are one field, `bytes
// data = 1`. A protobuf library would need a whole message in memory (4 MiB a stream) before the first byte of it could
// go on to the visitor; GrpcDeframer hands every byte on as it comes. Sources: gRPC "PROTOCOL-HTTP2.md", protobuf
// "Encoding".
//
// Thread   GrpcDeframer: its stream's. The functions: any; no state.
// Never    buffers content, or waits for the end of a message.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace natrp {

// The numbers are gRPC's.
enum class GrpcStatus : uint8_t {
  kOk = 0,
  kCancelled = 1,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kResourceExhausted = 8,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kUnauthenticated = 16,
};

// What the peer did wrong, in the words that it will be told.
struct GrpcFault {
  GrpcStatus status;
  const char* sentence;
};

// GrpcDeframer: turns the DATA of one stream into the contents of field 1 of its messages.
//
//   between messages → prefix → fields → between messages …      any → faulty
//
// Needs 48 bytes, allocates nothing. Unknown fields are skipped. A second field 1 in a message is a fault: for a parser
// of whole messages it would replace the first, whose bytes have gone on here. So are groups.
class GrpcDeframer {
 public:
  explicit GrpcDeframer(size_t message_bytes_max) : message_bytes_max_(message_bytes_max) {}

  struct Step {
    std::span<const uint8_t> data;     // content to hand on; empty: nothing more in `in`, or a fault
    const GrpcFault* fault = nullptr;  // the stream is of no use any more
  };

  // Reads from the front of `in` up to and including the next piece of content, and shortens `in` by what it
  // read. `data` points into what `in` pointed to. Call until `in` is empty. Not to be called again after a fault.
  Step next(std::span<const uint8_t>& in);

  bool between_messages() const { return state_ == State::kPrefix && prefix_bytes_ == 0; }
  // Messages that came to their end; whoever needs exactly one need not care past 2.
  uint8_t messages() const { return messages_; }

 private:
  enum class State : uint8_t { kPrefix, kTag, kDataLength, kSkipLength, kSkipVarint, kData, kSkip };

  const GrpcFault* on_prefix_byte(uint8_t byte);
  const GrpcFault* on_field_byte(uint8_t byte);
  const GrpcFault* on_tag(uint64_t tag);
  const GrpcFault* begin_part(State state, uint64_t size);
  void end_field();

  size_t message_bytes_max_;
  size_t message_left_ = 0;  // bytes of this message that have not come yet
  size_t part_left_ = 0;     // bytes of this field's content that have not come yet
  uint64_t value_ = 0;       // the number being read
  uint8_t value_bits_ = 0;
  uint8_t prefix_bytes_ = 0;
  uint8_t messages_ = 0;
  bool data_seen_ = false;
  State state_ = State::kPrefix;
};

// What stands before the content of a message: five bytes of gRPC prefix, the tag, a length of up to three bytes.
inline constexpr size_t kGrpcHeaderBytesMax = 9;
using GrpcHeader = std::array<uint8_t, kGrpcHeaderBytesMax>;

// Writes the header of a message with `size` bytes of content (1 to 2^21 - 1); returns its length.
size_t put_grpc_header(GrpcHeader& header, size_t size);

// RegisterResponse and LoginResponse have the same first fields: {code = CodeFailed, msg = sentence}, with its prefix.
std::string failed_account_answer(std::string_view sentence);

// The value of `grpc-message`: percent-encoded, because a header cannot carry everything.
std::string grpc_message(std::string_view text);

// The value of `grpc-timeout` in milliseconds, rounded up; nothing when it is not one.
std::optional<uint64_t> grpc_timeout_ms(std::string_view value);

}  // namespace natrp
