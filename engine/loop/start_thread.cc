#include "loop/start_thread.h"

#include <pthread.h>

#include <system_error>

namespace natrp {

Result<std::thread> start_thread(const std::string& name, std::function<void()> body) {
  try {
    return std::thread([name, body = std::move(body)] {
      pthread_setname_np(pthread_self(), name.c_str());
      body();
    });
  } catch (const std::system_error& error) {
    return Error::from_errno("the system gives no thread '" + name +
                                 "': raise TasksMax= in the systemd unit, --pids-limit of a container, or `ulimit -u`",
                             error.code().value());
  }
}

}  // namespace natrp
