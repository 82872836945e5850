#include "edge/unproven_conns.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "control/ticket.h"
#include "edge/edge_worker.h"
#include "net/socket.h"

namespace natrp {
namespace {

// RFC 9113 §3.4.
constexpr char kHttp2Preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

}  // namespace

UnprovenConns::UnprovenConns(EdgeWorker& edge, bool grpc)
    : edge_(edge),
      grpc_(grpc),
      most_(std::clamp(edge.worker().conns().capacity() / kUnprovenSlotsShare, 1u, kUnprovenConnsMax)) {}

UnprovenConns::~UnprovenConns() {
  closing_ = true;
  strangers_.for_each([this](Stranger& stranger) {
    if (stranger.receive.in_flight) edge_.worker().loop().cancel(stranger.receive);
  });
  edge_.worker().loop().land_until([this] { return strangers_.taken() == 0; });
}

void UnprovenConns::add(int fd) {
  Worker& worker = edge_.worker();
  // More than twice as many: they come faster than the ends of the displaced ones land.
  Conn* conn = strangers_.taken() < 2 * most_
                   ? worker.conns().claim(fd, {}, ConnRole::kUnproven, worker.loop().turn_ms())
                   : nullptr;
  if (conn == nullptr) {
    worker.counters().add(Counter::kConnsRefused);
    return worker.loop().close(fd, CloseWith::kReset);
  }
  if (waiting_count_ == most_) displace_oldest();
  Stranger& stranger = strangers_.take(*this);
  stranger.conn = conn;
  stranger.got = 0;
  stranger.late = false;
  waiting_.push_back(stranger);
  ++waiting_count_;
  worker.loop().timers().arm(stranger.deadline, kHelloTimeoutMs);
  receive(stranger);
}

// Its slot and its record are free when its op has landed. What it has said before that counts.
void UnprovenConns::displace_oldest() {
  Stranger& oldest = *waiting_.pop_front();
  --waiting_count_;
  edge_.worker().counters().add(Counter::kStrangersDisplaced);
  edge_.worker().loop().timers().disarm(oldest.deadline);
  edge_.worker().loop().cancel(oldest.receive);
}

void UnprovenConns::receive(Stranger& stranger) {
  Op& op = stranger.receive;
  op.kind = OpKind::kRecv;
  op.fd = stranger.conn->fd;
  op.data = stranger.bytes.data() + stranger.got;
  op.len = static_cast<uint32_t>(kHelloBytes) - stranger.got;
  edge_.worker().loop().submit(op);
}

Conn& UnprovenConns::take(Stranger& stranger) {
  edge_.worker().loop().timers().disarm(stranger.deadline);
  Conn& conn = *stranger.conn;
  if (stranger.waiting_link.linked()) {
    stranger.waiting_link.unlink();
    --waiting_count_;
  }
  strangers_.give_back(stranger);
  return conn;
}

void UnprovenConns::drop(Stranger& stranger, CloseWith with) {
  edge_.worker().close(take(stranger), with);
}

void UnprovenConns::on_deadline(Timer& timer) {
  auto* bytes = reinterpret_cast<unsigned char*>(&timer) - offsetof(Stranger, deadline);
  auto& stranger = *reinterpret_cast<Stranger*>(bytes);
  stranger.late = true;
  stranger.self->edge_.worker().loop().cancel(stranger.receive);
}

void UnprovenConns::on_op(Op& op) {
  auto& stranger = *reinterpret_cast<Stranger*>(&op);
  UnprovenConns& self = *stranger.self;
  if (self.closing_) return self.drop(stranger, CloseWith::kFin);
  if (op.result > 0) {
    stranger.got += static_cast<uint32_t>(op.result);
    return self.look(stranger);
  }
  if (!op.cancelled && (op.result == -EAGAIN || op.result == -EINTR)) return self.receive(stranger);
  if (stranger.late) self.edge_.worker().counters().add(Counter::kHelloTimeouts);
  // It left without a word, or is late or displaced: a port scan, a health check. Nothing to tell it.
  self.drop(stranger, CloseWith::kFin);
}

void UnprovenConns::look(Stranger& stranger) {
  Worker& worker = edge_.worker();
  const uint8_t first = stranger.bytes[0];
  if (first == 0x16) {
    std::string prefix(reinterpret_cast<const char*>(stranger.bytes.data()), stranger.got);
    const uint64_t deadline_ms = stranger.deadline.deadline_ms;
    return edge_.on_control_conn(take(stranger), std::move(prefix), deadline_ms);
  }
  if (first == 'P' && grpc_) {
    // Copied: take() ends the stranger.
    const std::string prefix(reinterpret_cast<const char*>(stranger.bytes.data()), stranger.got);
    if (std::string_view(kHttp2Preface).starts_with(prefix.substr(0, sizeof kHttp2Preface - 1))) {
      return edge_.on_grpc_conn(take(stranger), prefix);
    }
  }
  constexpr uint8_t kMagic[4] = {'N', 'T', 'R', 'P'};
  if (std::memcmp(stranger.bytes.data(), kMagic, std::min<size_t>(stranger.got, 4)) != 0) {
    worker.counters().add(Counter::kGarbageRefused);
    return drop(stranger, CloseWith::kReset);
  }
  if (stranger.got < kHelloBytes) {
    // Late or displaced, and no deadline is left that would end another receive.
    if (stranger.receive.cancelled) return drop(stranger, CloseWith::kFin);
    return receive(stranger);
  }
  const auto fields = parse_hello(stranger.bytes);
  if (!fields.ok()) {
    worker.counters().add(Counter::kHelloRefused);
    return drop(stranger, CloseWith::kReset);
  }
  const std::array<uint8_t, kHelloBytes> hello = stranger.bytes;
  edge_.on_channel(take(stranger), fields.value().session, hello.data());
}

}  // namespace natrp
