// edge/unproven_conns.h
//
// UnprovenConns: conns on the control port until their first bytes say what they are:
//     0x16 a TLS control channel   'N' a data channel's hello   'P' HTTP/2, when gRPC is on   else: garbage, reset
//
// Thread   its worker's.
// Bounds   5 s for the first bytes, and kUnprovenConnsMax at a time or a quarter of the worker's slots, if that is
//          less; the next one takes the place of the oldest, since an honest peer speaks a round trip after its accept.
//          Beside these, as many again whose end is under way: a turn or two. A stranger costs one slot and one small
//          record from a pool.
// Never    reads past the 64 bytes of a hello.
#pragma once

#include <array>

#include "base/limits.h"
#include "base/list.h"
#include "base/record_pool.h"
#include "loop/loop.h"
#include "net/conn_table.h"

namespace natrp {

class EdgeWorker;

class UnprovenConns {
 public:
  UnprovenConns(EdgeWorker& edge, bool grpc);
  ~UnprovenConns();
  UnprovenConns(const UnprovenConns&) = delete;
  UnprovenConns& operator=(const UnprovenConns&) = delete;

  // fd: just accepted; owned here until its first bytes are in.
  void add(int fd);

 private:
  struct Stranger {
    explicit Stranger(UnprovenConns& its) : self(&its) {
      receive.handler = on_op;
      deadline.handler = on_deadline;
    }
    Op receive;  // first: handlers find the stranger by a cast
    Timer deadline;
    ListLink pool_link;
    ListLink waiting_link;
    UnprovenConns* const self;
    Conn* conn = nullptr;
    uint32_t got = 0;
    bool late = false;
    std::array<uint8_t, kHelloBytes> bytes{};
  };
  static void on_op(Op& op);
  static void on_deadline(Timer& timer);
  void displace_oldest();
  void receive(Stranger& stranger);
  void look(Stranger& stranger);
  Conn& take(Stranger& stranger);
  void drop(Stranger& stranger, CloseWith with);

  EdgeWorker& edge_;
  const bool grpc_;
  const unsigned most_;
  bool closing_ = false;
  RecordPool<Stranger, &Stranger::pool_link> strangers_{kRecordsKept};
  // Those that nobody has displaced, the oldest first.
  List<Stranger, &Stranger::waiting_link> waiting_;
  unsigned waiting_count_ = 0;
};

}  // namespace natrp
