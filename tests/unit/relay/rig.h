// A worker's relay without its roles: loop, table, pipes and pairs, and the far ends of each pair's sockets.
#pragma once

#include <gtest/gtest.h>

#include <csignal>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "loop/recorder.h"
#include "net/loopback.h"
#include "relay/pair.h"

namespace natrp {

// One far end: what it has to say, what it heard, how it ended.
struct Peer {
  Fd fd;
  std::string say;
  size_t said = 0;
  std::string heard;
  bool closes = false;  // FIN when everything is said
  bool closed = false;
  bool ended = false;   // a FIN was heard
  bool was_reset = false;
  size_t say_at_once = 1 << 20;
  size_t hear_at_once = 1 << 20;  // 0: does not read

  bool over() const { return ended || was_reset; }
  void turn() {
    if (!fd.valid()) return;
    while (said < say.size()) {
      const ssize_t n = ::send(fd.get(), say.data() + said, std::min(say_at_once, say.size() - said),
                               MSG_DONTWAIT | MSG_NOSIGNAL);
      // Linux reports a reset once, to whichever call comes first.
      if (n < 0 && errno != EAGAIN) was_reset = true;
      if (n <= 0) break;
      said += static_cast<size_t>(n);
      if (say_at_once < 4096) break;
    }
    if (said == say.size() && closes && !closed) {
      ::shutdown(fd.get(), SHUT_WR);
      closed = true;
    }
    static thread_local char buffer[1 << 16];
    for (size_t left = hear_at_once; left > 0 && !over();) {
      const ssize_t n = ::recv(fd.get(), buffer, std::min(left, sizeof buffer), MSG_DONTWAIT);
      if (n > 0) {
        heard.append(buffer, static_cast<size_t>(n));
        left -= static_cast<size_t>(n);
      } else if (n == 0) {
        ended = true;
      } else if (errno == EAGAIN) {
        break;
      } else {
        was_reset = true;
      }
    }
  }
};

inline std::string random_bytes(std::mt19937& random, size_t bytes) {
  std::string out(bytes, 0);
  for (char& c : out) c = static_cast<char>(random());
  return out;
}

struct Ended {
  EndReason reason;
  uint32_t owner;
  int back_fd;
};

struct Rig {
  Counters counters;
  ConnTable table;
  ConnShard& shard;
  std::unique_ptr<Loop> loop;
  PipePool pipes;
  RelayContext context;
  PairTable pairs;
  std::vector<Ended> ended;
  unsigned turns = 0;

  Rig(std::unique_ptr<Loop> made, PumpKind kind, unsigned pipes_max = 16)
      : shard(table.add_shard(4096)),
        loop(std::move(made)),
        pipes(counters, pipes_max, 1),
        context{*loop, shard, pipes, counters, kind},
        pairs(context, 2048, {.on_end = on_end, .on_unready = on_unready}, this) {
    ended.reserve(4096);
    std::signal(SIGPIPE, SIG_IGN);  // as the programs do: splice(2) into a reset socket raises it
  }
  ~Rig() {
    pairs.end_all(EndReason::kDrainDeadline);
    EXPECT_TRUE(run_until(*loop, [&] { return pairs.live() == 0; }));
    EXPECT_EQ(shard.live(), 0u) << "a slot is left";
    EXPECT_EQ(pipes.borrowed(), 0u) << "a pipe is left";
    EXPECT_EQ(loop->buffers().held(), 0u) << "a buffer is left";
    EXPECT_EQ(pairs.with_visitor(), 0u);
  }
  static void on_end(void* self, Pair& pair) {
    auto& rig = *static_cast<Rig*>(self);
    const int fd = pair.moving ? pair.back_conn().fd : -1;
    if (fd >= 0) rig.loop->let_go(fd);
    rig.ended.push_back({pair.reason, pair.owner, fd});
  }
  static void on_unready(void*, Pair&) {}

  Conn& conn(Fd& fd, ConnRole role) {
    Conn* conn = shard.claim(fd.release(), {}, role, loop->turn_ms());
    loopback::must(conn != nullptr, "a slot");
    return *conn;
  }
  // buffer_bytes: of all four sockets, 0 for the kernel's choice.
  Pair& start(Peer& visitor, Peer& service, int buffer_bytes = 0, uint32_t owner = 0) {
    loopback::Two front = loopback::connected(buffer_bytes);
    loopback::Two back = loopback::connected(buffer_bytes);
    visitor.fd = std::move(front.far);
    service.fd = std::move(back.far);
    Pair* pair = pairs.start(conn(front.near, ConnRole::kVisitor), conn(back.near, ConnRole::kService), owner);
    loopback::must(pair != nullptr, "a pair");
    return *pair;
  }
  // Turns until done().
  template <typename Done>
  bool until(std::vector<Peer*> peers, Done done, uint32_t patience_ms = 8000) {
    const auto turn = [&] {
      // A worker changes it as it likes, and no byte may notice.
      loop->set_messages_first((++turns / 8) % 2 == 1);
      for (Peer* peer : peers) peer->turn();
      loop->run_once(1);
    };
    return run_until(turn, done, patience_ms);
  }
};

inline bool nothing_unacknowledged(Rig& rig, const Peer& peer) {
  return peer.said == peer.say.size() && rig.loop->bytes_unacknowledged(peer.fd.get()) == 0;
}

// Every backend with every pump; instantiated in pair_test.cc.
using Kinds = std::tuple<IoKind, PumpKind>;

class PairTest : public testing::TestWithParam<Kinds> {
 protected:
  void SetUp() override { make(16); }
  void make(unsigned pipes_max) {
    rig.reset();
    auto made = make_loop(std::get<0>(GetParam()));
    if (!made.ok()) GTEST_SKIP() << made.error().message;
    rig = std::make_unique<Rig>(std::move(made.value().loop), kind(), pipes_max);
  }
  PumpKind kind() const { return std::get<1>(GetParam()); }
  uint64_t count(Counter counter) const { return rig->counters.get(counter); }
  std::mt19937 random{1};
  std::unique_ptr<Rig> rig;
};

}  // namespace natrp
