// A client's visitors: how many may come, and what the log says of those that may not.
#include "edge/client_conns.h"

#include <gtest/gtest.h>

#include <string>

namespace natrp {
namespace {

ClientRecord client(int64_t id, const std::string& name, uint32_t conns_max) {
  ClientRecord record;
  record.id = id;
  record.name = name;
  record.conns_max = conns_max;
  return record;
}

class ClientConnsTest : public testing::Test {
 protected:
  std::string told(uint64_t now_ms) {
    testing::internal::CaptureStderr();
    table.tell_refused(now_ms);
    return testing::internal::GetCapturedStderr();
  }
  static bool has(const std::string& log, const std::string& text) { return log.find(text) != std::string::npos; }
  ClientConnsTable table;
};

TEST_F(ClientConnsTest, AllSessionsOfAClientCountTogetherAndANewLimitIsForAll) {
  const auto one = table.of(client(1, "a", 1));
  EXPECT_EQ(table.of(client(1, "a", 1)), one);
  EXPECT_NE(table.of(client(2, "a", 1)), one) << "added again under its name: another client";
  EXPECT_TRUE(one->enter());
  EXPECT_FALSE(one->enter());
  one->live.fetch_sub(1);
  table.of(client(1, "a", 2));
  EXPECT_TRUE(one->enter());
  EXPECT_FALSE(one->enter());
}

TEST_F(ClientConnsTest, AChangeOfTheStoreReachesThoseThatAreThere) {
  const auto one = table.of(client(1, "a", 1));
  table.update({client(1, "a", 0), client(2, "not there", 1)});
  EXPECT_TRUE(one->enter());
  EXPECT_TRUE(one->enter());
}

TEST_F(ClientConnsTest, OneThatSomebodyHasIsNotForgotten) {
  auto one = table.of(client(1, "a", 1));
  one->live.store(5);
  table.tidy();
  EXPECT_EQ(table.of(client(1, "a", 1)), one);
  one.reset();
  table.tidy();
  EXPECT_EQ(table.of(client(1, "a", 1))->live.load(), 0u);
}

TEST_F(ClientConnsTest, TheLogNamesEachClientWhoseVisitorsWereRefusedAndWhy) {
  const auto busy = table.of(client(1, "busy", 1));
  const auto stuck = table.of(client(2, "stuck", 0));
  const auto idle = table.of(client(3, "idle", 0));
  EXPECT_EQ(told(1000), "");
  for (int i = 0; i < 4; ++i) busy->enter();
  for (int i = 0; i < 2; ++i) stuck->refuse(VisitorRefusal::kNoChannel);
  stuck->refuse(VisitorRefusal::kOther);
  idle->enter();
  const std::string log = told(1000);
  EXPECT_TRUE(has(log, "has as many as it may client=busy conns_max=1 visitors=3")) << log;
  EXPECT_FALSE(has(log, "idle")) << log;
  EXPECT_TRUE(has(log, "no data channel came for them in time client=stuck visitors=2")) << log;
  EXPECT_TRUE(has(log, "or their session ended client=stuck visitors=1")) << log;
  EXPECT_EQ(told(5000), "");
}

TEST_F(ClientConnsTest, NorOneOfWhichThereIsSomethingToTell) {
  table.of(client(1, "gone", 1))->refuse(VisitorRefusal::kNoChannel);
  table.tidy();
  EXPECT_TRUE(has(told(1000), "client=gone visitors=1"));
}

TEST_F(ClientConnsTest, WhatComesWithinASecondIsToldWhenItIsOver) {
  const auto busy = table.of(client(1, "busy", 1));
  busy->enter();
  busy->enter();
  EXPECT_NE(told(1000), "");
  for (int i = 0; i < 7; ++i) busy->enter();
  EXPECT_EQ(told(1250), "");
  EXPECT_TRUE(has(told(2000), "visitors=7"));
}

}  // namespace
}  // namespace natrp
