#include "control/start_message.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <cstring>

namespace natrp {
namespace {

StartBytes start_of_v4(const char* address, uint16_t port, uint32_t tunnel) {
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  v4.sin_port = htons(port);
  inet_pton(AF_INET, address, &v4.sin_addr);
  return encode_start(tunnel, reinterpret_cast<const sockaddr*>(&v4));
}

StartBytes start_of_v6(const char* address, uint16_t port, uint32_t tunnel) {
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(port);
  inet_pton(AF_INET6, address, &v6.sin6_addr);
  return encode_start(tunnel, reinterpret_cast<const sockaddr*>(&v6));
}

// "192.0.2.1:1234", "[2001:db8::1]:1234", or "unknown".
std::string visitor_in(const StartBytes& start) {
  char text[INET6_ADDRSTRLEN];
  const std::string port = std::to_string(start[6] << 8 | start[7]);
  switch (start[5]) {
    case 4: return inet_ntop(AF_INET, start.data() + 12, text, sizeof text) + (":" + port);
    case 6: return "[" + std::string(inet_ntop(AF_INET6, start.data() + 12, text, sizeof text)) + "]:" + port;
    default: return "unknown";
  }
}

void expect_visitor(const StartBytes& start, uint32_t tunnel, const std::string& visitor) {
  const Result<StartFields> fields = parse_start(start);
  ASSERT_TRUE(fields) << fields.error().message;
  EXPECT_EQ(fields.value().tunnel_index, tunnel);
  EXPECT_EQ(visitor_in(start), visitor);
}

TEST(StartMessage, CarriesTheTunnelAndTheVisitor) {
  expect_visitor(start_of_v4("192.0.2.7", 40001, 0), 0, "192.0.2.7:40001");
  expect_visitor(start_of_v4("255.255.255.255", 65535, 0xfffffffe), 0xfffffffe, "255.255.255.255:65535");
  expect_visitor(start_of_v6("2001:db8::1", 1, 255), 255, "[2001:db8::1]:1");
}

TEST(StartMessage, WritesAnIPv4AddressInsideIPv6AsIPv4) {
  EXPECT_EQ(start_of_v6("::ffff:192.0.2.7", 40001, 2), start_of_v4("192.0.2.7", 40001, 2));
}

TEST(StartMessage, HasTheBytesOfTheProtocol) {
  const StartBytes start = start_of_v4("192.0.2.7", 0x1234, 0x01020304);
  const uint8_t expected[16] = {'N', 'T', 'R', 'S', 1, 4, 0x12, 0x34, 1, 2, 3, 4, 192, 0, 2, 7};
  EXPECT_EQ(std::memcmp(start.data(), expected, sizeof expected), 0);
  for (size_t i = sizeof expected; i < start.size(); ++i) EXPECT_EQ(start[i], 0) << i;
}

TEST(StartMessage, AVisitorWithoutAnInternetAddressIsUnknown) {
  expect_visitor(encode_start(3, nullptr), 3, "unknown");
  sockaddr_un local{};
  local.sun_family = AF_UNIX;
  expect_visitor(encode_start(3, reinterpret_cast<const sockaddr*>(&local)), 3, "unknown");
}

TEST(StartMessage, SaysWhetherChunksFollow) {
  const StartBytes without = encode_start(3, nullptr);
  const StartBytes with = encode_start(3, nullptr, true);
  EXPECT_FALSE(parse_start(without).value().chunks);
  EXPECT_TRUE(parse_start(with).value().chunks);
  EXPECT_EQ(without[28], 0);
  EXPECT_EQ(with[28], 1);
}

TEST(StartMessage, RefusesAnotherLengthMagicVersionFamilyOrReservedByte) {
  const StartBytes good = start_of_v4("192.0.2.7", 1, 1);
  EXPECT_FALSE(parse_start(std::span(good).first(63)));
  for (const size_t at : {0, 3, 4, 5, 28, 29, 63}) {
    StartBytes start = good;
    start[at] ^= at == 28 ? 2 : 1;  // 1 is a flag that is known
    EXPECT_FALSE(parse_start(start)) << "byte " << at;
  }
}

TEST(StartMessage, RefusesBytesWhereTheAddressFamilyHasNone) {
  for (const size_t at : {16, 27}) {
    StartBytes start = start_of_v4("192.0.2.7", 1, 1);
    start[at] = 1;
    EXPECT_FALSE(parse_start(start)) << "byte " << at << " of family 4";
  }
  for (const size_t at : {6, 7, 12, 27}) {
    StartBytes start = encode_start(3, nullptr);
    start[at] = 1;
    EXPECT_FALSE(parse_start(start)) << "byte " << at << " of family 0";
  }
}

}  // namespace
}  // namespace natrp
