#include "runtime/worker.h"

#include <gtest/gtest.h>

#include "loop/no_threads.h"
#include "net/conn_table.h"

namespace natrp {
namespace {

TEST(Worker, WithoutAThreadItsStartSaysSo) {
  ConnTable conns;
  conns.add_shard(4);
  WorkerSetup setup;
  setup.io = IoKind::kEpoll;
  setup.conns = &conns.shard(0);
  Worker worker(std::move(setup));
  const NoThreads none;
  const auto started = worker.start();
  ASSERT_FALSE(started.ok());
  EXPECT_NE(started.error().message.find("the system gives no thread 'worker-0'"), std::string::npos)
      << started.error().message;
}

}  // namespace
}  // namespace natrp
