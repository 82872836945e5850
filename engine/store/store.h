// store/store.h
//
// Store: clients, their policies and their sticky leases on disk, in one SQLite file of the state folder.
//
// Life     opened → used → closed by its destructor. natrpctl and a running edge each have their own;
//          SQLite's write-ahead log keeps them apart, and a write is on the disk when its call returns.
// Thread   one thread. Its calls wait for the disk: never a loop's thread that carries visitors. Writers wait for each
//          other. Readers wait for no writer, nor it for them; only for a program that has locked everybody out.
// Never    holds a token, only its SHA-256.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

struct sqlite3;

namespace natrp {

class Statement;

using TokenHash = std::array<uint8_t, 32>;  // SHA-256

struct ClientRecord {
  int64_t id = 0;  // never given again: a client removed and added anew under its name has another
  std::string name;
  TokenHash token_hash{};
  std::optional<TokenHash> plain_token_hash;
  std::string ports;         // PortSet text; empty: any port of the edge
  uint32_t tunnels_max = 0;  // 0: no limit
  uint32_t conns_max = 0;    // 0: no limit
  int64_t created_s = 0;     // Unix time
};

// A limit as an operator reads it.
inline std::string limit_text(uint32_t limit) { return limit == 0 ? "any" : std::to_string(limit); }

// What a client may have from now on; nullopt: as much as before.
struct LimitChange {
  std::optional<std::string> ports;
  std::optional<uint32_t> tunnels_max;
  std::optional<uint32_t> conns_max;
};

struct LeaseRecord {
  std::string client;
  std::string tunnel;
  uint16_t port = 0;
  int64_t updated_s = 0;  // Unix time
};

class Store {
 public:
  enum class Missing { kMake, kRefuse };  // what to do when the state folder or its file is not there

  // Opens dir/natrp.db. An error names the folder, the reason and the remedy; a file of a newer version is refused.
  static Result<Store> open(const std::string& dir, Missing missing = Missing::kMake);
  // Its file is there, whatever is in it.
  static bool exists(const std::string& dir);
  // Whether open() would succeed, as far as can be told without changing anything: the file is not made, and keeps its
  // version. A file that is not there is no error.
  static Status check(const std::string& dir);

  // How long a call waits for another program that holds the file, from now on. At first: kStoreWaitLongMs.
  void wait_at_most(int milliseconds);

  // id and created_s are filled in by the store. Fails when the name is taken.
  Result<ClientRecord> add_client(ClientRecord client);
  // Its sticky leases go too. Fails when there is no such client.
  Status remove_client(std::string_view name);
  // New hashes for an existing client. plain: the new plain hash; nullopt takes the plain token away.
  Status rotate(std::string_view name, const TokenHash& token_hash, const std::optional<TokenHash>& plain);

  // Changes what is given, and gives the client as it is now. Fails when there is no such client (ENOENT).
  Result<ClientRecord> set_limits(std::string_view name, const LimitChange& change);

  // nullopt: no such client. A hash is found by the index: how long that takes tells something of the hash, and nothing
  // of its token.
  Result<std::optional<ClientRecord>> find_by_token_hash(std::span<const uint8_t, 32> hash);
  Result<std::optional<ClientRecord>> find_by_name(std::string_view name);
  Result<std::vector<ClientRecord>> list_clients();  // by name

  // Makes the port of each lease its tunnel's sticky port, and takes it from the tunnel that had it. All leases or
  // none, in their order and with their times, except those whose client is gone. When the store has all of them
  // already, none older than kLeaseFreshS (nor, of a client with a tunnels_max, than another one of it), it writes
  // nothing and waits for nobody.
  Status remember_leases(std::span<const LeaseRecord> leases);
  Result<std::vector<LeaseRecord>> list_leases();  // the oldest first

  // Differs from its last value when another process has written since. Costs a read of shared memory.
  Result<int64_t> data_version();
  const std::string& path() const { return path_; }

 private:
  struct Closer {
    void operator()(sqlite3* db) const;
    void operator()(Statement* statement) const;
  };
  Store(std::string path, sqlite3* db) : path_(std::move(path)), db_(db) {}
  static Result<Store> open_file(const std::string& path);
  Status prepare();
  Result<size_t> version() const;
  Status migrate();
  Status put_lease(const LeaseRecord& lease);
  bool has_fresh(const LeaseRecord& lease);

  std::string path_;
  std::unique_ptr<sqlite3, Closer> db_;
  std::unique_ptr<Statement, Closer> data_version_;  // asked four times a second: prepared once
};

}  // namespace natrp
