#include "store/store.h"

#include <fcntl.h>
#include <sqlite3.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "base/clock.h"
#include "base/dir_owner.h"
#include "base/fd.h"
#include "base/limits.h"
#include "store/state_dir.h"
#include "store/statement.h"
#include "store/store_schema.h"

namespace natrp {
namespace {

constexpr int kBusyRetryMs = 5;
constexpr char kTheOwner[] = "; run as the owner of the state folder, or give another with --state";
constexpr char kMakeRoom[] = "; make room on that disk";
// How long check() waits. It is part of --check, which runtime/successor gives 5 s.
constexpr int kCheckWaitMs = 2000;

constexpr const char* kClientColumns =
    "SELECT id, name, token_hash, plain_token_hash, ports, tunnels_max, conns_max, created FROM clients ";

Status execute(sqlite3* db, const char* sql) {
  if (sqlite3_exec(db, sql, nullptr, nullptr, nullptr) == SQLITE_OK) return Done{};
  return sqlite_error("cannot use", db);
}

// SQLite does not call its busy handler for a reader that wants to write, lest two of them wait for each other. Turning
// the write-ahead log on is such a step, and two programs may open a new file at once: the loop is ours, the
// waiting SQLite's own, as its busy handler does it.
Status execute_when_free(sqlite3* db, const char* sql) {
  const uint64_t until_ms = now_ms() + kStoreWaitLongMs;
  while (true) {
    Status status = execute(db, sql);
    if (status.ok() || sqlite3_errcode(db) != SQLITE_BUSY || now_ms() >= until_ms) return status;
    sqlite3_sleep(kBusyRetryMs);
  }
}

// BEGIN IMMEDIATE waits its turn here, once; a transaction that begins as a reader could fail in its middle.
class Transaction {
 public:
  explicit Transaction(sqlite3* db) : db_(db), begun_(execute(db, "BEGIN IMMEDIATE")) {}
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  ~Transaction() {
    if (begun_.ok() && !committed_) sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
  }
  const Status& begun() const { return begun_; }
  Status commit() {
    Status status = execute(db_, "COMMIT");
    committed_ = status.ok();
    return status;
  }

 private:
  sqlite3* db_;
  Status begun_;
  bool committed_ = false;
};

Status run(Statement& statement) {
  const auto row = statement.step();
  if (!row.ok()) return row.error();
  return Done{};
}

TokenHash hash_of(std::span<const uint8_t> blob) {
  TokenHash hash{};
  if (blob.size() == hash.size()) std::copy(blob.begin(), blob.end(), hash.begin());
  return hash;
}

ClientRecord client_of(const Statement& row) {
  ClientRecord client;
  client.id = row.integer(0);
  client.name = row.text(1);
  client.token_hash = hash_of(row.blob(2));
  if (!row.is_null(3)) client.plain_token_hash = hash_of(row.blob(3));
  client.ports = row.text(4);
  client.tunnels_max = static_cast<uint32_t>(row.integer(5));
  client.conns_max = static_cast<uint32_t>(row.integer(6));
  client.created_s = row.integer(7);
  return client;
}

Error no_such_client(std::string_view name) {
  return Error{"there is no client '" + std::string(name) +
               "': `natrpctl client list` shows those there are",
               ENOENT};
}

const char* remedy_for(int errno_value) {
  switch (errno_value) {
    case EMFILE:
    case ENFILE: return "; raise the limit of open files";
    case ENOSPC:
    case EDQUOT: return kMakeRoom;
    case EIO: return "; the disk may be broken";
    case EACCES:
    case EPERM:
    case EROFS: return kTheOwner;
    default: return "";
  }
}

Error not_openable(const std::string& path, int errno_value) {
  Error error = Error::from_errno("cannot open " + path, errno_value);
  error.message += remedy_for(errno_value);
  return error;
}

// Of an error behind which there may be one of the system: "disk I/O error" is a full disk, or a broken one.
std::string what_the_system_said(sqlite3* db, const char* when_nothing) {
  const int error = sqlite3_system_errno(db);
  return error == 0 ? when_nothing : std::string(" (") + std::strerror(error) + ")" + remedy_for(error);
}

void bind_hash_or_null(Statement& statement, int at, const std::optional<TokenHash>& hash) {
  if (hash.has_value()) {
    statement.bind(at, std::span<const uint8_t>(*hash));
  } else {
    statement.bind_null(at);
  }
}

}  // namespace

Error sqlite_error(const std::string& what, sqlite3* db) {
  const char* file = sqlite3_db_filename(db, "main");
  std::string message = what + " " + (file == nullptr ? "the store" : file) + ": " + sqlite3_errmsg(db);
  switch (sqlite3_errcode(db)) {
    case SQLITE_BUSY: message += "; another program holds it, end that program or try again"; break;
    case SQLITE_IOERR: message += what_the_system_said(db, ""); break;
    case SQLITE_CANTOPEN: message += what_the_system_said(db, kTheOwner); break;
    case SQLITE_READONLY:
    case SQLITE_PERM: message += kTheOwner; break;
    case SQLITE_FULL: message += kMakeRoom; break;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      message += "; put a backup in its place, or move it away and add the clients again";
      break;
    default: break;
  }
  return Error{std::move(message)};
}

void Store::Closer::operator()(sqlite3* db) const { sqlite3_close_v2(db); }
void Store::Closer::operator()(Statement* statement) const { delete statement; }

Result<Store> Store::open(const std::string& dir, Missing missing) {
  const std::string path = dir + "/natrp.db";
  if (missing == Missing::kRefuse && access(path.c_str(), F_OK) != 0 &&
      (errno == ENOENT || errno == ENOTDIR)) {
    return Error{"there are no clients in the state folder " + dir +
                     ": add one with `natrpctl client add`, or name the edge's folder with --state",
                 ENOENT};
  }
  if (Status made = make_state_dir(dir); !made.ok()) return made.error();
  {
    // SQLite would make the file readable to all; its -wal and -shm files take over this one's mode and
    // owner.
    const Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!fd.valid()) return not_openable(path, errno);
    give_to_owner_of_dir(dir, fd.get());
  }
  auto store = open_file(path);
  if (!store.ok()) return store;
  if (Status prepared = store.value().prepare(); !prepared.ok()) return prepared.error();
  return store;
}

Result<Store> Store::open_file(const std::string& path) {
  sqlite3* db = nullptr;
  const int code = sqlite3_open_v2(path.c_str(), &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  Store store(path, db);
  if (code != SQLITE_OK) return sqlite_error("cannot open", db);
  return store;
}

bool Store::exists(const std::string& dir) { return ::access((dir + "/natrp.db").c_str(), F_OK) == 0; }

Status Store::check(const std::string& dir) {
  const std::string path = dir + "/natrp.db";
  // SQLite would open a file that it may only read.
  const Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.valid() && errno == ENOENT) return Done{};
  if (!fd.valid()) return not_openable(path, errno);
  auto opened = open_file(path);
  if (!opened.ok()) return opened.error();
  Store& store = opened.value();
  store.wait_at_most(kCheckWaitMs);
  const auto version = store.version();
  if (!version.ok()) return version.error();
  if (version.value() != kSchemaSteps.size()) return Done{};  // to be migrated: its tables are of another form
  if (const auto clients = store.list_clients(); !clients.ok()) return clients.error();
  if (const auto leases = store.list_leases(); !leases.ok()) return leases.error();
  return Done{};
}

void Store::wait_at_most(int milliseconds) { sqlite3_busy_timeout(db_.get(), milliseconds); }

Status Store::prepare() {
  wait_at_most(kStoreWaitLongMs);
  // FULL: with a write-ahead log, NORMAL may lose the last commits when the power goes; a printed token must not.
  for (const char* sql :
       {"PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA foreign_keys = ON"}) {
    if (Status status = execute_when_free(db_.get(), sql); !status.ok()) return status;
  }
  return migrate();
}

// One that this program knows.
Result<size_t> Store::version() const {
  Statement statement(db_.get(), "PRAGMA user_version");
  const auto row = statement.step();
  if (!row.ok()) return row.error();
  const int64_t found = statement.integer(0);
  if (found >= 0 && found <= static_cast<int64_t>(kSchemaSteps.size())) return static_cast<size_t>(found);
  return Error{path_ + " has version " + std::to_string(found) + ", this program knows versions up to " +
               std::to_string(kSchemaSteps.size()) +
               ": a newer natrp-engine wrote it; use that one, or put a backup in its place"};
}

Status Store::migrate() {
  auto found = version();
  if (!found.ok()) return found.error();
  if (found.value() == kSchemaSteps.size()) return Done{};

  Transaction transaction(db_.get());
  if (!transaction.begun().ok()) return transaction.begun();
  found = version();  // again: another program may have done it while this one waited
  if (!found.ok()) return found.error();
  for (size_t step = found.value(); step < kSchemaSteps.size(); ++step) {
    if (Status status = execute(db_.get(), kSchemaSteps[step]); !status.ok()) return status;
  }
  const std::string set = "PRAGMA user_version = " + std::to_string(kSchemaSteps.size());
  if (Status status = execute(db_.get(), set.c_str()); !status.ok()) return status;
  return transaction.commit();
}

Result<ClientRecord> Store::add_client(ClientRecord client) {
  client.created_s = time(nullptr);
  Statement statement(
      db_.get(),
      "INSERT INTO clients (name, token_hash, plain_token_hash, ports, tunnels_max, conns_max, created)"
      " VALUES (?, ?, ?, ?, ?, ?, ?)");
  statement.bind(1, client.name).bind(2, std::span<const uint8_t>(client.token_hash));
  bind_hash_or_null(statement, 3, client.plain_token_hash);
  statement.bind(4, client.ports).bind(5, int64_t{client.tunnels_max}).bind(6, int64_t{client.conns_max});
  statement.bind(7, client.created_s);
  if (Status status = run(statement); !status.ok()) {
    if (statement.last_code() != SQLITE_CONSTRAINT_UNIQUE) return status.error();
    return Error{"there is a client '" + client.name +
                 "' already: choose another name, or make a token for it with " + "`natrpctl token rotate " +
                 client.name + "`"};
  }
  client.id = sqlite3_last_insert_rowid(db_.get());
  return client;
}

Status Store::remove_client(std::string_view name) {
  Statement statement(db_.get(), "DELETE FROM clients WHERE name = ?");
  statement.bind(1, name);
  if (Status status = run(statement); !status.ok()) return status;
  if (sqlite3_changes(db_.get()) == 0) return no_such_client(name);
  return Done{};
}

Status Store::rotate(std::string_view name, const TokenHash& token_hash,
                     const std::optional<TokenHash>& plain) {
  Statement statement(db_.get(), "UPDATE clients SET token_hash = ?, plain_token_hash = ? WHERE name = ?");
  statement.bind(1, std::span<const uint8_t>(token_hash)).bind(3, name);
  bind_hash_or_null(statement, 2, plain);
  if (Status status = run(statement); !status.ok()) return status;
  if (sqlite3_changes(db_.get()) == 0) return no_such_client(name);
  return Done{};
}

// One transaction: what is given back is what this call has made, also beside another natrpctl.
Result<ClientRecord> Store::set_limits(std::string_view name, const LimitChange& change) {
  Transaction transaction(db_.get());
  if (!transaction.begun().ok()) return transaction.begun().error();
  auto found = find_by_name(name);
  if (!found.ok()) return found.error();
  if (!found.value()) return no_such_client(name);
  ClientRecord client = *std::move(found).value();
  client.ports = change.ports.value_or(client.ports);
  client.tunnels_max = change.tunnels_max.value_or(client.tunnels_max);
  client.conns_max = change.conns_max.value_or(client.conns_max);
  Statement statement(db_.get(), "UPDATE clients SET ports = ?, tunnels_max = ?, conns_max = ? WHERE id = ?");
  statement.bind(1, client.ports).bind(2, int64_t{client.tunnels_max}).bind(3, int64_t{client.conns_max});
  statement.bind(4, client.id);
  if (Status status = run(statement); !status.ok()) return status.error();
  if (Status status = transaction.commit(); !status.ok()) return status.error();
  return client;
}

// By the index: what can be learnt of the time it takes is of a hash of 256 secret bits, which nobody can aim.
Result<std::optional<ClientRecord>> Store::find_by_token_hash(std::span<const uint8_t, 32> hash) {
  const std::string sql = std::string(kClientColumns) + "WHERE token_hash = ?";
  Statement statement(db_.get(), sql.c_str());
  const auto row = statement.bind(1, std::span<const uint8_t>(hash)).step();
  if (!row.ok()) return row.error();
  if (!row.value()) return std::optional<ClientRecord>();
  return std::optional<ClientRecord>(client_of(statement));
}

Result<std::optional<ClientRecord>> Store::find_by_name(std::string_view name) {
  const std::string sql = std::string(kClientColumns) + "WHERE name = ?";
  Statement statement(db_.get(), sql.c_str());
  const auto row = statement.bind(1, name).step();
  if (!row.ok()) return row.error();
  if (!row.value()) return std::optional<ClientRecord>();
  return std::optional<ClientRecord>(client_of(statement));
}

Result<std::vector<ClientRecord>> Store::list_clients() {
  const std::string sql = std::string(kClientColumns) + "ORDER BY name";
  Statement statement(db_.get(), sql.c_str());
  std::vector<ClientRecord> clients;
  while (true) {
    const auto row = statement.step();
    if (!row.ok()) return row.error();
    if (!row.value()) return clients;
    clients.push_back(client_of(statement));
  }
}

// Within a transaction. Changes nothing when it fails because the client is gone.
Status Store::put_lease(const LeaseRecord& lease) {
  Statement take(db_.get(),
                 "DELETE FROM leases WHERE port = ?1 AND NOT (client = ?2 AND tunnel = ?3)"
                 " AND EXISTS (SELECT 1 FROM clients WHERE name = ?2)");
  take.bind(1, int64_t{lease.port}).bind(2, lease.client).bind(3, lease.tunnel);
  if (Status status = run(take); !status.ok()) return status;
  Statement put(db_.get(),
                "INSERT INTO leases (client, tunnel, port, updated)"
                " SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM clients WHERE name = ?1)"
                " ON CONFLICT (client, tunnel) DO UPDATE SET port = excluded.port, updated = excluded.updated");
  put.bind(1, lease.client).bind(2, lease.tunnel).bind(3, int64_t{lease.port}).bind(4, lease.updated_s);
  if (Status status = run(put); !status.ok()) return status;
  if (sqlite3_changes(db_.get()) == 0) return no_such_client(lease.client);
  return Done{};
}

// A reader: no writer makes it wait. Of a client that may have so many tunnels, an edge that starts keeps the last ones
// (edge/edge_leases): a row is not fresh there when another one is younger.
bool Store::has_fresh(const LeaseRecord& lease) {
  Statement statement(db_.get(),
                      "SELECT updated FROM leases AS this WHERE client = ?1 AND tunnel = ?2 AND port = ?3"
                      " AND NOT EXISTS (SELECT 1 FROM leases WHERE client = ?1 AND updated > this.updated"
                      " AND (SELECT tunnels_max FROM clients WHERE name = ?1) > 0)");
  const auto row = statement.bind(1, lease.client).bind(2, lease.tunnel).bind(3, int64_t{lease.port}).step();
  if (!row.ok() || !row.value()) return false;
  const int64_t age_s = lease.updated_s - statement.integer(0);
  return age_s >= 0 && age_s < kLeaseFreshS;  // the clock may have been set back
}

Status Store::remember_leases(std::span<const LeaseRecord> leases) {
  // Those that the store has and that are fresh need no write, nor its lock.
  if (std::all_of(leases.begin(), leases.end(), [this](const LeaseRecord& lease) { return has_fresh(lease); })) {
    return Done{};
  }
  Transaction transaction(db_.get());
  if (!transaction.begun().ok()) return transaction.begun();
  for (const LeaseRecord& lease : leases) {
    if (Status status = put_lease(lease); !status.ok() && status.error().errno_value != ENOENT) return status;
  }
  return transaction.commit();
}

Result<std::vector<LeaseRecord>> Store::list_leases() {
  Statement statement(db_.get(), "SELECT client, tunnel, port, updated FROM leases ORDER BY updated, client, tunnel");
  std::vector<LeaseRecord> leases;
  while (true) {
    const auto row = statement.step();
    if (!row.ok()) return row.error();
    if (!row.value()) return leases;
    leases.push_back({statement.text(0), statement.text(1), static_cast<uint16_t>(statement.integer(2)),
                      statement.integer(3)});
  }
}

Result<int64_t> Store::data_version() {
  if (!data_version_) data_version_.reset(new Statement(db_.get(), "PRAGMA data_version"));
  if (const auto row = data_version_->step(); !row.ok()) {
    data_version_.reset();  // prepared anew the next time
    return row.error();
  }
  const int64_t version = data_version_->integer(0);
  data_version_->reset();
  return version;
}

}  // namespace natrp
