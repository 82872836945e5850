#include "net/address.h"

#include <gtest/gtest.h>

namespace natrp {
namespace {

TEST(Address, WhatIsParsedIsPrintedAgain) {
  for (const char* text : {"127.0.0.1:80", "0.0.0.0:0", "255.255.255.255:65535", "[::1]:80", "[::]:10022",
                           "[2001:db8::5]:1"}) {
    auto parsed = Address::parse(text);
    ASSERT_TRUE(parsed.ok()) << text;
    EXPECT_EQ(parsed.value().text(), text);
  }
  EXPECT_EQ(Address::parse("[0:0::1]:5").value().text(), "[::1]:5");
  EXPECT_EQ(Address::parse("127.0.0.1:80").value().with_port(81).text(), "127.0.0.1:81");
  EXPECT_EQ(Address::parse("[::1]:80").value().with_port(81).host_text(), "::1");
  EXPECT_EQ(Address().text(), "-");
}

TEST(Address, WhoComesToASocketOfBothByIPv4IsWrittenSo) {
  const Address mapped = Address::parse("[::ffff:192.0.2.7]:80").value();
  EXPECT_EQ(mapped.family(), AF_INET6);
  EXPECT_EQ(mapped.text(), "192.0.2.7:80");
  EXPECT_EQ(mapped.host_text(), "192.0.2.7");
}

TEST(Address, WhatIsNoAddressAndPortIsRefusedWithASentence) {
  for (const char* text : {"", ":", ":80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:80x", "127.0.0.1:-1",
                           "127.0.0.1:65536", "127.0.0.1:99999999999", "::1:80", "[::1]", "[::1]80", "[]:80",
                           "[::1:80", "127.0.0.1: 80", "localhost:80", "127.0.0.256:80"}) {
    auto parsed = Address::parse(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_NE(parsed.error().message.find("'"), std::string::npos) << parsed.error().message;
  }
}

TEST(Address, AHostNameMayBeATargetAndPortZeroMayNot) {
  auto name = parse_target("example.com:22");
  ASSERT_TRUE(name.ok());
  EXPECT_EQ(name.value().host_port.host, "example.com");
  EXPECT_EQ(name.value().host_port.port, 22);
  EXPECT_TRUE(name.value().unix_path.empty());
  EXPECT_FALSE(parse_target("example.com:0").ok());
  EXPECT_FALSE(parse_target("example.com").ok());
  EXPECT_FALSE(parse_target(std::string(254, 'a') + ":1").ok());
}

TEST(Address, WhatCannotBeAHostIsRefusedBeforeAnybodyIsAsked) {
  using namespace std::string_literals;
  for (const auto& text : {"a b:80"s, "h h:1"s, "[zz]:80"s, "[localhost]:80"s, "[127.0.0.1]:80"s, "a/b:80"s, "\0:80"s,
                           "a\nb:80"s, "user@host:22"s}) {
    const auto target = parse_target(text);
    ASSERT_FALSE(target.ok()) << text;
    EXPECT_NE(target.error().message.find("is not a host"), std::string::npos) << target.error().message;
  }
  for (const char* text : {"http://127.0.0.1:8080", "https://example.com:443", "tcp://[::1]:80"}) {
    const auto target = parse_target(text);
    ASSERT_FALSE(target.ok()) << text;
    EXPECT_NE(target.error().message.find("without '"), std::string::npos) << target.error().message;
  }
  for (const char* text : {"my_host-1.example.com.:80", "[fe80::1%eth0]:80", "b\xc3\xbc" "cher.example:80", "10.1:8"}) {
    EXPECT_TRUE(parse_target(text).ok()) << text;
  }
  EXPECT_FALSE(parse_target("unix:\0hidden"s).ok());
}

TEST(Address, AListenerOnAWildcardOverlapsWithThoseThatItCovers) {
  const auto both_ways = [](const char* one, const char* other) {
    const Address a = Address::parse(one).value();
    const Address b = Address::parse(other).value();
    EXPECT_EQ(overlap(a, b), overlap(b, a)) << one << " " << other;
    return overlap(a, b);
  };
  EXPECT_TRUE(both_ways("127.0.0.1:80", "127.0.0.1:80"));
  EXPECT_FALSE(both_ways("127.0.0.1:80", "127.0.0.1:81"));
  EXPECT_FALSE(both_ways("127.0.0.1:80", "127.0.0.2:80"));
  EXPECT_TRUE(both_ways("0.0.0.0:80", "127.0.0.1:80"));
  EXPECT_FALSE(both_ways("0.0.0.0:80", "127.0.0.1:81"));
  EXPECT_FALSE(both_ways("0.0.0.0:80", "[::1]:80"));
  EXPECT_TRUE(both_ways("[::]:80", "[::1]:80"));
  EXPECT_TRUE(both_ways("[::]:80", "127.0.0.1:80")) << "it serves IPv4, too";
  EXPECT_TRUE(both_ways("[::]:80", "0.0.0.0:80"));
}

TEST(Address, AUnixPathHasOneToAHundredAndSevenBytes) {
  auto target = parse_target("unix:/run/service.sock");
  ASSERT_TRUE(target.ok());
  EXPECT_EQ(target.value().unix_path, "/run/service.sock");
  EXPECT_EQ(Address::unix_path("/run/x").value().text(), "unix:/run/x");
  EXPECT_TRUE(Address::unix_path(std::string(107, 'x')).ok());
  EXPECT_FALSE(Address::unix_path(std::string(108, 'x')).ok());
  EXPECT_FALSE(parse_target("unix:").ok());
}

TEST(Address, LiteralsAreResolvedWithoutAServer) {
  auto found = resolve({"127.0.0.1", 8080});
  ASSERT_TRUE(found.ok());
  ASSERT_FALSE(found.value().empty());
  EXPECT_EQ(found.value()[0].text(), "127.0.0.1:8080");
}

}  // namespace
}  // namespace natrp
