// edge/rehearsal.h
//
// A rehearsal: what a start of the edge would find wrong, found without keeping or making anything. An edge that hands
// over runs its successor with --check first. At that time it still holds addresses and the state folder, which it will
// have let go when the successor starts; a variable in the environment names them, so that the successor does not take
// them for somebody else's.
//
// Thread   any.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "net/address.h"
#include "runtime/options.h"

namespace natrp {

// What the edge that asks lets go before the start.
struct AskingEdge {
  Address control;
  std::optional<Address> admin{};
  std::string state_dir{};
};

// NAME=VALUE, for the environment of the program that is asked.
std::string asking_variable(const EdgeOptions& options);
// nullopt: no edge asks.
std::optional<AskingEdge> read_asking_variable();

// The limits of the process, the loop, the addresses (each is taken for a moment), the files of the state folder. Not
// the public ports that leases will want: their listeners are handed on.
Status rehearse_start(const EdgeOptions& options, const AskingEdge& asking);

}  // namespace natrp
