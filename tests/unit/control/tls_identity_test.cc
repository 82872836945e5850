#include "control/tls_identity.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>
#include <vector>

#include "temp_dir.h"

namespace natrp {
namespace {

namespace fs = std::filesystem;

std::string contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string error_of(const std::string& directory) {
  const Result<TlsIdentity> identity = TlsIdentity::load_or_create(directory);
  return identity ? "" : identity.error().message;
}

TEST(TlsIdentity, IsMadeOnceAndFoundAgain) {
  TempDir dir;
  const auto first = TlsIdentity::load_or_create(dir.path());
  ASSERT_TRUE(first) << first.error().message;
  const std::string key = contents(dir.path() + "/edge.key");
  const auto second = TlsIdentity::load_or_create(dir.path());
  ASSERT_TRUE(second) << second.error().message;
  EXPECT_EQ(first.value().pin(), second.value().pin());
  EXPECT_EQ(key, contents(dir.path() + "/edge.key"));
  struct stat status {};
  ASSERT_EQ(::stat((dir.path() + "/edge.key").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator()), 2)
      << "a temporary file is left";
}

TEST(TlsIdentity, WhatRootMakesInTheFolderOfAServiceUserIsThatUsers) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root makes files for others";
  TempDir dir;
  ASSERT_EQ(::chown(dir.path().c_str(), 65534, 65533), 0);
  ASSERT_TRUE(TlsIdentity::load_or_create(dir.path()));
  for (const char* name : {"/edge.key", "/edge.crt"}) {
    struct stat status {};
    ASSERT_EQ(::stat((dir.path() + name).c_str(), &status), 0);
    EXPECT_EQ(status.st_uid, 65534u) << name;
    EXPECT_EQ(status.st_gid, 65533u) << name;
  }
}

constexpr int kNoMount = 77;

// In a child, which has a file system of its own: a disk with room for one page, and so for the key alone.
void fill_the_disk(const std::string& directory) {
  if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("natrp-test", directory.c_str(), "tmpfs", 0, "size=4k") != 0) {
    ::_exit(kNoMount);
  }
  const std::string expected = "cannot write " + directory + "/edge.crt: No space left on device; make room on the " +
                               "disk of the state folder " + directory + ", or give another folder with --state";
  const std::string error = error_of(directory);
  if (error != expected) std::fprintf(stderr, "%s\n", error.c_str());
  ::_exit(error == expected && std::distance(fs::directory_iterator(directory), fs::directory_iterator()) == 1 ? 0 : 1);
}

TEST(TlsIdentity, AFullDiskIsToldWithItsFolderAndTheRemedy) {
  TempDir dir;
  bool mounted = true;
  EXPECT_EXIT(fill_the_disk(dir.path()), [&mounted](int status) {
    mounted = status != kNoMount << 8;
    return status == 0 || !mounted;
  }, "");
  if (!mounted) GTEST_SKIP() << "only root may mount a small disk";
}

TEST(TlsIdentity, AFileThatCannotBeWrittenIsToldByItsOwnName) {
  TempDir dir;
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 1;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &none), 0);
  const std::string error = error_of(dir.path());
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(error.rfind("cannot write " + dir.path() + "/edge.key: File too large; ", 0), 0u) << error;
  EXPECT_NE(error.find("--state"), std::string::npos) << error;
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(TlsIdentity, TwoEdgesHaveTwoKeys) {
  TempDir one;
  TempDir two;
  EXPECT_NE(TlsIdentity::load_or_create(one.path()).value().pin(),
            TlsIdentity::load_or_create(two.path()).value().pin());
}

TEST(TlsIdentity, MakersAtTheSameMomentAgreeOnOneKey) {
  TempDir dir;
  std::vector<Pin> pins(8);
  std::vector<std::string> errors(pins.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < pins.size(); ++i) {
    threads.emplace_back([&, i] {
      const auto identity = TlsIdentity::load_or_create(dir.path());
      if (identity)
        pins[i] = identity.value().pin();
      else
        errors[i] = identity.error().message;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < pins.size(); ++i) {
    EXPECT_EQ(errors[i], "");
    EXPECT_EQ(pins[i], pins[0]);
  }
}

TEST(TlsIdentity, AKeyWhoseCertificateIsLostKeepsItsPin) {
  TempDir dir;
  const Pin pin = TlsIdentity::load_or_create(dir.path()).value().pin();
  fs::remove(dir.path() + "/edge.crt");
  const auto again = TlsIdentity::load_or_create(dir.path());
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again.value().pin(), pin);
}

TEST(TlsIdentity, ACertificateWithoutItsKeyIsAnErrorAndNotANewKey) {
  TempDir dir;
  ASSERT_TRUE(TlsIdentity::load_or_create(dir.path()));
  fs::remove(dir.path() + "/edge.key");
  EXPECT_NE(error_of(dir.path()).find("but no key"), std::string::npos);
  EXPECT_FALSE(fs::exists(dir.path() + "/edge.key"));
}

TEST(TlsIdentity, AForeignCertificateIsAnError) {
  TempDir one;
  TempDir two;
  ASSERT_TRUE(TlsIdentity::load_or_create(one.path()));
  ASSERT_TRUE(TlsIdentity::load_or_create(two.path()));
  fs::copy_file(one.path() + "/edge.crt", two.path() + "/edge.crt", fs::copy_options::overwrite_existing);
  EXPECT_NE(error_of(two.path()).find("is not of the key"), std::string::npos);
}

TEST(TlsIdentity, KnowsWhetherAnotherOneHasItsPlace) {
  TempDir dir;
  TempDir other;
  ASSERT_TRUE(TlsIdentity::load_or_create(other.path()));
  const TlsIdentity identity = TlsIdentity::load_or_create(dir.path()).value();
  const std::string key = dir.path() + "/edge.key";
  const std::string certificate = dir.path() + "/edge.crt";
  EXPECT_FALSE(identity.is_replaced_in(dir.path()));
  EXPECT_TRUE(identity.is_replaced_in(other.path()));
  fs::remove(certificate);
  EXPECT_FALSE(identity.is_replaced_in(dir.path())) << "the same key gets another certificate";
  fs::copy_file(other.path() + "/edge.key", key, fs::copy_options::overwrite_existing);
  EXPECT_TRUE(identity.is_replaced_in(dir.path()));
  fs::remove(key);
  EXPECT_TRUE(identity.is_replaced_in(dir.path())) << "a start makes one";
  EXPECT_FALSE(fs::exists(key));
  std::ofstream(key) << "garbage";
  ::chmod(key.c_str(), 0600);
  EXPECT_FALSE(identity.is_replaced_in(dir.path())) << "that is another mistake";
}

TEST(TlsIdentity, AFileThatIsNoKeyIsAnErrorAndStays) {
  TempDir dir;
  std::ofstream(dir.path() + "/edge.key") << "garbage\n";
  ::chmod((dir.path() + "/edge.key").c_str(), 0600);
  EXPECT_NE(error_of(dir.path()).find("no private key"), std::string::npos);
  EXPECT_EQ(contents(dir.path() + "/edge.key"), "garbage\n");
}

TEST(TlsIdentity, AKeyThatEverybodyMayReadIsAnError) {
  TempDir dir;
  ASSERT_TRUE(TlsIdentity::load_or_create(dir.path()));
  ::chmod((dir.path() + "/edge.key").c_str(), 0644);
  EXPECT_NE(error_of(dir.path()).find("chmod 600"), std::string::npos);
}

TEST(TlsIdentity, AMissingOrUnwritableFolderIsAnErrorThatNamesIt) {
  TempDir dir;
  EXPECT_NE(error_of(dir.path() + "/none").find(dir.path() + "/none"), std::string::npos);
  if (::geteuid() == 0) return;  // root may write everywhere
  ::chmod(dir.path().c_str(), 0500);
  EXPECT_NE(error_of(dir.path()).find("must be writable"), std::string::npos);
  ::chmod(dir.path().c_str(), 0700);
}

}  // namespace
}  // namespace natrp
