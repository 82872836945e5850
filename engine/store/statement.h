// store/statement.h
//
// Statement: one SQL statement while it is bound, stepped and read. Private to engine/store.
//
// Life     prepared → bound → stepped until it gives no row → finalized by its destructor
//                      └◀──────────── reset ────────────────┘
// Thread   the Store's.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace natrp {

// "cannot write /var/lib/natrp-engine/natrp.db: database is locked; …"
Error sqlite_error(const std::string& what, sqlite3* db);

class Statement {
 public:
  Statement(sqlite3* db, const char* sql) : db_(db) {
    if (sqlite3_prepare_v2(db, sql, -1, &statement_, nullptr) != SQLITE_OK) statement_ = nullptr;
  }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  ~Statement() { sqlite3_finalize(statement_); }

  // Bound bytes are copied.
  Statement& bind(int at, std::string_view text) {
    sqlite3_bind_text(statement_, at, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
    return *this;
  }
  Statement& bind(int at, int64_t value) {
    sqlite3_bind_int64(statement_, at, value);
    return *this;
  }
  Statement& bind(int at, std::span<const uint8_t> bytes) {
    sqlite3_bind_blob(statement_, at, bytes.data(), static_cast<int>(bytes.size()), SQLITE_TRANSIENT);
    return *this;
  }
  Statement& bind_null(int at) {
    sqlite3_bind_null(statement_, at);
    return *this;
  }

  // True: there is a row to read. False: it is done. A failure carries SQLite's extended code in last_code().
  Result<bool> step() {
    last_code_ = statement_ == nullptr ? SQLITE_ERROR : sqlite3_step(statement_);
    if (last_code_ == SQLITE_ROW) return true;
    if (last_code_ == SQLITE_DONE) return false;
    const Error error = sqlite_error("cannot use", db_);
    last_code_ = sqlite3_extended_errcode(db_);
    return error;
  }
  int last_code() const { return last_code_; }
  // Done with its rows: it may be stepped anew, and holds no lock meanwhile.
  void reset() { sqlite3_reset(statement_); }

  int64_t integer(int column) const { return sqlite3_column_int64(statement_, column); }
  std::string text(int column) const {
    const auto* data = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
    return data == nullptr ? std::string() : std::string(data, sqlite3_column_bytes(statement_, column));
  }
  // Valid until the next step.
  std::span<const uint8_t> blob(int column) const {
    const auto* data = static_cast<const uint8_t*>(sqlite3_column_blob(statement_, column));
    return {data, static_cast<size_t>(sqlite3_column_bytes(statement_, column))};
  }
  bool is_null(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }

 private:
  sqlite3* db_;
  sqlite3_stmt* statement_ = nullptr;
  int last_code_ = SQLITE_OK;
};

}  // namespace natrp
