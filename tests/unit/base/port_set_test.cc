#include "base/port_set.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "base/names.h"

namespace natrp {
namespace {

TEST(PortSet, ReadsPortsAndRangesAndWritesThemSorted) {
  const auto set = PortSet::parse("20000-29999, 443").value();
  EXPECT_EQ(set.format(), "443,20000-29999");
  EXPECT_EQ(set.size(), 10001u);
  EXPECT_TRUE(set.contains(443));
  EXPECT_TRUE(set.contains(20000));
  EXPECT_TRUE(set.contains(29999));
  EXPECT_FALSE(set.contains(442));
  EXPECT_FALSE(set.contains(19999));
  EXPECT_FALSE(set.contains(30000));
  EXPECT_FALSE(set.contains(0));
  EXPECT_EQ(set.nth(0), 443);
  EXPECT_EQ(set.nth(1), 20000);
  EXPECT_EQ(set.nth(10000), 29999);
}

TEST(PortSet, JoinsRangesThatOverlapOrTouch) {
  EXPECT_EQ(PortSet::parse("5-9,1-4,8-12,20").value().format(), "1-12,20");
  EXPECT_EQ(PortSet::parse("1-65535").value().size(), 65535u);
  EXPECT_EQ(PortSet::parse("65535,1-65534").value().format(), "1-65535");
  EXPECT_EQ(PortSet::parse("1-10,2-3").value().format(), "1-10");
}

TEST(PortSet, IsShortInASentence) {
  EXPECT_EQ(PortSet::parse("443,20000-29999").value().format_short(), "443,20000-29999");
  EXPECT_EQ(PortSet::parse("1,3,5,7,9,11,13,15").value().format_short(), "1,3,5,7,9,11,13,15");
  EXPECT_EQ(PortSet::parse("1,3,5,7,9,11,13,15,20-29").value().format_short(), "1,3,5,7,9,11,13,15,… (18 ports)");
  EXPECT_EQ(PortSet().format_short(), "");
  std::string text = "10001";
  for (unsigned port = 10003; port < 50000; port += 2) text += "," + std::to_string(port);
  const auto many = PortSet::parse(text).value();
  EXPECT_EQ(many.format(), text);
  EXPECT_EQ(many.format_short(), "10001,10003,10005,10007,10009,10011,10013,10015,… (20000 ports)");
}

TEST(PortSet, AnEmptySetHoldsNothing) {
  const PortSet set;
  EXPECT_TRUE(set.empty());
  EXPECT_EQ(set.size(), 0u);
  EXPECT_FALSE(set.contains(1));
  EXPECT_EQ(set.format(), "");
}

TEST(PortSet, RefusesWhatIsNoSetOfPortsAndNamesIt) {
  for (const char* text : {"", ",", "1,", ",1", "0", "0-10", "65536", "1-70000", "9-3", "ssh", "1-2-3", "-1",
                           "1-", "+5", "0x10", "99999999999999999999", "1 2", "1;2"}) {
    const auto set = PortSet::parse(text);
    ASSERT_FALSE(set.ok()) << text;
    EXPECT_NE(set.error().message.find("port"), std::string::npos) << text;
  }
  EXPECT_NE(PortSet::parse("1-70000").error().message.find("70000"), std::string::npos);
  EXPECT_NE(PortSet::parse("20010-20000").error().message.find("20010-20000"), std::string::npos);
}

TEST(PortSet, AgreesWithASetOfNumbers) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::set<unsigned> model;
    std::string text;
    const unsigned items = 1 + random() % 6;
    for (unsigned i = 0; i < items; ++i) {
      const unsigned first = 1 + random() % 60;
      const unsigned last = first + random() % 8;
      for (unsigned port = first; port <= last; ++port) model.insert(port);
      text += (text.empty() ? "" : ",") + std::to_string(first) + "-" + std::to_string(last);
    }
    const auto set = PortSet::parse(text).value();
    ASSERT_EQ(set.size(), model.size()) << text;
    size_t index = 0;
    for (const unsigned port : model) ASSERT_EQ(set.nth(index++), port) << text;
    for (unsigned port = 0; port < 80; ++port) {
      ASSERT_EQ(set.contains(static_cast<uint16_t>(port)), model.count(port) == 1) << text << " " << port;
      const auto greater = model.upper_bound(port);
      ASSERT_EQ(set.next(static_cast<uint16_t>(port)), greater != model.end() ? *greater : *model.begin()) << text;
    }
    ASSERT_EQ(PortSet::parse(set.format()).value(), set) << text;
    const std::string its = std::to_string(1 + random() % 40) + "-" + std::to_string(40 + random() % 40) + "," +
                            std::to_string(1 + random() % 60);
    const auto others = PortSet::parse(its).value();
    const PortSet left = set.without(others);
    std::erase_if(model, [&](unsigned port) { return others.contains(static_cast<uint16_t>(port)); });
    ASSERT_EQ(left.size(), model.size()) << text << " without " << others.format();
    ASSERT_EQ(set.intersects(others), left.size() < set.size()) << text << " and " << others.format();
    ASSERT_EQ(others.intersects(set), set.intersects(others)) << text << " and " << others.format();
    for (const unsigned port : model) ASSERT_TRUE(left.contains(static_cast<uint16_t>(port))) << text << " " << port;
    ASSERT_TRUE(left.empty() || PortSet::parse(left.format()).value() == left) << "ranges that touch";
  }
}

TEST(PortSet, WithoutTheLastPortOfAllNothingIsBehindIt) {
  const PortSet last = PortSet::parse("65530-65535").value();
  EXPECT_EQ(last.without(PortSet::parse("65533-65535").value()).format(), "65530-65532");
  EXPECT_TRUE(last.without(PortSet::parse("1-65535").value()).empty());
  EXPECT_EQ(PortSet::parse("7").value().without(PortSet()).format(), "7");
}

TEST(PortSet, BehindTheLastPortOfAllComesTheFirst) {
  EXPECT_EQ(PortSet::parse("443,65535").value().next(65535), 443);
  EXPECT_EQ(PortSet::parse("443,65535").value().next(443), 65535);
  EXPECT_EQ(PortSet::parse("80").value().next(80), 80);
}

TEST(Names, AreOneWord) {
  for (const char* name : {"demo", "a", "web-1.example_x", "0"})
    EXPECT_TRUE(check_name("client", name).ok()) << name;
  const std::string longest(64, 'x');
  EXPECT_TRUE(check_name("client", longest).ok());
  EXPECT_FALSE(check_name("client", longest + "x").ok());
  for (const char* name : {"", "-x", ".x", "a b", "a/b", "a\nb", "é", "a="}) {
    EXPECT_FALSE(check_name("client", name).ok()) << name;
  }
}

}  // namespace
}  // namespace natrp
