// What an edge's successor finds wrong while the edge still has everything.
#include "edge/rehearsal.h"

#include <gtest/gtest.h>
#include <sqlite3.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "control/temp_dir.h"
#include "control/tls_identity.h"
#include "loop/no_threads.h"
#include "net/loopback.h"
#include "net/socket.h"
#include "store/state_dir.h"
#include "store/store.h"

namespace natrp {
namespace {

class RehearsalTest : public testing::Test {
 protected:
  void SetUp() override {
    options.state_dir = top + "/state";
    options.bind = options.public_bind = loopback_port(0);
    options.workers = 1;
    asking = {.control = loopback_port(1), .state_dir = options.state_dir};
  }

  static Address loopback_port(uint16_t port) { return Address::parse("127.0.0.1:0").value().with_port(port); }
  static uint16_t port_of(const Fd& listener) { return local_address(listener.get()).port(); }
  // As an edge leaves it.
  void fill_state() {
    ASSERT_TRUE(make_state_dir(options.state_dir).ok());
    ASSERT_TRUE(TlsIdentity::load_or_create(options.state_dir).ok());
    ASSERT_TRUE(Store::open(options.state_dir).ok());
  }
  // "": nothing is wrong.
  std::string found() {
    const Status status = rehearse_start(options, asking);
    return status.ok() ? "" : status.error().message;
  }
  bool finds(const std::string& what) {
    const std::string sentence = found();
    return sentence.find(what) != std::string::npos ? true : (ADD_FAILURE() << sentence, false);
  }

  TempDir temp_dir;
  const std::string top = temp_dir.path();
  EdgeOptions options;
  AskingEdge asking;
};

TEST_F(RehearsalTest, WhatWillDoIsLeftAsItWas) {
  EXPECT_EQ(found(), "");
  EXPECT_FALSE(std::filesystem::exists(options.state_dir)) << "a start makes it";
  fill_state();
  const auto lock = lock_state_dir(options.state_dir);
  ASSERT_TRUE(lock.ok());
  EXPECT_EQ(found(), "") << "the folder is the asking edge's";
}

TEST_F(RehearsalTest, AnAddressThatSomebodyElseHasIsFoundAndWhatTheAskingEdgeHasIsNot) {
  const auto taken = loopback::listener();
  const uint16_t port = port_of(taken.fd);
  options.bind = loopback_port(port);
  EXPECT_TRUE(finds("--bind: cannot listen on 127.0.0.1:" + std::to_string(port)));
  for (const char* host : {"127.0.0.1", "0.0.0.0", "[::]"}) {
    asking.control = Address::parse(std::string(host) + ":" + std::to_string(port)).value();
    EXPECT_EQ(found(), "") << host;
  }
  asking.control = Address::parse("127.0.0.2:" + std::to_string(port)).value();
  EXPECT_TRUE(finds("--bind: ")) << "another host's";
  options.bind = loopback_port(0);
  options.admin = loopback_port(port);
  EXPECT_TRUE(finds("--admin: "));
  asking.admin = options.admin;
  EXPECT_EQ(found(), "");
  options.admin.reset();
  options.public_bind = Address::parse("203.0.113.7:0").value();
  EXPECT_TRUE(finds("--public-bind: "));
}

TEST_F(RehearsalTest, ThatNoThreadsAreLeftIsFound) {
  const NoThreads none;
  EXPECT_TRUE(finds("the system gives no thread"));
}

TEST_F(RehearsalTest, AFolderOfAnotherEdgesIsFound) {
  fill_state();
  const auto lock = lock_state_dir(options.state_dir);
  ASSERT_TRUE(lock.ok());
  asking.state_dir = top + "/other";
  EXPECT_TRUE(finds("another edge is running with the state folder"));
}

TEST_F(RehearsalTest, AFolderWithoutTheEdgesKeyAndClientsIsFoundAndACopyWillDo) {
  fill_state();
  asking.state_dir = options.state_dir;
  options.state_dir = top + "/mistyped";
  EXPECT_TRUE(finds("has another key than"));
  EXPECT_FALSE(std::filesystem::exists(options.state_dir)) << "a rehearsal makes nothing";
  fill_state();
  EXPECT_TRUE(finds("has another key than")) << "another edge's";
  std::filesystem::remove_all(options.state_dir);
  std::filesystem::copy(asking.state_dir, options.state_dir);
  EXPECT_EQ(found(), "");
  std::filesystem::remove(options.state_dir + "/natrp.db");
  EXPECT_TRUE(finds("has another key than")) << "the key alone";
  std::filesystem::create_directory_symlink(asking.state_dir, top + "/link");
  options.state_dir = top + "/link";
  EXPECT_EQ(found(), "") << "another name of the same folder";
}

TEST_F(RehearsalTest, AStoreThatANewerEdgeWroteIsFoundAndAnOlderOneIsNotChanged) {
  fill_state();
  const auto set_version = [&](const std::string& version) {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open((options.state_dir + "/natrp.db").c_str(), &db), SQLITE_OK);
    ASSERT_EQ(sqlite3_exec(db, ("PRAGMA user_version = " + version).c_str(), nullptr, nullptr, nullptr), SQLITE_OK);
    sqlite3_close(db);
  };
  set_version("99");
  EXPECT_TRUE(finds("a newer natrp-engine wrote it"));
  // A step that is done twice would fail: the start has to be the first to do it.
  set_version("0");
  EXPECT_EQ(found(), "");
  EXPECT_FALSE(Store::open(options.state_dir).ok()) << "this one had its tables, and its steps were not done again";
}

TEST_F(RehearsalTest, AStoreThatSomebodyWritesToIsWaitedFor) {
  fill_state();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open((options.state_dir + "/natrp.db").c_str(), &db), SQLITE_OK);
  // Whoever closes a store last has it alone for a moment.
  ASSERT_EQ(sqlite3_exec(db, "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE", nullptr, nullptr, nullptr), SQLITE_OK);
  std::thread closes([db] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    sqlite3_close(db);
  });
  EXPECT_EQ(found(), "");
  closes.join();
}

TEST_F(RehearsalTest, AStoreThatIsBrokenBehindItsHeaderIsFound) {
  fill_state();
  std::filesystem::resize_file(options.state_dir + "/natrp.db", 4096);
  EXPECT_TRUE(finds("natrp.db"));
}

TEST_F(RehearsalTest, AKeyThatIsNoneIsFound) {
  fill_state();
  std::ofstream(options.state_dir + "/edge.key") << "no key";
  EXPECT_TRUE(finds("edge.key"));
  std::filesystem::remove(options.state_dir + "/edge.crt");
  EXPECT_TRUE(finds("edge.key"));
  EXPECT_FALSE(std::filesystem::exists(options.state_dir + "/edge.crt"));
}

TEST_F(RehearsalTest, ACertificateWithoutItsKeyIsFound) {
  fill_state();
  std::filesystem::remove(options.state_dir + "/edge.key");
  EXPECT_TRUE(finds("but no key"));
  EXPECT_FALSE(std::filesystem::exists(options.state_dir + "/edge.key"));
}

TEST_F(RehearsalTest, AStateFolderThatCannotBeIsFound) {
  std::ofstream(top + "/file") << "in the way";
  for (const char* dir : {"/file", "/file/state", "/file/a/b/state"}) {
    options.state_dir = top + dir;
    EXPECT_TRUE(finds(top + "/file")) << dir;
  }
  options.state_dir = asking.state_dir = top + "/a/b/state";
  EXPECT_EQ(found(), "");
  EXPECT_FALSE(std::filesystem::exists(top + "/a"));
}

// In a child each, whose environment is its own.
void read_variable(const char* value, bool sound) {
  if (value != nullptr) ::setenv("NATRP_HANDOVER_FROM", value, 1);
  ::_exit(read_asking_variable().has_value() == sound ? 0 : 1);
}

TEST(AskingVariable, SaysWhatTheAskingEdgeHas) {
  EdgeOptions options;
  options.bind = Address::parse("127.0.0.1:7000").value();
  options.state_dir = "/var/a,b";
  std::string variable = asking_variable(options);
  EXPECT_EQ(variable, "NATRP_HANDOVER_FROM=127.0.0.1:7000,-,/var/a,b");
  options.admin = Address::parse("[::1]:9022").value();
  variable = asking_variable(options);
  ASSERT_EQ(::putenv(variable.data()), 0);
  const auto asking = read_asking_variable();
  ::unsetenv("NATRP_HANDOVER_FROM");
  ASSERT_TRUE(asking);
  EXPECT_EQ(asking->control.text(), "127.0.0.1:7000");
  ASSERT_TRUE(asking->admin);
  EXPECT_EQ(asking->admin->text(), "[::1]:9022");
  EXPECT_EQ(asking->state_dir, "/var/a,b");
}

TEST(AskingVariable, OfSomebodyElseIsNobodysQuestion) {
  EXPECT_EXIT(read_variable(nullptr, false), testing::ExitedWithCode(0), "");
  for (const char* value : {"", "127.0.0.1:1", "127.0.0.1:1,-", "127.0.0.1:1,-,", "x,-,/a", "127.0.0.1:1,x,/a"}) {
    EXPECT_EXIT(read_variable(value, false), testing::ExitedWithCode(0), "") << value;
  }
  EXPECT_EXIT(read_variable("127.0.0.1:1,-,/a", true), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace natrp
