// The edge and its store: while another program holds the write lock, as a backup or an open sqlite3 shell does, and
// what it makes of leases that an edge before it left.
#include <sqlite3.h>

#include <filesystem>

#include "edge/live_edge.h"
#include "loop/no_threads.h"
#include "sim/sim_loop.h"

namespace natrp {
namespace {

class WriteLock {
 public:
  explicit WriteLock(const std::string& path) {
    loopback::must(sqlite3_open(path.c_str(), &db_) == SQLITE_OK, "the store's file");
    loopback::must(sqlite3_exec(db_, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr) == SQLITE_OK, "its write lock");
  }
  WriteLock(const WriteLock&) = delete;
  WriteLock& operator=(const WriteLock&) = delete;
  ~WriteLock() { release(); }
  void release() {
    if (db_ == nullptr) return;
    sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
    sqlite3_close(db_);
    db_ = nullptr;
  }

 private:
  sqlite3* db_ = nullptr;
};

class EdgeStoreTest : public LiveEdgeTest {
 protected:
  void SetUp() override {
    LiveEdgeTest::SetUp();
    add_client("one");
    add_client("two");
  }
  // Asks for as many tunnels as there are ports, all at once.
  static void wish_for_all(HandAgent& agent, size_t tunnels) {
    for (size_t i = 0; i < tunnels; ++i) agent.wish(static_cast<uint32_t>(i), "t" + std::to_string(i));
  }
  static size_t leased(const HandAgent& agent) {
    return static_cast<size_t>(std::count_if(agent.heard.begin(), agent.heard.end(),
                                             [](const wire::Frame& frame) { return frame.has_leased(); }));
  }
  std::map<std::string, uint16_t> stored() {
    std::map<std::string, uint16_t> ports;
    const auto leases = store_->list_leases();
    for (const LeaseRecord& lease : leases.value()) ports[lease.tunnel] = lease.port;
    return ports;
  }
};

TEST_F(EdgeStoreTest, AStoreThatAnotherProgramHoldsStopsNobody) {
  HandAgent& one = open_session("one", "one process here");
  const uint16_t port = lease(one, "web");
  one.heard.clear();
  ASSERT_TRUE(until([&] { return stored().size() == 1; }, 2000));
  WriteLock lock(store_->path());
  HandAgent& two = open_session("two", "another process.");
  const size_t tunnels = ports_.size() - 1;
  wish_for_all(two, tunnels);
  one.wish(0, "web");
  EXPECT_TRUE(until([&] { return leased(two) == tunnels; }, 2000)) << leased(two) << " leases were told";
  EXPECT_TRUE(until([&] { return one.port() == port; }, 2000)) << "another client's agent got no answer meanwhile";
  EXPECT_TRUE(edge_->list_sessions().has_value());
  EXPECT_EQ(stored().size(), 1u);
  lock.release();
  EXPECT_TRUE(until([&] { return stored().size() == tunnels + 1; }, 2000)) << stored().size() << " are in the store";
}

TEST_F(EdgeStoreTest, ALeaseThatWasToldIsInTheStoreAfterAnOrderlyEnd) {
  HandAgent& agent = open_session("one");
  WriteLock lock(store_->path());
  const uint16_t first = lease(agent, "first", 0, 0);
  const uint16_t second = lease(agent, "second", 0, 1);
  lock.release();
  stop();  // sooner than the next tick, most of the time
  EXPECT_EQ(stored(), (std::map<std::string, uint16_t>{{"first", first}, {"second", second}}));
}

TEST_F(EdgeStoreTest, AnEdgeEndsWhileAnotherProgramHoldsItsStore) {
  HandAgent& agent = open_session("one");
  WriteLock lock(store_->path());
  wish_for_all(agent, ports_.size());
  ASSERT_TRUE(until([&] { return leased(agent) > 0; }));
  const auto ended = std::async(std::launch::async, [this] { stop(); });
  EXPECT_EQ(ended.wait_for(std::chrono::seconds(3)), std::future_status::ready);
}

// The edge that hands over to it would take it for one that serves, and not start it again.
TEST_F(EdgeStoreTest, AnEdgeThatCannotStartHasNeverHadTheStateFolder) {
  stop();
  const std::string lock = folder_.path() + "/edge.lock";
  ASSERT_TRUE(std::filesystem::remove(lock));
  Edge edge(options_);
  ASSERT_TRUE(edge.listen().ok());
  const NoThreads none;
  EXPECT_FALSE(edge.start().ok());
  EXPECT_FALSE(std::filesystem::exists(lock));
}

// --- What an edge makes of leases that others left ----------------------------------------------------------------

TEST_F(EdgeStoreTest, ATunnelThatWasGoneLongBeforeTheEdgeEndedKeepsNobodyOut) {
  const auto left = [&](size_t port, int64_t hours_ago) {
    const LeaseRecord lease[] = {{"one", "t" + std::to_string(port), ports_[port], time(nullptr) - hours_ago * 3600}};
    ASSERT_TRUE(store_->remember_leases(lease).ok());
  };
  stop();
  left(0, 720);
  left(1, 53);
  left(2, 49);  // live when the edge ended: the store had that an hour before
  left(3, 48);
  start();
  HandAgent& two = open_session("two");
  std::set<uint16_t> given{lease(two, "a", 0, 0), lease(two, "b", 0, 1)};
  EXPECT_EQ(given, (std::set<uint16_t>{ports_[0], ports_[1]}));
  EXPECT_EQ(lease(two, "c", 0, 2), 0) << "it is kept for who had it";
  HandAgent& one = open_session("one", "another process.");
  EXPECT_EQ(lease(one, "t2"), ports_[2]);
}

TEST_F(EdgeStoreTest, ALeaseOfATimeToComeMakesNoOtherOneOld) {
  stop();
  const int64_t hours_ago[] = {-72, 53, 49, 48};
  for (size_t i = 0; i < 4; ++i) {
    const LeaseRecord lease[] = {{"one", "t" + std::to_string(i), ports_[i], time(nullptr) - hours_ago[i] * 3600}};
    ASSERT_TRUE(store_->remember_leases(lease).ok());
  }
  start();
  HandAgent& two = open_session("two");
  EXPECT_EQ(lease(two, "a", 0, 0), ports_[1]);
  EXPECT_EQ(lease(two, "b", 0, 1), 0);
}

TEST_F(EdgeStoreTest, ThatALeaseIsLiveIsInTheStoreEachHour) {
  stop();
  SimLoop loop(1);
  const Crew<EdgeWorker> no_workers;
  PublicPorts ports(no_workers);
  EdgeLeases leases(options_, loop, *store_, ports, 100);
  const ClientRecord one = store_->find_by_name("one").value().value();
  EdgeTunnel nobody;
  ASSERT_NE(leases.lease(one, "live", {}, SlotId::make(0, 1, 1), nobody).port, 0);
  const uint16_t lost = leases.lease(one, "lost", {}, SlotId::make(0, 2, 1), nobody).port;
  ASSERT_NE(lost, 0);
  leases.write();
  leases.session_lost(SlotId::make(0, 2, 1));
  std::vector<LeaseRecord> old = store_->list_leases().value();
  ASSERT_EQ(old.size(), 2u);
  for (LeaseRecord& lease : old) lease.updated_s -= 5000;
  ASSERT_TRUE(store_->remember_leases(old).ok());
  const auto refreshed = [&] {
    std::set<std::string> tunnels;
    const auto now_there = store_->list_leases();
    for (const LeaseRecord& lease : now_there.value()) {
      if (lease.updated_s > time(nullptr) - 1000) tunnels.insert(lease.tunnel);
    }
    return tunnels;
  };
  loop.pass(3'500'000);
  leases.write();
  EXPECT_TRUE(refreshed().empty());
  loop.pass(200'000);
  leases.write();
  EXPECT_EQ(refreshed(), std::set<std::string>{"live"});
}

// A tunnel that comes back within the hour is not written again, so another one's row may be younger.
TEST_F(EdgeStoreTest, OfAClientOfFewTunnelsTheListenerThatWasHandedOnIsKept) {
  stop();
  ASSERT_TRUE(store_->set_limits("one", {{}, 1, {}}).ok());
  const LeaseRecord left[] = {{"one", "live", ports_[2], time(nullptr) - 2000},
                              {"one", "gone", ports_[1], time(nullptr) - 1000},
                              {"two", "live", ports_[0], time(nullptr) - 1000}};
  ASSERT_TRUE(store_->remember_leases(left).ok());
  std::vector<Fd> handed;
  for (const uint16_t port : {ports_[0], ports_[2]}) {
    handed.push_back(listen_on(options_.public_bind.with_port(port), {}, 1).value());
  }
  SimLoop loop(1);
  const Crew<EdgeWorker> no_workers;
  PublicPorts ports(no_workers);
  EdgeLeases leases(options_, loop, *store_, ports, 100);
  leases.restore(store_->list_clients().value(), store_->list_leases().value(), handed);
  leases.take_listeners(std::move(handed));
  EXPECT_EQ(leases.give_up_listeners().size(), 2u) << "who waits there was reset";
  const ClientRecord two = store_->find_by_name("two").value().value();
  EXPECT_EQ(leases.check(two, "more", {ports_[2]}).port, 0) << "its tunnel is on its way back";
  EXPECT_EQ(leases.check(two, "more", {ports_[1]}).port, ports_[1]) << "its client may have no other";
}

TEST_F(EdgeStoreTest, TheLastTunnelOfAClientThatMayHaveOneIsKeptAlsoWhenItHadThePortBefore) {
  ASSERT_TRUE(store_->set_limits("one", {{}, 1, {}}).ok());
  stop();
  const int64_t now_s = time(nullptr);
  const LeaseRecord left[] = {{"one", "web", ports_[0], now_s - 2000}, {"one", "other", ports_[1], now_s - 1000}};
  ASSERT_TRUE(store_->remember_leases(left).ok());
  start();
  EXPECT_EQ(lease(open_session("one"), "web"), ports_[0]);
  stop();
  start();
  HandAgent& two = open_session("two");
  EXPECT_EQ(lease(two, "a", ports_[0]), 0) << "it is kept for web, which was live";
  EXPECT_EQ(lease(two, "b", ports_[1], 1), ports_[1]);
}

TEST_F(EdgeStoreTest, EachLeaseThatBecomesFreeIsALineOfTheLogWhoeverNoticedIt) {
  stop();
  const ClientRecord one = store_->find_by_name("one").value().value();
  const ClientRecord two = store_->find_by_name("two").value().value();
  for (const uint32_t grace_seconds : {0u, 1u}) {
    SimLoop loop(1);
    const Crew<EdgeWorker> no_workers;
    PublicPorts ports(no_workers);
    options_.grace_seconds = grace_seconds;
    EdgeLeases leases(options_, loop, *store_, ports, 100);
    EdgeTunnel nobody;
    const uint16_t port = leases.lease(one, "web", {}, SlotId::make(0, 1, 1), nobody).port;
    ASSERT_NE(port, 0);
    testing::internal::CaptureStderr();
    leases.session_lost(SlotId::make(0, 1, 1));
    if (grace_seconds > 0) {
      loop.pass(1000);
      leases.check(two, "web", {});  // an agent that asks in the moment before the tick
    }
    const std::string log = testing::internal::GetCapturedStderr();
    const std::string line = "lease free client=one tunnel=web port=" + std::to_string(port);
    EXPECT_NE(log.find(line), std::string::npos) << grace_seconds << ": " << log;
    EXPECT_LT(log.find("lease in grace"), log.find(line)) << log;
    testing::internal::CaptureStderr();
    leases.expire();
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  }
}

// Whoever asked for one of them by its number ends, where its operator may have no shell.
TEST_F(EdgeStoreTest, PortsThatTheEdgeDoesNotHaveAnyMoreAreAWarningAtItsStart) {
  ASSERT_EQ(lease(open_session("one"), "web", ports_[0]), ports_[0]);
  stop();
  const std::string outside = std::to_string(ports_[0]);
  ASSERT_TRUE(store_->set_limits("two", {outside, {}, {}}).ok());
  options_.ports = options_.ports.without(PortSet::parse(outside).value());
  testing::internal::CaptureStderr();
  start();
  stop();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("are outside of --ports now"), std::string::npos) << log;
  EXPECT_NE(log.find("tunnels=1 port=" + outside), std::string::npos) << log;
  EXPECT_NE(log.find("is one of this edge's --ports: its agents will be refused client=two ports=" + outside),
            std::string::npos)
      << log;
  EXPECT_EQ(log.find("client=one ports="), std::string::npos) << log;
}

// --- A store that cannot be read ------------------------------------------------------------------------------------

// As the disk's errors do, this makes each read of a table fail.
class BrokenStore : public EdgeStoreTest {
 protected:
  void TearDown() override {
    if (!broken_.empty()) mend();
    EdgeStoreTest::TearDown();
  }
  void break_it(const std::string& table) {
    rename(table, table + "_away");
    broken_ = table;
  }
  void mend() {
    rename(broken_ + "_away", broken_);
    broken_.clear();
  }

 private:
  void rename(const std::string& from, const std::string& to) {
    sqlite3* db = nullptr;
    loopback::must(sqlite3_open(store_->path().c_str(), &db) == SQLITE_OK, "the store's file");
    const std::string sql = "ALTER TABLE " + from + " RENAME TO " + to;
    loopback::must(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr) == SQLITE_OK, sql.c_str());
    sqlite3_close(db);
  }
  std::string broken_;
};

TEST_F(BrokenStore, ThatChangesAreNotSeenIsOneLineAndThatTheyAreAgainAnother) {
  HandAgent& agent = open_session("one");
  testing::internal::CaptureStderr();
  break_it("clients");
  until([] { return false; }, 700);  // two ticks
  const std::string broken = testing::internal::GetCapturedStderr();
  EXPECT_NE(broken.find("the store cannot be read"), std::string::npos) << broken;
  EXPECT_NE(broken.find("no such table"), std::string::npos) << broken;
  EXPECT_EQ(broken.find("the store"), broken.rfind("the store")) << broken;
  EXPECT_FALSE(agent.closed());
  testing::internal::CaptureStderr();
  mend();
  const bool removed = store_->remove_client("one").ok();
  const bool closed = until([&] { return agent.closed(); }, 3000);
  const std::string mended = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(removed && closed);
  EXPECT_NE(mended.find("the store can be read again"), std::string::npos) << mended;
}

TEST_F(BrokenStore, NoEdgeStarts) {
  stop();
  for (const std::string table : {"clients", "leases"}) {
    break_it(table);
    {
      Edge edge(options_);
      ASSERT_TRUE(edge.listen().ok());
      const Status status = edge.start();
      EXPECT_FALSE(status.ok()) << table;
    }
    mend();
  }
  start();
}

// --- What waits for the lock ----------------------------------------------------------------------------------------

class LeaseWriterTest : public testing::Test {
 protected:
  void SetUp() override {
    store_.wait_at_most(1);
    for (const char* name : {"one", "two"}) {
      ClientRecord client;
      client.name = name;
      client.token_hash = token_hash_of(name);
      ASSERT_TRUE(store_.add_client(client).ok());
    }
  }
  uint16_t stored(const std::string& client, const std::string& tunnel) {
    const std::vector<LeaseRecord> leases = store_.list_leases().value();
    for (const LeaseRecord& lease : leases) {
      if (lease.client == client && lease.tunnel == tunnel) return lease.port;
    }
    return 0;
  }
  TempDir folder_;
  Store store_ = Store::open(folder_.path()).value();
  LeaseWriter writer_{store_};
};

TEST_F(LeaseWriterTest, AWriteBringsAllThatIsKeptAndTheLogHasOneLineOfEach) {
  testing::internal::CaptureStderr();
  {
    const WriteLock lock(store_.path());
    for (uint16_t i = 0; i < 6; ++i) writer_.remember("one", "t" + std::to_string(i), static_cast<uint16_t>(20000 + i));
    for (int i = 0; i < 3; ++i) writer_.write();
    EXPECT_EQ(writer_.kept(), 6u);
  }
  for (int i = 0; i < 3; ++i) writer_.write();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(writer_.kept(), 0u);
  EXPECT_EQ(store_.list_leases().value().size(), 6u);
  EXPECT_NE(log.find("cannot be written"), std::string::npos) << log;
  EXPECT_NE(log.find("in the store again"), std::string::npos) << log;
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 2) << log;
}

TEST_F(LeaseWriterTest, TheEndWritesWhatWasKept) {
  {
    const WriteLock lock(store_.path());
    writer_.remember("one", "web", 20000);
  }
  writer_.finish();
  EXPECT_EQ(stored("one", "web"), 20000);
}

TEST_F(LeaseWriterTest, TheLatestOfATunnelAndOfAPortIsWritten) {
  writer_.remember("one", "web", 20000);
  writer_.write();
  {
    const WriteLock lock(store_.path());
    writer_.remember("one", "web", 20001);
    writer_.remember("one", "app", 20002);
    writer_.remember("one", "web", 20003);
    writer_.remember("two", "web", 20002);
    EXPECT_EQ(writer_.kept(), 2u);
  }
  writer_.write();
  EXPECT_EQ(stored("one", "web"), 20003);
  EXPECT_EQ(stored("two", "web"), 20002);
  EXPECT_EQ(stored("one", "app"), 0);
}

TEST_F(LeaseWriterTest, ARemovedClientsLeasesAreNotWrittenForTheNextOfItsName) {
  {
    const WriteLock lock(store_.path());
    writer_.remember("one", "web", 20000);
    writer_.remember("two", "web", 20001);
    writer_.forget_client("one");
  }
  writer_.write();
  EXPECT_EQ(stored("one", "web"), 0);
  EXPECT_EQ(stored("two", "web"), 20001);
}

TEST_F(LeaseWriterTest, AClientThatIsGoneUnnoticedKeepsNobodysLeaseBack) {
  writer_.remember("two", "web", 20000);
  writer_.write();
  {
    const WriteLock lock(store_.path());
    writer_.remember("one", "web", 20000);
    writer_.remember("two", "app", 20001);
  }
  ASSERT_TRUE(store_.remove_client("one").ok());
  writer_.write();
  EXPECT_EQ(writer_.kept(), 0u);
  EXPECT_EQ(stored("two", "web"), 20000) << "one that is gone took it";
  EXPECT_EQ(stored("two", "app"), 20001);
}

TEST_F(LeaseWriterTest, ALeaseThatTheStoreHasIsGivenAgainWithoutAWrite) {
  writer_.remember("one", "web", 20000);
  writer_.write();
  const WriteLock lock(store_.path());
  writer_.remember("one", "web", 20000);
  writer_.write();
  EXPECT_EQ(writer_.kept(), 0u);
}

}  // namespace
}  // namespace natrp
