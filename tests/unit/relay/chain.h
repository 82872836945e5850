// A chain over one data channel, edge and agent in one worker:
//
//     visitor ─ [front  edge's pair  back] ─ channel ─ [front  agent's pair  back] ─ service
//
// or one half of it, and a Peer at the channel's other end that says what the test likes.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "relay/chunk_text.h"
#include "relay/rig.h"

namespace natrp {

struct Chain {
  static constexpr uint32_t kEdge = 0;
  static constexpr uint32_t kAgent = 1;

  Counters counters;
  ConnTable table;
  ConnShard& shard;
  std::unique_ptr<Loop> loop;
  PipePool pipes;
  RelayContext context;
  PairTable pairs;
  bool keeps = true;        // the agent wants its channels back
  Pair* waiting = nullptr;  // the edge's end of a channel without a visitor
  Pair* edge = nullptr;     // with one
  Pair* agent = nullptr;
  Conn* idle = nullptr;     // the agent's end of such a channel
  std::vector<EndReason> edge_ends;
  std::vector<EndReason> agent_ends;
  unsigned visitors_gone = 0;
  uint64_t edge_received = 0;   // from the channel of the pair that ended last, as Conn counts it
  uint64_t agent_received = 0;
  unsigned turns = 0;

  Chain(std::unique_ptr<Loop> made, PumpKind kind)
      : shard(table.add_shard(256)),
        loop(std::move(made)),
        pipes(counters, 16, 1),
        context{*loop, shard, pipes, counters, kind},
        pairs(context, 256,
              {.on_end = on_end,
               .on_unready = [](void*, Pair&) {},
               .on_visitor_gone = [](void* self, Pair&) { return ++static_cast<Chain*>(self)->visitors_gone > 0; },
               .may_keep_channel = [](void* self, const Pair&) { return static_cast<Chain*>(self)->keeps; }},
              this) {
    std::signal(SIGPIPE, SIG_IGN);
  }
  ~Chain() {
    pairs.end_all(EndReason::kDrainDeadline);
    EXPECT_TRUE(run_until(*loop, [&] { return pairs.live() == 0; }));
    drop_idle();
    EXPECT_EQ(shard.live(), 0u) << "a slot is left";
    EXPECT_EQ(pipes.borrowed(), 0u) << "a pipe is left";
    EXPECT_EQ(loop->buffers().held(), 0u) << "a buffer is left";
    EXPECT_EQ(pairs.with_visitor(), 0u);
    EXPECT_EQ(counters.get(Counter::kPairsLive), 0u);
  }
  static void on_end(void* self, Pair& pair) {
    auto& chain = *static_cast<Chain*>(self);
    const bool returned = pair.reason == EndReason::kReturned;
    EXPECT_EQ(returned, pair.keeps_channel);
    if (pair.owner == kAgent) {
      chain.agent = nullptr;
      chain.agent_ends.push_back(pair.reason);
      if (!returned) return;
      chain.agent_received = pair.front_conn().bytes_received;
      chain.idle = &pair.front_conn();
      chain.idle->renew(chain.loop->turn_ms());
      return;
    }
    (&pair == chain.edge ? chain.edge : chain.waiting) = nullptr;
    chain.edge_ends.push_back(pair.reason);
    if (!returned) return;
    Conn& conn = pair.back_conn();
    chain.edge_received = conn.bytes_received;
    conn.renew(chain.loop->turn_ms());
    chain.waiting = chain.pairs.start_waiting(conn, kEdge);
  }

  Conn& conn(Fd& fd, ConnRole role) {
    Conn* conn = shard.claim(fd.release(), {}, role, loop->turn_ms());
    loopback::must(conn != nullptr, "a slot");
    return *conn;
  }
  void drop_idle() {
    if (idle == nullptr) return;
    loop->close(idle->fd, CloseWith::kFin);
    shard.release(*idle);
    idle = nullptr;
  }
  // buffer_bytes: of the channel's sockets, 0 for the kernel's choice.
  void open_channel(int buffer_bytes = 0) {
    loopback::Two two = loopback::connected(buffer_bytes);
    waiting = pairs.start_waiting(conn(two.near, ConnRole::kDataChannel), kEdge);
    drop_idle();
    idle = &conn(two.far, ConnRole::kDataChannel);
  }
  // The edge alone; far is what plays the agent.
  void open_channel_of(Peer& far, int buffer_bytes = 0) {
    loopback::Two two = loopback::connected(buffer_bytes);
    waiting = pairs.start_waiting(conn(two.near, ConnRole::kDataChannel), kEdge);
    far.fd = std::move(two.far);
  }
  void visit(Peer& visitor) {
    loopback::Two front = loopback::connected();
    visitor.fd = std::move(front.far);
    loopback::must(waiting != nullptr, "a ready channel");
    edge = std::exchange(waiting, nullptr);
    pairs.attach_front(*edge, conn(front.near, ConnRole::kVisitor), true);
  }
  void serve(Peer& service) {
    loopback::Two back = loopback::connected();
    service.fd = std::move(back.far);
    loopback::must(idle != nullptr, "an idle channel");
    Conn& front = *std::exchange(idle, nullptr);
    agent = pairs.start(front, conn(back.near, ConnRole::kService), kAgent, true);
    loopback::must(agent != nullptr, "a pair");
  }
  void meet(Peer& visitor, Peer& service) {
    visit(visitor);
    serve(service);
  }
  // The agent alone; far is what plays the edge.
  void serve_from(Peer& far, Peer& service, int buffer_bytes = 0) {
    loopback::Two two = loopback::connected(buffer_bytes);
    far.fd = std::move(two.far);
    drop_idle();
    idle = &conn(two.near, ConnRole::kDataChannel);
    serve(service);
  }
  // Turns until done().
  template <typename Done>
  bool until(std::vector<Peer*> peers, Done done, uint32_t patience_ms = 8000) {
    const auto turn = [&] {
      loop->set_messages_first((++turns / 8) % 2 == 1);
      for (Peer* peer : peers) peer->turn();
      loop->run_once(1);
    };
    return run_until(turn, done, patience_ms);
  }
  bool over() const { return edge == nullptr && agent == nullptr; }
  bool channel_is_back() const { return waiting != nullptr && idle != nullptr; }
  bool channel_is_closed() const { return waiting == nullptr && idle == nullptr; }
};

}  // namespace natrp
