// store/store_schema.h
//
// The tables of the store, and the version that PRAGMA user_version holds. A change adds a step to
// kSchemaSteps and never edits an old one: step i takes version i to version i + 1.
#pragma once

#include <array>

namespace natrp {

inline constexpr std::array<const char*, 1> kSchemaSteps = {
    // Only SHA-256 of a token is kept: whoever reads this file cannot open a session with it.
    // ports '' is any port of the edge; tunnels_max and conns_max 0 are no limit. Times are Unix seconds.
    R"sql(
CREATE TABLE clients (
  id               INTEGER PRIMARY KEY AUTOINCREMENT,
  name             TEXT    NOT NULL UNIQUE,
  token_hash       BLOB    NOT NULL UNIQUE CHECK (length(token_hash) = 32),
  plain_token_hash BLOB    UNIQUE CHECK (length(plain_token_hash) = 32),
  ports            TEXT    NOT NULL,
  tunnels_max      INTEGER NOT NULL CHECK (tunnels_max >= 0),
  conns_max        INTEGER NOT NULL CHECK (conns_max >= 0),
  created          INTEGER NOT NULL
) STRICT;
CREATE TABLE leases (
  client  TEXT    NOT NULL REFERENCES clients (name) ON DELETE CASCADE,
  tunnel  TEXT    NOT NULL,
  port    INTEGER NOT NULL UNIQUE CHECK (port BETWEEN 1 AND 65535),
  updated INTEGER NOT NULL,
  PRIMARY KEY (client, tunnel)
) STRICT, WITHOUT ROWID;
)sql",
};

}  // namespace natrp
