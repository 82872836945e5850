// base/names.h
//
// What a client or a tunnel may be called: 1 to kNameBytesMax letters, digits, '.', '_' and '-', a letter or
// digit first. Such a name is one word in a shell, a log line, a metric's label and a file.
#pragma once

#include <string_view>

#include "base/result.h"

namespace natrp {

// what: "client" or "tunnel", for the sentence.
Status check_name(std::string_view what, std::string_view name);

}  // namespace natrp
