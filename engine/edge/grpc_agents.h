// edge/grpc_agents.h
//
// GrpcAgents: in one worker, the original natrp's clients: their connections (grpc_agent), their streams
// (grpc_channel), and where a visitor meets a ready stream of its client.
//
//     visitor, a stream ready here       → joined at once
//     visitor, a stream ready elsewhere  → the visitor moves there: nothing is in flight on a fresh one
//     visitor, no stream anywhere        → it waits; 10 s, or it has left: edge/parked_visitors ends it
//     stream, a visitor waits here       → joined;  elsewhere → that worker is asked for it;  nobody → ready
//
// Streams do not move: a connection carries many of them.
//
// Thread   its worker's.
// Bounds   kGrpcAgentsMax connections, kParkedVisitorsMax waiting visitors of a client. Of the connections that have
//          shown no known token kGrpcStrangersMax, or a quarter of the worker's slots if that is less; the next one
//          takes the place of the oldest, since an honest client shows its token with its first bytes.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/list.h"
#include "compat/natrp_grpc.h"
#include "edge/grpc_agent.h"
#include "edge/grpc_channel.h"
#include "edge/grpc_client.h"
#include "edge/parked_visitors.h"
#include "loop/owned.h"
#include "runtime/worker.h"

namespace natrp {

class EdgeWorker;

// What this worker knows of a client. Stays until nothing of a removed client is left.
struct GrpcClientHere {
  GrpcClientHere(std::shared_ptr<GrpcClient> its, unsigned worker)
      : shared(std::move(its)), parked(*shared->conns, shared->places[worker].parked) {}
  const std::shared_ptr<GrpcClient> shared;
  ParkedQueue parked;
  List<GrpcChannel, &GrpcChannel::ready_link> ready;
  uint32_t ready_count = 0;
  uint32_t agents = 0;
  uint32_t channels = 0;
  uint32_t flowing = 0;
  std::string refusal;  // why it may have no port now, until refused_until_ms
  uint64_t refused_until_ms = 0;
};

class GrpcAgents {
 public:
  explicit GrpcAgents(EdgeWorker& edge);
  ~GrpcAgents();
  GrpcAgents(const GrpcAgents&) = delete;
  GrpcAgents& operator=(const GrpcAgents&) = delete;

  // A conn whose first bytes are HTTP/2's; owned here.
  void take_agent(Conn& conn, std::string_view first_bytes);
  // fd: a visitor of the client's port, just accepted; owned here.
  void take_visitor(int fd, const std::shared_ptr<GrpcClient>& client);

  // Letters of the control thread.
  void set_tokens(std::shared_ptr<const GrpcTokens> tokens);
  // The client may have no port: its ready streams end with the sentence, and new ones for a moment.
  void refuse(const std::shared_ptr<GrpcClient>& client, const std::string& sentence);
  // No new streams, no new visitors; those that flow may finish.
  void drain();
  static constexpr char kDraining[] = "this edge is being stopped";

  // Letters of other workers. The second: it has a ready stream for a visitor that waits here.
  void take_waiting_visitor(int fd, const std::shared_ptr<GrpcClient>& client, uint64_t deadline_ms);
  void give_visitor(const std::shared_ptr<GrpcClient>& client, unsigned to_worker);

  // Nothing flows, and every connection is closed.
  bool idle() const { return channels_live_ == 0 && agents_live_ == 0; }
  bool stopping() const { return stopping_; }

  // From agents and channels.
  Worker& worker();
  // A buffer for bytes that are passed on before the next call.
  std::span<uint8_t> scratch() { return {scratch_.get(), kBufferBytes}; }
  NatrpGrpcConnection::Verdict authenticate(std::string_view token);
  // It has shown a known token, or is over.
  void leave_strangers(GrpcAgent& agent);
  GrpcClientHere* find(uint64_t client);
  void agent_came(GrpcClientHere& client);
  void agent_gone(GrpcClientHere& client);
  GrpcChannel& make_channel(GrpcAgent& agent, GrpcChannel::StreamId stream, GrpcClientHere& client);
  // A stream is open and has no visitor.
  void offer(GrpcChannel& channel);
  // No visitor may meet the stream any more. Does nothing when it was not ready.
  void unready(GrpcChannel& channel);
  // Likewise, as its agent has ended it: counted when it was ready.
  void lost(GrpcChannel& channel);
  void visitor_came(GrpcClientHere& client);
  void visitor_gone(GrpcClientHere& client, uint64_t bytes_up, uint64_t bytes_down);
  void over(GrpcChannel& channel);  // deletes it
  void over(GrpcAgent& agent);      // likewise

 private:
  void on_tick();
  void displace_oldest_stranger();
  GrpcClientHere& here(const std::shared_ptr<GrpcClient>& client);
  Conn* claim(int fd, const std::shared_ptr<GrpcClient>& client);
  void meet_or_park(GrpcClientHere& client, Conn& conn, uint64_t deadline_ms);
  void park(GrpcClientHere& client, Conn& conn, uint64_t deadline_ms);
  void move(GrpcClientHere& client, ParkedVisitor& parked, unsigned to_worker);
  void ask_for_visitor(const std::shared_ptr<GrpcClient>& client, unsigned for_worker);
  void publish(GrpcClientHere& client);
  void pump_agents();
  void forget_removed();
  void keep_ticking();

  EdgeWorker& edge_;
  ParkedVisitors parked_;
  std::shared_ptr<const GrpcTokens> tokens_;
  std::unordered_map<uint64_t, std::unique_ptr<GrpcClientHere>> clients_;  // by the store's id
  List<GrpcAgent, &GrpcAgent::link> agents_;
  // Those that have shown no known token, the oldest first.
  List<GrpcAgent, &GrpcAgent::stranger_link> strangers_;
  const unsigned strangers_most_;
  unsigned strangers_count_ = 0;
  List<GrpcChannel, &GrpcChannel::all_link> channels_;
  std::unique_ptr<uint8_t[]> scratch_;
  OwnedTimer<&GrpcAgents::on_tick> tick_{*this};
  uint32_t agents_live_ = 0;
  uint32_t channels_live_ = 0;
  bool draining_ = false;
  bool stopping_ = false;
};

}  // namespace natrp
