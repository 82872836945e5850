// loop/start_thread.h
//
// start_thread(): a thread, or the sentence why there is none: a system gives only so many.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "base/result.h"

namespace natrp {

// name: as `ps -L` shows it, 15 characters at most.
Result<std::thread> start_thread(const std::string& name, std::function<void()> body);

}  // namespace natrp
