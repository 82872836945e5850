// What a data channel's hello costs the edge, and what a control frame costs to read.
#include <benchmark/benchmark.h>

#include <string>

#include "control/control.pb.h"
#include "control/frame_codec.h"
#include "control/start_message.h"
#include "control/ticket.h"

namespace {

void check_a_hello(benchmark::State& state) {
  natrp::TicketKey key{};
  key[0] = 1;
  const natrp::TicketSealer sealer(key);
  const natrp::TicketChecker checker(key);
  natrp::TicketWindow window;
  uint8_t hello[natrp::kHelloBytes];
  sealer.seal(natrp::SlotId::make(0, 1, 1), 1, hello);
  uint64_t counter = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(natrp::parse_hello(hello));
    benchmark::DoNotOptimize(checker.check(hello));
    benchmark::DoNotOptimize(window.use(++counter));
  }
}
BENCHMARK(check_a_hello);

// What a stranger who knows the format makes the edge do.
void refuse_a_forged_hello(benchmark::State& state) {
  const natrp::TicketChecker checker(natrp::TicketKey{});
  uint8_t hello[natrp::kHelloBytes];
  natrp::TicketKey another{};
  another[0] = 1;
  natrp::TicketSealer(another).seal(natrp::SlotId::make(0, 1, 1), 1, hello);
  for (auto _ : state) {
    benchmark::DoNotOptimize(natrp::parse_hello(hello));
    benchmark::DoNotOptimize(checker.check(hello));
  }
}
BENCHMARK(refuse_a_forged_hello);

void decode_a_control_frame(benchmark::State& state) {
  natrp::wire::Frame frame;
  frame.mutable_register_tunnel()->set_name("default");
  frame.mutable_register_tunnel()->set_wanted_port(20000);
  const std::string bytes = frame.SerializeAsString();
  for (auto _ : state) {
    natrp::wire::Frame decoded;
    benchmark::DoNotOptimize(decoded.ParseFromString(bytes));
  }
}
BENCHMARK(decode_a_control_frame);

// The same with its length before it, as it comes off the channel.
void read_a_control_frame(benchmark::State& state) {
  natrp::wire::Frame frame;
  frame.mutable_register_tunnel()->set_name("default");
  frame.mutable_register_tunnel()->set_wanted_port(20000);
  std::string bytes;
  natrp::encode_frame(frame, bytes);
  natrp::FrameDecoder decoder;
  for (auto _ : state) {
    decoder.feed({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    benchmark::DoNotOptimize(decoder.next());
  }
}
BENCHMARK(read_a_control_frame);

void write_a_control_frame(benchmark::State& state) {
  natrp::wire::Frame frame;
  frame.mutable_register_tunnel()->set_name("default");
  frame.mutable_register_tunnel()->set_wanted_port(20000);
  std::string bytes;
  for (auto _ : state) {
    bytes.clear();
    benchmark::DoNotOptimize(natrp::encode_frame(frame, bytes));
  }
}
BENCHMARK(write_a_control_frame);

}  // namespace

BENCHMARK_MAIN();
