#include "net/conn_table.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>
#include <vector>

namespace natrp {
namespace {

Address address(const char* text) {
  auto parsed = Address::parse(text);
  EXPECT_TRUE(parsed.ok());
  return parsed.value();
}

std::vector<ConnView> listing_of(const ConnTable& table) {
  std::vector<ConnView> views;
  table.for_each([&](const ConnView& view) { views.push_back(view); });
  return views;
}

TEST(ConnTable, AClaimedSlotIsFoundByItsIdAndAReleasedOneIsNot) {
  ConnTable table;
  ConnShard& shard = table.add_shard(8);
  Conn* conn = shard.claim(42, address("127.0.0.1:80"), ConnRole::kVisitor, 1234);
  ASSERT_NE(conn, nullptr);
  const SlotId id = shard.id_of(*conn);
  EXPECT_EQ(shard.find(id), conn);
  EXPECT_EQ(conn->fd, 42);
  const std::vector<ConnView> listed = listing_of(table);
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_EQ(listed[0].id, id);
  EXPECT_EQ(listed[0].peer.text(), "127.0.0.1:80");
  EXPECT_EQ(listed[0].role, ConnRole::kVisitor);
  EXPECT_EQ(listed[0].opened_ms, 1234u);
  shard.release(*conn);
  EXPECT_EQ(shard.find(id), nullptr);
  EXPECT_TRUE(listing_of(table).empty());
  EXPECT_EQ(shard.live(), 0u);
}

TEST(ConnTable, AStaleIdNeverFindsTheNextOwnerOfItsSlot) {
  ConnTable table;
  ConnShard& shard = table.add_shard(1);
  std::set<uint64_t> seen;
  for (int i = 0; i < 1000; ++i) {
    Conn* conn = shard.claim(i, {}, ConnRole::kVisitor, 0);
    ASSERT_NE(conn, nullptr);
    EXPECT_TRUE(seen.insert(shard.id_of(*conn).word).second);
    for (const uint64_t word : {*seen.begin()}) {
      EXPECT_EQ(shard.find(SlotId{word}) != nullptr, i == 0);
    }
    shard.release(*conn);
  }
}

TEST(ConnTable, ForgedIdsFindNothing) {
  ConnTable table;
  ConnShard& shard = table.add_shard(4);
  Conn* conn = shard.claim(1, {}, ConnRole::kVisitor, 0);
  const SlotId id = shard.id_of(*conn);
  for (const SlotId forged : {SlotId{}, SlotId::make(0, 1, 1), SlotId::make(0, SlotId::kIndexMax, 1),
                              SlotId::make(0, 0, 0), SlotId::make(0, 0, 2),
                              SlotId::make(0, 0, id.generation() + 2)}) {
    EXPECT_EQ(shard.find(forged), nullptr) << forged.word;
  }
  shard.release(*conn);
  // Even generations are those of free slots: nobody was ever given one.
  EXPECT_EQ(shard.find(SlotId::make(0, 0, 2)), nullptr);
}

TEST(ConnTable, AtTheEndOfItsCapacityItRefusesAndGoesOnAfterARelease) {
  ConnTable table;
  ConnShard& shard = table.add_shard(3);
  std::vector<Conn*> conns;
  for (int i = 0; i < 3; ++i) conns.push_back(shard.claim(i, {}, ConnRole::kService, 0));
  EXPECT_EQ(shard.claim(9, {}, ConnRole::kService, 0), nullptr);
  EXPECT_EQ(shard.live(), 3u);
  shard.release(*conns[1]);
  EXPECT_EQ(shard.claim(9, {}, ConnRole::kService, 0), conns[1]);
  EXPECT_EQ(shard.claim(9, {}, ConnRole::kService, 0), nullptr);
}

TEST(ConnTable, AnIPv6PeerSurvivesTheSlotAndAUnixPeerHasNoAddress) {
  ConnTable table;
  ConnShard& shard = table.add_shard(4);
  Conn* six = shard.claim(1, address("[2001:db8::1:2]:65535"), ConnRole::kVisitor, 0);
  EXPECT_EQ(six->peer().text(), "[2001:db8::1:2]:65535");
  Conn* path = shard.claim(2, Address::unix_path("/run/x").value(), ConnRole::kService, 0);
  EXPECT_FALSE(path->peer().valid());
  EXPECT_EQ(path->role(), ConnRole::kService);
}

TEST(ConnTable, AListingNamesEveryLiveConnOfEveryShardOnce) {
  ConnTable table;
  ConnShard& first = table.add_shard(100);
  ConnShard& second = table.add_shard(100);
  std::set<uint64_t> live;
  std::vector<Conn*> some;
  for (int i = 0; i < 50; ++i) {
    some.push_back(first.claim(i, {}, ConnRole::kVisitor, 0));
    Conn* conn = second.claim(i, {}, ConnRole::kDataChannel, 0);
    live.insert(second.id_of(*conn).word);
  }
  for (size_t i = 0; i < some.size(); ++i) {
    if (i % 2 == 0) {
      first.release(*some[i]);
    } else {
      live.insert(first.id_of(*some[i]).word);
    }
  }
  std::set<uint64_t> listed;
  table.for_each([&](const ConnView& view) { EXPECT_TRUE(listed.insert(view.id.word).second); });
  EXPECT_EQ(listed, live);
}

TEST(ConnTable, ReadersOnOtherThreadsNeverSeeTwoConnsMixedIntoOne) {
  ConnTable table;
  ConnShard& shard = table.add_shard(16);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> whole{0};
  std::atomic<uint64_t> mixed{0};
  std::vector<std::thread> readers;
  for (int t = 0; t < 3; ++t) {
    readers.emplace_back([&] {
      while (!stop.load(std::memory_order_relaxed)) {
        table.for_each([&](const ConnView& view) {
          // The owner gives port, time and tunnel of one conn the same number. The tunnel is set after the claim.
          const uint64_t port = view.peer.port();
          const bool fits = view.opened_ms == port && (view.tunnel == 0 || view.tunnel == port) &&
                            (view.bytes_received == 0 || view.bytes_received == port);
          (fits ? whole : mixed).fetch_add(1, std::memory_order_relaxed);
        });
      }
    });
  }
  const Address base = address("127.0.0.1:1");
  std::vector<Conn*> held;
  uint32_t turn = 0;
  while (whole.load(std::memory_order_relaxed) < 200'000 && turn < 20'000'000) {
    const auto port = static_cast<uint16_t>(1 + turn++ % 60000);
    Conn* conn = shard.claim(1, base.with_port(port), ConnRole::kVisitor, port);
    if (conn != nullptr) {
      conn->tunnel.store(port, std::memory_order_relaxed);
      conn->bytes_received.store(port, std::memory_order_relaxed);
      held.push_back(conn);
    }
    if (held.size() > turn % 16) {
      shard.release(*held.front());
      held.erase(held.begin());
    }
  }
  stop = true;
  for (auto& reader : readers) reader.join();
  EXPECT_EQ(mixed.load(), 0u);
  EXPECT_GT(whole.load(), 1000u);
}

}  // namespace
}  // namespace natrp
