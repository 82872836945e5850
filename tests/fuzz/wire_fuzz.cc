// Whatever a stranger may send before anybody knows him, and what an operator may paste: a hello, a Start, control
// frames, a join token, an address, a set of ports. None may crash, and what is accepted must print as it was read.
#include <cstdlib>
#include <span>
#include <string>

#include "base/join_token.h"
#include "base/port_set.h"
#include "control/frame_codec.h"
#include "control/start_message.h"
#include "control/ticket.h"
#include "net/address.h"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const uint8_t kind = data[0];
  const std::span<const uint8_t> bytes(data + 1, size - 1);
  const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  switch (kind % 6) {
    case 0:
      if (const auto hello = natrp::parse_hello(bytes); hello.ok()) require(bytes.size() == natrp::kHelloBytes);
      break;
    case 1:
      if (const auto start = natrp::parse_start(bytes); start.ok()) require(bytes.size() == natrp::kStartBytes);
      break;
    case 2: {
      natrp::FrameDecoder decoder;
      decoder.feed(bytes);
      for (int i = 0; i < 1000; ++i) {
        const auto frame = decoder.next();
        if (!frame.ok() || !frame.value()) break;
        require(frame.value()->body_case() != natrp::wire::Frame::BODY_NOT_SET);
      }
      break;
    }
    case 3:
      if (const auto token = natrp::parse_join_token(text); token.ok()) {
        const auto again = natrp::parse_join_token(natrp::format_join_token(token.value()));
        require(again.ok() && again.value().secret == token.value().secret && again.value().pin == token.value().pin);
      }
      break;
    case 4:
      if (const auto address = natrp::Address::parse(text); address.ok()) {
        const auto again = natrp::Address::parse(address.value().text());
        require(again.ok() && again.value().text() == address.value().text());
      }
      break;
    default:
      if (const auto ports = natrp::PortSet::parse(text); ports.ok()) {
        const auto again = natrp::PortSet::parse(ports.value().format());
        require(again.ok() && again.value() == ports.value());
      }
      break;
  }
  return 0;
}
