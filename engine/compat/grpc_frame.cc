#include "compat/grpc_frame.h"

#include <algorithm>

namespace natrp {
namespace {

constexpr uint64_t kTagData = 1 << 3 | 2;  // field 1, length-delimited
constexpr uint64_t kTagCode = 1 << 3 | 0;  // field 1, varint
constexpr uint64_t kTagMsg = 2 << 3 | 2;   // field 2, length-delimited
constexpr uint64_t kCodeFailed = 1;
constexpr uint8_t kVarintBits = 64;

constexpr GrpcFault kCompressed{
    GrpcStatus::kUnimplemented,
    "this edge takes no compressed messages: send them with grpc-encoding identity"};
constexpr GrpcFault kBadFlag{GrpcStatus::kInternal,
                             "a gRPC message began with a flag that is neither 0 nor 1"};
constexpr GrpcFault kTooLong{GrpcStatus::kResourceExhausted,
                             "a gRPC message was longer than this edge takes"};
constexpr GrpcFault kCutOff{GrpcStatus::kInternal, "a protobuf field went past the end of its message"};
constexpr GrpcFault kBadVarint{GrpcStatus::kInternal, "a protobuf number had more than 64 bits"};
constexpr GrpcFault kBadTag{GrpcStatus::kInternal,
                            "a protobuf field had a number or a type that does not exist"};
constexpr GrpcFault kGroup{GrpcStatus::kInternal,
                           "a message held a protobuf group, which proto3 does not have"};
constexpr GrpcFault kTwice{GrpcStatus::kInvalidArgument, "one message held the field `data` more than once"};

size_t put_varint(uint8_t* out, uint64_t value) {
  size_t size = 0;
  for (; value >= 0x80; value >>= 7) out[size++] = static_cast<uint8_t>(value | 0x80);
  out[size++] = static_cast<uint8_t>(value);
  return size;
}

void put_prefix(uint8_t* out, size_t message_size) {
  out[0] = 0;  // not compressed
  for (int i = 0; i < 4; ++i) out[1 + i] = static_cast<uint8_t>(message_size >> (24 - 8 * i));
}

}  // namespace

GrpcDeframer::Step GrpcDeframer::next(std::span<const uint8_t>& in) {
  while (!in.empty()) {
    if (state_ == State::kData || state_ == State::kSkip) {
      const bool is_data = state_ == State::kData;
      const auto part = in.first(std::min(in.size(), part_left_));
      in = in.subspan(part.size());
      part_left_ -= part.size();
      message_left_ -= part.size();
      if (part_left_ == 0) end_field();
      if (is_data) return {part, nullptr};
      continue;
    }
    const uint8_t byte = in.front();
    in = in.subspan(1);
    const GrpcFault* fault = state_ == State::kPrefix ? on_prefix_byte(byte) : on_field_byte(byte);
    if (fault) return {{}, fault};
  }
  return {};
}

const GrpcFault* GrpcDeframer::on_prefix_byte(uint8_t byte) {
  if (prefix_bytes_++ == 0) {
    if (byte == 1) return &kCompressed;
    if (byte != 0) return &kBadFlag;
    message_left_ = 0;
    return nullptr;
  }
  message_left_ = message_left_ << 8 | byte;
  if (prefix_bytes_ < 5) return nullptr;
  if (message_left_ > message_bytes_max_) return &kTooLong;
  data_seen_ = false;
  end_field();
  return nullptr;
}

const GrpcFault* GrpcDeframer::on_field_byte(uint8_t byte) {
  --message_left_;  // end_field() never leaves a field state with nothing left
  const uint64_t bits = byte & 0x7f;
  if (value_bits_ >= kVarintBits || (value_bits_ == 63 && bits > 1)) return &kBadVarint;
  value_ |= bits << value_bits_;
  value_bits_ = static_cast<uint8_t>(value_bits_ + 7);
  if (byte & 0x80) return message_left_ ? nullptr : &kCutOff;
  switch (state_) {
    case State::kTag: return on_tag(value_);
    case State::kDataLength: return begin_part(State::kData, value_);
    case State::kSkipLength: return begin_part(State::kSkip, value_);
    default:  // kSkipVarint
      end_field();
      return nullptr;
  }
}

const GrpcFault* GrpcDeframer::on_tag(uint64_t tag) {
  const uint64_t number = tag >> 3;
  if (number == 0 || number >= 1u << 29) return &kBadTag;
  if (tag == kTagData && data_seen_) return &kTwice;
  value_ = value_bits_ = 0;
  switch (tag & 7) {
    case 0: state_ = State::kSkipVarint; break;
    case 1: return begin_part(State::kSkip, 8);
    case 2:
      state_ = tag == kTagData ? State::kDataLength : State::kSkipLength;
      data_seen_ = data_seen_ || tag == kTagData;
      break;
    case 3:
    case 4: return &kGroup;
    case 5: return begin_part(State::kSkip, 4);
    default: return &kBadTag;
  }
  return message_left_ ? nullptr : &kCutOff;
}

const GrpcFault* GrpcDeframer::begin_part(State state, uint64_t size) {
  if (size > message_left_) return &kCutOff;
  part_left_ = static_cast<size_t>(size);
  state_ = state;
  if (size == 0) end_field();
  return nullptr;
}

void GrpcDeframer::end_field() {
  value_ = value_bits_ = 0;
  if (message_left_ > 0) {
    state_ = State::kTag;
    return;
  }
  state_ = State::kPrefix;
  prefix_bytes_ = 0;
  if (messages_ < 2) ++messages_;
}

size_t put_grpc_header(GrpcHeader& header, size_t size) {
  header[5] = static_cast<uint8_t>(kTagData);
  const size_t length_size = put_varint(&header[6], size);
  put_prefix(header.data(), 1 + length_size + size);
  return 6 + length_size;
}

std::string failed_account_answer(std::string_view sentence) {
  std::array<uint8_t, 5 + 2 + 1 + 10> head{};
  head[5] = static_cast<uint8_t>(kTagCode);
  head[6] = static_cast<uint8_t>(kCodeFailed);
  head[7] = static_cast<uint8_t>(kTagMsg);
  const size_t size = 8 + put_varint(&head[8], sentence.size());
  put_prefix(head.data(), size - 5 + sentence.size());
  std::string answer(head.begin(), head.begin() + static_cast<ptrdiff_t>(size));
  return answer.append(sentence);
}

std::string grpc_message(std::string_view text) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  std::string encoded;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte >= 0x20 && byte <= 0x7e && byte != '%') {
      encoded += c;
    } else {
      encoded += {'%', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return encoded;
}

std::optional<uint64_t> grpc_timeout_ms(std::string_view value) {
  if (value.size() < 2 || value.size() > 9) return std::nullopt;  // gRPC: at most 8 digits and a unit
  uint64_t number = 0;
  for (const char c : value.substr(0, value.size() - 1)) {
    if (c < '0' || c > '9') return std::nullopt;
    number = number * 10 + static_cast<uint64_t>(c - '0');
  }
  switch (value.back()) {
    case 'H': return number * 3'600'000;
    case 'M': return number * 60'000;
    case 'S': return number * 1000;
    case 'm': return number;
    case 'u': return (number + 999) / 1000;
    case 'n': return (number + 999'999) / 1'000'000;
    default: return std::nullopt;
  }
}

}  // namespace natrp
