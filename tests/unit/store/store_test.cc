#include "store/store.h"

#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>
#include <thread>

#include "base/limits.h"
#include "base/no_descriptors.h"
#include "store/state_dir.h"

namespace natrp {
namespace {

namespace fs = std::filesystem;

TokenHash hash_of(uint8_t byte) {
  TokenHash hash;
  hash.fill(byte);
  return hash;
}

ClientRecord client(const std::string& name, uint8_t byte) {
  ClientRecord record;
  record.name = name;
  record.token_hash = hash_of(byte);
  return record;
}

bool mentions(const std::string& sentence, const std::string& what) {
  return sentence.find(what) != std::string::npos;
}

Status remember(Store& store, const std::string& client, const std::string& tunnel, uint16_t port) {
  const LeaseRecord lease[] = {{client, tunnel, port, time(nullptr)}};
  return store.remember_leases(lease);
}

// 0: none.
uint16_t port_of(Store& store, const std::string& client, const std::string& tunnel) {
  const std::vector<LeaseRecord> leases = store.list_leases().value();
  for (const LeaseRecord& lease : leases) {
    if (lease.client == client && lease.tunnel == tunnel) return lease.port;
  }
  return 0;
}

std::string wal_of(const Store& store) { return store.path() + "-wal"; }

class StoreTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "natrp_store_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    top_ = name;
    dir_ = top_ + "/a/state";
  }
  void TearDown() override { fs::remove_all(top_); }
  Store open() {
    auto store = Store::open(dir_);
    if (!store.ok()) ADD_FAILURE() << store.error().message;
    return std::move(store).value();
  }
  std::string top_;
  std::string dir_;
};

TEST_F(StoreTest, MakesItsFolderForItselfAlone) {
  const Store store = open();
  struct stat info;
  ASSERT_EQ(stat(dir_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  ASSERT_EQ(stat(store.path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_EQ(stat(wal_of(store).c_str(), &info), 0) << "the file that each writer touches is there from the start";
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(StoreTest, KeepsAClientOverAReopening) {
  int64_t id = 0;
  {
    Store store = open();
    ClientRecord record = client("demo", 7);
    record.plain_token_hash = hash_of(8);
    record.ports = "443,20000-20010";
    record.tunnels_max = 3;
    record.conns_max = 100;
    id = store.add_client(record).value().id;
  }
  Store store = open();
  const auto found = store.find_by_token_hash(hash_of(7)).value();
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->id, id);
  EXPECT_EQ(found->name, "demo");
  EXPECT_EQ(found->ports, "443,20000-20010");
  EXPECT_EQ(found->tunnels_max, 3u);
  EXPECT_EQ(found->conns_max, 100u);
  EXPECT_GT(found->created_s, 1'600'000'000);
  EXPECT_EQ(found->plain_token_hash, hash_of(8));
  EXPECT_EQ(store.list_clients().value().at(0).plain_token_hash, hash_of(8));
}

TEST_F(StoreTest, FindsAClientByItsOwnHashOnly) {
  Store store = open();
  ASSERT_TRUE(store.add_client(client("a", 1)).ok());
  ASSERT_TRUE(store.add_client(client("b", 2)).ok());
  EXPECT_EQ(store.find_by_token_hash(hash_of(2)).value()->name, "b");
  EXPECT_FALSE(store.find_by_token_hash(hash_of(3)).value().has_value());
  TokenHash almost = hash_of(1);
  almost[31] ^= 1;
  EXPECT_FALSE(store.find_by_token_hash(almost).value().has_value());
  const std::vector<ClientRecord> clients = store.list_clients().value();
  for (const ClientRecord& one : clients) {
    EXPECT_EQ(one.plain_token_hash, std::nullopt) << "no plain token is none of zeroes";
  }
}

TEST_F(StoreTest, RefusesASecondClientOfOneNameAndSaysWhatToDo) {
  Store store = open();
  ASSERT_TRUE(store.add_client(client("demo", 1)).ok());
  const auto again = store.add_client(client("demo", 2));
  ASSERT_FALSE(again.ok());
  EXPECT_TRUE(mentions(again.error().message, "'demo' already")) << again.error().message;
  EXPECT_EQ(store.list_clients().value().size(), 1u);
}

TEST_F(StoreTest, ForgetsARemovedClientAndItsLeasesAndNeverReusesItsId) {
  Store store = open();
  const auto first = store.add_client(client("demo", 1)).value();
  ASSERT_TRUE(remember(store, "demo", "web", 20000).ok());
  ASSERT_TRUE(store.remove_client("demo").ok());
  EXPECT_TRUE(store.list_leases().value().empty());
  EXPECT_FALSE(store.find_by_name("demo").value().has_value());
  EXPECT_TRUE(mentions(store.remove_client("demo").error().message, "'demo'"));
  EXPECT_NE(store.add_client(client("demo", 1)).value().id, first.id);
}

TEST_F(StoreTest, ARotatedTokenReplacesBothFormerOnes) {
  Store store = open();
  ClientRecord record = client("demo", 1);
  record.plain_token_hash = hash_of(2);
  ASSERT_TRUE(store.add_client(record).ok());
  ASSERT_TRUE(store.rotate("demo", hash_of(3), std::nullopt).ok());
  EXPECT_FALSE(store.find_by_token_hash(hash_of(1)).value().has_value());
  ASSERT_TRUE(store.find_by_token_hash(hash_of(3)).value().has_value());
  EXPECT_EQ(store.find_by_token_hash(hash_of(3)).value()->plain_token_hash, std::nullopt);
  EXPECT_FALSE(store.rotate("nobody", hash_of(4), std::nullopt).ok());
}

TEST_F(StoreTest, AChangeOfAClientsLimitsLeavesWhatItDoesNotName) {
  Store store = open();
  ClientRecord record = client("demo", 1);
  record.plain_token_hash = hash_of(2);
  record.ports = "443";
  record.tunnels_max = 3;
  record.conns_max = 100;
  const int64_t id = store.add_client(record).value().id;
  ASSERT_TRUE(store.add_client(client("other", 3)).ok());
  LimitChange change;
  change.conns_max = 5;
  const ClientRecord now = store.set_limits("demo", change).value();
  EXPECT_EQ(now.conns_max, 5u);
  EXPECT_EQ(now.tunnels_max, 3u);
  change = {};
  change.ports = "";
  change.tunnels_max = 0;
  ASSERT_TRUE(store.set_limits("demo", change).ok());
  const ClientRecord found = *store.find_by_token_hash(hash_of(1)).value();
  EXPECT_EQ(found.id, id);
  EXPECT_EQ(found.ports, "");
  EXPECT_EQ(found.tunnels_max, 0u);
  EXPECT_EQ(found.conns_max, 5u);
  EXPECT_EQ(found.plain_token_hash, hash_of(2));
  EXPECT_EQ(store.find_by_name("other").value()->conns_max, 0u);
}

TEST_F(StoreTest, LimitsOfAClientThatIsNotThereAreNotChanged) {
  Store store = open();
  ASSERT_TRUE(store.add_client(client("demo", 1)).ok());
  LimitChange change;
  change.conns_max = 5;
  const auto set = store.set_limits("nobody", change);
  ASSERT_FALSE(set.ok());
  EXPECT_EQ(set.error().message, store.remove_client("nobody").error().message);
  EXPECT_EQ(store.find_by_name("demo").value()->conns_max, 0u);
}

TEST_F(StoreTest, APortIsStickyToTheTunnelThatHadItLast) {
  Store store = open();
  ASSERT_TRUE(store.add_client(client("a", 1)).ok());
  ASSERT_TRUE(store.add_client(client("b", 2)).ok());
  ASSERT_TRUE(remember(store, "a", "web", 20000).ok());
  ASSERT_TRUE(remember(store, "a", "web", 20001).ok());
  EXPECT_EQ(port_of(store, "a", "web"), 20001);
  ASSERT_TRUE(remember(store, "b", "web", 20001).ok());
  EXPECT_EQ(port_of(store, "a", "web"), 0);
  EXPECT_EQ(port_of(store, "b", "web"), 20001);
  ASSERT_TRUE(remember(store, "b", "web", 20001).ok());
  EXPECT_EQ(store.list_leases().value().size(), 1u);
}

// Whose port was left longest ago is read off these times.
TEST_F(StoreTest, ALeaseThatItHasIsWrittenAgainAfterAnHour) {
  Store store = open();
  const auto given_again = [&](int64_t age_s) {
    const int64_t then = time(nullptr) - age_s;
    const LeaseRecord old[] = {{"a", "web", 20000, then}};
    EXPECT_TRUE(store.add_client(client("a", 1)).ok());
    EXPECT_TRUE(store.remember_leases(old).ok());
    EXPECT_TRUE(remember(store, "a", "web", 20000).ok());
    const bool written = store.list_leases().value().at(0).updated_s != then;
    EXPECT_TRUE(store.remove_client("a").ok());  // and its lease
    return written;
  };
  EXPECT_FALSE(given_again(kLeaseFreshS - 100));
  EXPECT_TRUE(given_again(kLeaseFreshS + 100));
  EXPECT_TRUE(given_again(-100)) << "the clock was set back";
}

TEST_F(StoreTest, ALeaseOfAClientThatIsGoneTakesNothingFromAnother) {
  Store store = open();
  ASSERT_TRUE(store.add_client(client("a", 1)).ok());
  ASSERT_TRUE(remember(store, "a", "web", 20000).ok());
  ASSERT_TRUE(remember(store, "gone", "web", 20000).ok());
  EXPECT_EQ(port_of(store, "a", "web"), 20000) << "half a change was kept";
}

TEST_F(StoreTest, ARunningEdgeNoticesWhatAnotherProcessChanges) {
  Store edge = open();
  const int64_t before = edge.data_version().value();
  EXPECT_EQ(edge.data_version().value(), before);
  {
    Store ctl = open();
    EXPECT_EQ(edge.data_version().value(), before) << "opening is no change";
    ASSERT_TRUE(ctl.add_client(client("demo", 1)).ok());
  }
  EXPECT_NE(edge.data_version().value(), before);
  EXPECT_TRUE(edge.find_by_name("demo").value().has_value());
  struct stat info;
  EXPECT_EQ(stat(wal_of(edge).c_str(), &info), 0) << "the file that each writer touches outlives the other's end";
}

TEST_F(StoreTest, RefusesAFileOfANewerVersion) {
  std::string path;
  {
    const Store store = open();
    path = store.path();
  }
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "PRAGMA user_version = 99", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  const auto store = Store::open(dir_);
  ASSERT_FALSE(store.ok());
  EXPECT_TRUE(mentions(store.error().message, "newer")) << store.error().message;
}

TEST_F(StoreTest, SaysWhichPartOfThePathIsNoFolder) {
  std::ofstream(top_ + "/file") << "in the way";
  for (const std::string& dir : {top_ + "/file", top_ + "/file/below"}) {
    const auto store = Store::open(dir);
    ASSERT_FALSE(store.ok());
    EXPECT_TRUE(mentions(store.error().message, top_ + "/file")) << store.error().message;
    EXPECT_TRUE(mentions(store.error().message, "not a folder") ||
                mentions(store.error().message, "Not a directory"))
        << store.error().message;
  }
  EXPECT_FALSE(Store::open("").ok());
}

TEST_F(StoreTest, SaysThatAFileIsNoStore) {
  ASSERT_TRUE(make_state_dir(dir_).ok());
  std::ofstream(dir_ + "/natrp.db") << std::string(5000, 'x');
  const auto store = Store::open(dir_);
  ASSERT_FALSE(store.ok());
  EXPECT_TRUE(mentions(store.error().message, "not a database")) << store.error().message;
}

TEST_F(StoreTest, RefusesAFolderThatEverybodyMayWriteTo) {
  std::filesystem::create_directories(dir_);
  for (const mode_t mode : {0707, 0777, 01777, 0702}) {
    ASSERT_EQ(chmod(dir_.c_str(), mode), 0);
    const auto lock = lock_state_dir(dir_);
    ASSERT_FALSE(lock.ok()) << std::oct << mode;
    EXPECT_TRUE(mentions(lock.error().message, "everybody may write")) << lock.error().message;
    // Of one like /tmp the mode is not for us to change.
    EXPECT_EQ(mentions(lock.error().message, "chmod"), (mode & S_ISVTX) == 0) << lock.error().message;
    EXPECT_TRUE(std::filesystem::is_empty(dir_));
    EXPECT_TRUE(Store::open(dir_).ok()) << "a client could not even be removed";
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  for (const mode_t mode : {0700, 0770, 0755}) {
    ASSERT_EQ(chmod(dir_.c_str(), mode), 0);
    EXPECT_TRUE(lock_state_dir(dir_).ok()) << std::oct << mode;
  }
}

TEST_F(StoreTest, SaysThatItMayNotWrite) {
  if (geteuid() == 0) {
    // root may write everywhere; as nobody it may not, until the end of the test.
    fs::permissions(top_, fs::perms::owner_all | fs::perms::others_exec | fs::perms::others_read);
    ASSERT_EQ(seteuid(65534), 0);
  } else {
    fs::permissions(top_, fs::perms::owner_read | fs::perms::owner_exec);
  }
  const auto store = Store::open(dir_);
  if (getuid() == 0) {
    ASSERT_EQ(seteuid(0), 0);
  }
  fs::permissions(top_, fs::perms::owner_all);
  ASSERT_FALSE(store.ok());
  EXPECT_TRUE(mentions(store.error().message, "Permission denied")) << store.error().message;
  EXPECT_TRUE(mentions(store.error().message, "--state")) << store.error().message;
}

TEST_F(StoreTest, SaysWhatTheSystemHasAgainstIt) {
  ASSERT_TRUE(Store::open(dir_).ok());
  // The files that it makes beside the store cannot grow, as on a disk that is full.
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 1;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &none), 0);
  const auto opened = Store::open(dir_);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  ASSERT_FALSE(opened.ok());
  EXPECT_TRUE(mentions(opened.error().message, "disk I/O error (File too large)")) << opened.error().message;
  EXPECT_FALSE(mentions(opened.error().message, "the owner")) << opened.error().message;
  EXPECT_TRUE(Store::open(dir_).ok());
}

TEST_F(StoreTest, MakesNothingWhenItIsOnlyToLook) {
  const auto store = Store::open(dir_, Store::Missing::kRefuse);
  ASSERT_FALSE(store.ok());
  EXPECT_TRUE(mentions(store.error().message, "client add")) << store.error().message;
  EXPECT_FALSE(fs::exists(dir_));
}

// The first natrpctl of a new edge may come while that makes its file.
TEST_F(StoreTest, WaitsForAnotherProgramThatMakesTheSameFile) {
  ASSERT_TRUE(make_state_dir(dir_).ok());
  std::promise<void> writing;
  std::thread other([&] {
    sqlite3* db = nullptr;
    EXPECT_EQ(sqlite3_open((dir_ + "/natrp.db").c_str(), &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);  // whoever opens the file looks into it now and then, and a COMMIT waits for that
    EXPECT_EQ(sqlite3_exec(db, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr), SQLITE_OK);
    writing.set_value();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_EQ(sqlite3_exec(db, "COMMIT", nullptr, nullptr, nullptr), SQLITE_OK);
    EXPECT_EQ(sqlite3_close(db), SQLITE_OK);
  });
  writing.get_future().wait();
  const auto store = Store::open(dir_);
  EXPECT_TRUE(store.ok()) << store.error().message;
  other.join();
}

TEST_F(StoreTest, OneEdgeAtATimeHasTheFolder) {
  auto first = lock_state_dir(dir_);
  ASSERT_TRUE(first.ok()) << first.error().message;
  const auto second = lock_state_dir(dir_);
  ASSERT_FALSE(second.ok());
  EXPECT_TRUE(mentions(second.error().message, "another edge")) << second.error().message;
  first.value().reset();
  EXPECT_TRUE(lock_state_dir(dir_).ok());
}

TEST_F(StoreTest, AskingWhetherAnEdgeHasTheFolderMakesNothing) {
  EXPECT_TRUE(check_state_dir_is_free(dir_).ok());
  EXPECT_FALSE(fs::exists(dir_));
  auto lock = lock_state_dir(dir_);
  ASSERT_TRUE(lock.ok()) << lock.error().message;
  const Status taken = check_state_dir_is_free(dir_);
  ASSERT_FALSE(taken.ok());
  EXPECT_TRUE(mentions(taken.error().message, "another edge")) << taken.error().message;
  lock.value().reset();
  EXPECT_TRUE(check_state_dir_is_free(dir_).ok());
  EXPECT_TRUE(lock_state_dir(dir_).ok());
}

TEST_F(StoreTest, WhoGaveTheFolderUpCanAskWhoHasItWithoutADescriptor) {
  const auto given_up = lock_state_dir(dir_);
  ASSERT_TRUE(given_up.ok()) << given_up.error().message;
  unlock_state_dir(given_up.value());
  EXPECT_FALSE(another_has_state_dir(given_up.value()));
  auto taken = lock_state_dir(dir_);
  ASSERT_TRUE(taken.ok()) << "who asks keeps nothing: " << taken.error().message;
  {
    const NoDescriptors here;
    EXPECT_TRUE(another_has_state_dir(given_up.value()));
  }
  taken.value().reset();
  EXPECT_FALSE(another_has_state_dir(given_up.value()));
}

TEST_F(StoreTest, AFileThatRootMakesBelongsToTheOwnerOfTheFolder) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  ASSERT_TRUE(make_state_dir(dir_).ok());
  if (chown(dir_.c_str(), 65534, 65534) != 0) GTEST_SKIP() << "may not chown here";
  const Store store = open();
  struct stat info;
  for (const std::string& path : {store.path(), wal_of(store)}) {
    ASSERT_EQ(stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_uid, 65534u) << path;
  }
}

}  // namespace
}  // namespace natrp
