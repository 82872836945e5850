// runtime/options_engine.h
//
// The options that both daemons have. Private to engine/runtime.
#pragma once

#include "runtime/options.h"
#include "runtime/options_table.h"

namespace natrp {

// options outlives the table.
void add_engine_options(OptionTable& table, EngineOptions& options);
void add_state_option(OptionTable& table, std::string& state_dir);

}  // namespace natrp
