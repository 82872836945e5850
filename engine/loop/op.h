// loop/op.h
//
// Op: one operation the kernel does for us. A plain member of the object that asked for it.
//
// Life     idle ──Loop::submit──▶ in flight ──handler──▶ idle           (multishot: handler … handler, last one !more)
//                                     └──Loop::cancel──▶ handler with -ECANCELED, or with the result that was faster
// Thread   the thread of the Loop it was submitted to.
// Memory   in_flight is true exactly from submit() until the handler's first line. An Op in flight must not move, be
//          reused or be destroyed: the kernel holds its address.
// Never    calls its handler inside submit() or cancel().
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace natrp {

enum class OpKind : uint8_t {
  kAccept,   // multishot: result = a non-blocking, close-on-exec descriptor that the handler owns
  kRecv,     // into data/len
  kRecvBuffer,  // into a buffer of the loop's BufRing, chosen when bytes are there; at most len bytes; see buffer
  kSend,     // from data/len; completes when all of len is queued, or with an error; short only when an error follows
  kPoll,     // len = poll mask (POLLIN …); result = the mask that came true
  kPollMulti,   // the same, again and again
  kSendRoom,    // a backend's own: a kSend that waits for room in its socket
  kHangUp,      // waits until fd's peer has reset it, or both its directions are over; result = POLLERR | POLLHUP
};

struct Op;
using OpHandler = void (*)(Op&);

struct Op {
  OpHandler handler = nullptr;
  void* data = nullptr;
  int32_t fd = -1;
  uint32_t len = 0;
  int32_t result = 0;       // ≥ 0, or -errno. Set before the handler runs.
  uint16_t buffer = 0;      // kRecvBuffer with result > 0: the buffer's id; the handler owns it now
  OpKind kind = OpKind::kPoll;
  bool in_flight : 1 = false;
  bool more : 1 = false;    // multishot: another completion will come, in_flight stays true
  bool cancelled : 1 = false;  // cancel() was called since submit()
  bool drained : 1 = false;    // kPoll: the submitter has just read all there was, so the backend need not look first
  bool patient : 1 = false;    // kPoll: a stream's, which may wait for messages (loop/patient_ops.h)
  bool kept : 1 = false;       // it has finished, and its handler waits for messages
  bool aside : 1 = false;      // a backend's own mark: waits in an epoll instance beside the ring
  bool queued : 1 = false;     // a backend's own mark: waits in its list of finished ops
};

static_assert(sizeof(Op) == 32, "two Ops and their pump's state share a Pair of 128 bytes");
static_assert(std::is_standard_layout_v<Op>, "handlers find the owner of an Op that is its first member by a cast");

}  // namespace natrp
