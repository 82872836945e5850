// relay/teardown.h
//
// The only code that closes a relayed socket. The order is the whole point (a close with an op in flight would let
// the kernel write into the next owner of the descriptor's number):
//
//     stop both pumps → wait until no op is in flight → let the bytes before a reset out → close → release the slots
//
// Thread   the worker of the pair.
#pragma once

#include <cstdint>

namespace natrp {

class Loop;
struct Pair;
class PairTable;

// Called once per pair, by PairTable::end.
void teardown_begin(PairTable& table, Pair& pair);
// Both directions of a pair are over and its ops have landed: closes the visitor's socket, while its channel (back) may
// carry another visitor. Returns what on_visitor_gone says.
bool teardown_visitor(PairTable& table, Pair& pair);
// Called when an op of an ending pair landed, and by the sweep while bytes before a reset are still on their way.
void teardown_step(PairTable& table, Pair& pair);

// SO_LINGER {1,0} throws away what the peer has not acknowledged. A reset therefore waits until the bytes that were
// queued before it are out: for kResetDrainTimeoutMs, and then for as long as the peer goes on to take some.
bool reset_must_wait(Loop& loop, int fd, uint64_t waited_ms);

}  // namespace natrp
