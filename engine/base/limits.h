// base/limits.h
//
// Every number that bounds the engine, in one place, with where it comes from. What an operator may change is an
// option (runtime/options.h); these are the walls around the options.
#pragma once

#include <cstddef>
#include <cstdint>

namespace natrp {

// --- Threads and slots -------------------------------------------------------------------------------------------
// Each has a shard of the connection table; a SlotId has 8 bits for the number of it.
inline constexpr unsigned kWorkersMax = 64;
// Slots of one worker's shard. Memory is mapped, and touched only when a slot is first used.
inline constexpr uint32_t kConnsPerWorkerMax = 1u << 20;

// How many connections of one listener wait to be accepted. The default of net.core.somaxconn since Linux 5.4.
inline constexpr int kListenBacklog = 4096;

// --- One turn of a loop: fairness ----------------------------------------------------------------------------------
// The epoll backend attempts the ops that are ready in rounds: what the handlers of one round submit is attempted in
// the next one, without a wait between them. The ring backend has one round a turn.
inline constexpr unsigned kRoundsPerTurn = 4;
// The limits of one round:
inline constexpr unsigned kAcceptsPerTurn = 64;
inline constexpr size_t kBytesPerTurn = 1u << 20;   // per pump
// The same for a stream beside messages (runtime/wake_policy.h), which wait behind it: some 20 µs of splice or copy.
inline constexpr size_t kBytesPerTurnQuick = 128u << 10;
inline constexpr unsigned kStepsPerTurn = 32;       // per pump: splice or read calls
// How many ops a loop's own lists hold without an allocation: several times what 32 short visitors at once need.
inline constexpr unsigned kOpsListed = 256;

// --- The end of what has ops in flight ------------------------------------------------------------------------------
// A cancelled op lands within a turn or two, a listener that all workers have to leave within two of theirs, a control
// channel within the second that it gives its agent. These are bounds for a kernel that does not keep its word.
inline constexpr uint32_t kLandingMs = 2000;
inline constexpr uint32_t kPairsLandingMs = 10'000;  // of a worker, at once
inline constexpr int kLandingTurnMs = 5;

// --- Before a loop sleeps (loop/brief_wait.h) ----------------------------------------------------------------------
// How long a loop looks. The answer of another process of this host, or of a host in the same rack, comes sooner.
inline constexpr uint64_t kBriefWaitNs = 50'000;
// After more receives than this a loop does not look: the next messages are there already. One conn alone has one
// receive for each message, or two of which the second finds nothing.
inline constexpr unsigned kBriefWaitReceivesMax = 4;
// After looks in vain a loop sleeps without one, this many times at most: a look in vain then costs < 1 µs a turn.
inline constexpr unsigned kBriefWaitPassedMax = 64;
// When a yield gave the processor to another thread for this long, that thread computes, and the loop rests.
inline constexpr uint64_t kBriefWaitContendedNs = 300'000;
inline constexpr uint32_t kBriefWaitRestMs = 50;         // the first rest; each that follows at once is twice as long
inline constexpr uint32_t kBriefWaitRestMaxMs = 1600;

// --- Buffers of the message path -----------------------------------------------------------------------------------
// A buffer is held from the receive until the send has landed; an idle pair holds none. A read that fills a buffer
// shows that its pair carries a stream (kBulkFillBytes). Only the touched pages of a buffer cost memory. It begins with
// a cache line for what is sent before the received bytes (relay/chunks.h).
inline constexpr size_t kBufferBytes = 64u << 10;
inline constexpr size_t kBufferHeadBytes = 64;
inline constexpr size_t kBufferRoomBytes = kBufferBytes - kBufferHeadBytes;
// How many buffers are on offer to the kernel. It fills them in turn, so each of them costs a touched page. The number
// begins small, and doubles when a batch of receives found none. For each that is held, the reserve gives another one.
inline constexpr unsigned kBuffersOfferedFirst = 16;
inline constexpr unsigned kBuffersOffered = 64;
inline constexpr unsigned kBuffersMax = 16384;      // per worker: 1 GiB mapped, touched on use
// After a burst unused buffers give their pages back to the system (loop/buffer_trim), but for the kBuffersSpare that
// were used last: after kBufferTrimMs with at most kBufferTrimUses receives, and kBuffersTrimmed of them at a time.
// The next receive into such a buffer pays a page fault of half a µs.
inline constexpr uint32_t kBufferTrimMs = 1000;
inline constexpr unsigned kBufferTrimUses = 64;
inline constexpr unsigned kBuffersSpare = 16;
inline constexpr unsigned kBuffersTrimmed = 1024;
// When all buffers are held, a pair ends that has held one for this long, and of whose bytes none left for its sink.
inline constexpr uint32_t kBufferHoldMs = 10000;
static_assert((kBuffersOffered & (kBuffersOffered - 1)) == 0, "a provided-buffer ring has a power of two entries");
static_assert(kBuffersMax <= 65536, "a buffer id has 16 bits");

// --- After the start (runtime/start_trim.h) ------------------------------------------------------------------------
inline constexpr uint32_t kStartTrimMs = 1000;  // the handshake of the first session is over by then
inline constexpr unsigned kStartTrims = 2;      // the start itself, and the first session

// --- COPY, URING ↔ SPLICE ------------------------------------------------------------------------------------------
inline constexpr size_t kBulkReadBytes = 16u << 10;  // three such reads in a row …
inline constexpr unsigned kBulkReads = 3;
inline constexpr size_t kBulkFillBytes = kBufferRoomBytes;  // … or one that filled a buffer
inline constexpr size_t kSmallMoveBytes = 4u << 10;  // three such moves in a row end SPLICE
inline constexpr unsigned kSmallMoves = 3;
inline constexpr uint32_t kBulkIdleMs = 1000;
inline constexpr uint32_t kStallMs = 1000;           // no progress while the source has bytes → COPY for good

// --- What waits in a data channel for its reader (net/socket: bound_receive_buffer) ---------------------------------
// Without a bound, the receive buffer of a stream whose sink is slower than its source grows to tcp_rmem[2] (32 MiB
// since Linux 6.16) even on the shortest line. The bytes that are read next have then left every cache, and a stream
// takes megabytes of the kernel's memory for nothing. The bound is the greater of these two. The kernel doubles it
// (socket(7)), and what it keeps the bytes in counts: half of that on older kernels, two thirds where a frame of 1,500
// bytes has a page.
inline constexpr uint64_t kReceiveBytesMin = 512u << 10;
inline constexpr uint64_t kReceiveBytesPerUs = 2000;  // for each µs of the round trip: 11 to 30 Gb/s

// --- Chunks (relay/chunks.h) -----------------------------------------------------------------------------------------
// A direction that moved this much goes on without chunks: beside it, the cost of another data channel is little.
inline constexpr uint64_t kChunkedBytesMax = 64u << 10;
// How long the edge waits for FREE, which an agent says a round trip after it was told of the visitor's end.
inline constexpr uint32_t kChannelReturnMs = 10000;

// --- Wake-ups of a worker (runtime/wake_policy.h) ------------------------------------------------------------------
inline constexpr uint32_t kBulkPeriodMs = 100;
// The least that streams move in a period of bulk: 0.7 Gb/s.
inline constexpr uint64_t kBulkPeriodBytes = 8u << 20;
// After this many periods of bulk and nothing else, the worker's wake-ups may wait.
inline constexpr unsigned kBulkPeriods = 3;
// After this many periods of bulk and messages, the messages shall not wait behind other threads.
inline constexpr unsigned kMixedPeriods = 2;
inline constexpr uint64_t kQuickSliceNs = 100'000;  // the shortest that the scheduler takes (Linux 6.12 and later)

// --- Descriptors ---------------------------------------------------------------------------------------------------
// How many places the kernel's table of descriptors has from the start (runtime/process.h): half a MiB of its memory.
inline constexpr uint64_t kDescriptorsReserved = 1u << 16;

// --- Pipes ---------------------------------------------------------------------------------------------------------
inline constexpr size_t kPipeBytes = 1u << 20;       // /proc/sys/fs/pipe-max-size of every kernel since 2.6.35
inline constexpr unsigned kPipesPerWorkerMax = 256;
inline constexpr size_t kPipeBytesMin = 16u << 10;   // a pipe that shrank to 2 slots is worse than a copy

// --- Deadlines -----------------------------------------------------------------------------------------------------
inline constexpr uint32_t kHelloTimeoutMs = 5000;
inline constexpr uint32_t kRendezvousTimeoutMs = 10000;
inline constexpr uint32_t kServiceDialTimeoutMs = 5000;
inline constexpr uint32_t kEdgeDialTimeoutMs = 10000;
inline constexpr uint32_t kHeartbeatMs = 5000;
inline constexpr unsigned kHeartbeatMisses = 3;
inline constexpr uint32_t kSessionSilentMs = 2000;   // a session that was silent this long may lose its tunnels
// The bytes queued before a RST get this long to be acknowledged, and more while some leave for their reader.
inline constexpr uint32_t kResetDrainTimeoutMs = 10000;
inline constexpr uint32_t kHalfClosedMs = 10;        // after a direction's end: then its source is watched for a RST
inline constexpr uint32_t kSweepMs = 5;              // how often a pair is looked at that waits to reset
inline constexpr uint32_t kAcceptPauseMs = 100;      // where it failed, as with EMFILE; nginx uses 500

// --- The store (store/store.h) -------------------------------------------------------------------------------------
// How long a running edge waits for another program that holds the store (a backup, an open sqlite3 shell). Its control
// thread has heartbeats to answer, so it waits no longer than some commits of natrpctl take; a later tick tries again.
inline constexpr int kStoreWaitMs = 50;
// Leases that are given within this time are written together: each write waits for the disk (10 ms and more on some),
// and after a restart all agents come at once.
inline constexpr uint32_t kLeaseWriteMs = 20;
// natrpctl and the start of an edge wait longer: a writer holds the file for a few fsyncs, and one that holds it for
// more than this is broken.
inline constexpr int kStoreWaitLongMs = 5000;
// A lease is written again only when its row is older than this, and live leases are looked at as often: the time in a
// row may be two hours old. It tells which port was left longest ago, and which leases were live when an edge ended.
inline constexpr int64_t kLeaseFreshS = 3600;

// --- Dead peers ----------------------------------------------------------------------------------------------------
// Tunnel legs: keepalive 10/5/3 s while idle. With bytes under way keepalive is silent: a control channel has
// TCP_USER_TIMEOUT, and a data channel is looked at by the patrol (relay/pair), which can tell a peer that does not
// answer from one that does not read.
inline constexpr int kKeepaliveIdleS = 10;
inline constexpr int kKeepaliveIntervalS = 5;
inline constexpr int kKeepaliveProbes = 3;
inline constexpr int kTcpUserTimeoutMs = 20000;
inline constexpr int kPeerSilentMs = 20000;
inline constexpr uint32_t kPatrolMs = 5000;
// Where a pair moved none for this long and its channel's socket has none, nothing is under way: keepalive looks on.
inline constexpr uint32_t kPatrolRecentMs = 60000;
static_assert(kPatrolRecentMs > kPeerSilentMs + 2 * kPatrolMs);
// A host that answers nothing is given up in this order: first its session, by heartbeats, which say why in the log;
// then its control channel, where no heartbeats are sent, by TCP_USER_TIMEOUT; its pairs at last. A lost session leaves
// its pairs alone, and an outage that the session survives must not cost a visitor.
static_assert(kHeartbeatMs * kHeartbeatMisses < kTcpUserTimeoutMs);
static_assert(kTcpUserTimeoutMs <= kPeerSilentMs);
// Visitors and services: 60 s, then 5 probes 15 s apart.
inline constexpr int kSlowKeepaliveIdleS = 60;
inline constexpr int kSlowKeepaliveIntervalS = 15;
inline constexpr int kSlowKeepaliveProbes = 5;

// --- Lines of the log (base/line_out.h) ----------------------------------------------------------------------------
// A pipe has room for some 400 lines, and an edge writes more than that at once when it stops. So a thread that logs
// waits for the pipe's reader, this long in kLineWaitPeriodNs at most: a reader on a busy host is late by a slice or
// two of its scheduler, and then no line is lost. For a reader that stands still it is waited only once.
inline constexpr uint64_t kLineWaitNs = 20'000'000;
inline constexpr uint64_t kLineWaitPeriodNs = 1'000'000'000;
inline constexpr uint64_t kLineWaitLeastNs = 50'000;          // what one wait counts at least

// --- Wire (docs/protocol.md) ---------------------------------------------------------------------------------------
inline constexpr size_t kHelloBytes = 64;
inline constexpr size_t kStartBytes = 64;
inline constexpr size_t kFrameBytesMax = 64u << 10;
inline constexpr unsigned kTicketWindow = 1024;      // how far ticket counters may arrive out of order
// A sentence for people in a frame, cut at this length, so that the frame can be sent whatever comes into the sentence.
// Names and the short form of sets of ports (base/port_set.h) make it some 500 bytes.
inline constexpr size_t kSentenceBytesMax = 1024;
static_assert(kSentenceBytesMax <= kFrameBytesMax / 2, "room for the other fields of its frame");
inline constexpr size_t kNameBytesMax = 64;          // client and tunnel names
inline constexpr size_t kHostBytesMax = 253;         // of a name: RFC 1035 §2.3.4, without the lengths
inline constexpr unsigned kTunnelsPerSessionMax = 256;
// A client with a tunnels_max may have 2 × tunnels_max + this many sessions: one agent for each tunnel, as many that
// come back before their old sessions are found dead, and some that wait for a tunnel.
inline constexpr unsigned kSessionsSpare = 8;

// --- Data channels dialled ahead -----------------------------------------------------------------------------------
inline constexpr unsigned kReadyChannelsMin = 2;     // per tunnel
inline constexpr unsigned kReadyChannelsMax = 64;    // per session
// How many ready channels the edge lets a session hold: an agent divides kReadyChannelsMax among its workers, and
// rounds up in each. Channels that were asked for visitors who have left since come on top (EdgeSession::ready_max).
inline constexpr unsigned kReadyChannelsHeld = kReadyChannelsMax + kWorkersMax;
// How many records of conns on their way to a pair (base/record_pool.h) a worker keeps for the next ones. What a burst
// needs beyond them goes back to the heap.
inline constexpr unsigned kRecordsKept = 2 * kReadyChannelsMax;
inline constexpr unsigned kParkedVisitorsMax = 4096; // per session and worker; more are refused at once
// How many conns of a worker may be without their first bytes: this many, and no more than one in kUnprovenSlotsShare
// of the worker's slots. The next one displaces the oldest, so that silence alone shuts nobody out: with 4096, a peer
// 400 ms away is heard unless more than 10,000 strangers come a second.
inline constexpr unsigned kUnprovenConnsMax = 4096;
inline constexpr unsigned kUnprovenSlotsShare = 4;
// Workers share each listener. One steps back from it when it has more conns than the worker with the fewest, by more
// than kConnsAhead and a kConnsAheadShare-th of those.
inline constexpr uint32_t kConnsAhead = 2;
inline constexpr uint32_t kConnsAheadShare = 16;
// How many control channels may be without a session. TLS and buffers take some 50 KB each, 50 MB for strangers in all.
// A handshake costs the control thread a millisecond. A conn that finds this many under way waits for its turn, and has
// kHelloTimeoutMs in all.
inline constexpr unsigned kHandshakesMax = 1024;

// --- Agent back-off -------------------------------------------------------------------------------------------------
inline constexpr uint32_t kBackoffFirstMs = 200;
// Where no connection is to be had. An edge that is back is found in 2 s; 8,192 agents send it as many SYNs a second.
inline constexpr uint32_t kBackoffNobodyThereMaxMs = 2000;
// Where the edge turns the agent away.
inline constexpr uint32_t kBackoffMaxMs = 30000;
inline constexpr uint32_t kBackoffResetMs = 60000;  // the loss of a session that lasted this long begins anew

// --- The original natrp's clients (compat/natrp_grpc) ---------------------------------------------------------------
inline constexpr uint32_t kGrpcAgentsMax = 4096;           // connections of one worker
inline constexpr uint32_t kGrpcStrangersMax = 2048;        // of these, without a known token yet
// The rest is of one connection. What a peer may make this object hold, in bytes, at most:
//   kGrpcStreamsMax * (kGrpcOutBytesMax + about 1 KiB) + what nghttp2 keeps for the frames below, and at the
//   caller kGrpcStreamsMax * kGrpcWindowBytes + kGrpcWindowGrowthBytesMax, delivered and not yet consumed.
// Before a token was accepted nothing is queued or delivered: kGrpcStreamsUnprovenMax * about 1 KiB.

// While its output does not move, no more of a connection's input is read: answers do not pile up.
inline constexpr size_t kGrpcAnswerableBytes = 1024 * 1024;

// Calls that are open at once; more are refused (REFUSED_STREAM), and a client that has read our SETTINGS waits.
inline constexpr uint32_t kGrpcStreamsMax = 1000;
// The same until one of them has shown a known token. grpc-go assumes 100 by itself until it has read our SETTINGS.
inline constexpr uint32_t kGrpcStreamsUnprovenMax = 100;
static_assert(kGrpcStreamsUnprovenMax < kGrpcStreamsMax);
// What gRPC itself takes by default. A Register or Login request is never as long.
inline constexpr size_t kGrpcMessageInBytesMax = 4 * 1024 * 1024;
inline constexpr size_t kGrpcAccountInBytesMax = 64 * 1024;
// The least that HTTP/2 lets anybody limit frames to, so every peer takes it. Our longest message fits into one.
inline constexpr size_t kGrpcFrameBytesMax = 16 * 1024;
// What is queued for one stream, because the peer's window does not take it yet.
inline constexpr size_t kGrpcOutBytesMax = 64 * 1024;

// What one stream may send ahead of its visitor: kGrpcWindowBytes while it has none, kGrpcWindowBytesMax from when one
// joins. The original client drops what it could not send before its service closed, so the answer of a service that
// closes behind it should fit into the window; and into half of it, because there a WINDOW_UPDATE goes out, and one
// that arrives at a client that has closed is answered with a RST that overtakes the rest. The growth, what windows
// have beyond kGrpcWindowBytes, is bounded for the whole connection. Visitors that join get no more than half of it.
// The rest is for streams that got none of that half and whose visitors keep up, so that distance does not set their
// speed (64 KiB at 50 ms are 10 Mb/s).
inline constexpr uint32_t kGrpcWindowBytes = 64 * 1024;
inline constexpr uint32_t kGrpcWindowBytesMax = 1024 * 1024;
inline constexpr uint32_t kGrpcWindowGrowthBytesMax = 32 * 1024 * 1024;
inline constexpr uint32_t kGrpcWindowGrowthJoinedBytesMax = kGrpcWindowGrowthBytesMax / 2;
// The connection's window is given back whatever the visitors do, or one slow visitor would stop all streams.
inline constexpr uint32_t kGrpcConnectionWindowBytes = 16 * 1024 * 1024;
static_assert(kGrpcConnectionWindowBytes >= kGrpcWindowBytesMax, "one stream can use all of its window");

// Header blocks: a client sends about ten fields of 400 bytes together. Counted as unpacked (RFC 9113
// §6.5.2), so that a small block which unpacks to a big one is seen; and on the wire, so that empty
// CONTINUATIONs are too.
inline constexpr uint32_t kGrpcHeaderListBytesMax = 8 * 1024;
inline constexpr uint32_t kGrpcHeaderFieldsMax = 64;
inline constexpr uint32_t kGrpcHeaderBlockBytesMax = 32 * 1024;
inline constexpr uint32_t kGrpcContinuationsMax = 8;
inline constexpr size_t kGrpcTokenBytesMax = 256;

// PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM, GOAWAY and empty DATA. Clients measure their bandwidth
// with PINGs and give back windows while they receive, in step with what we send (grpc-go: at most one PING
// for each DATA), so each DATA frame of ours earns three. Frames of unknown types cost the peer their bytes
// and us nothing: nghttp2 drops them without a word.
inline constexpr uint32_t kGrpcControlFramesBurst = 2000;
inline constexpr uint32_t kGrpcControlFramesPerSecond = 100;
inline constexpr uint32_t kGrpcControlFramesPerDataSent = 3;
// Streams that ended before a byte of a visitor was sent on them: resets, refusals, wrong calls. A client that cancels
// all it has at once is innocent; an original client whose service is broken opens one after the other.
inline constexpr uint32_t kGrpcWastedStreamsBurst = 1500;
inline constexpr uint32_t kGrpcWastedStreamsPerSecond = 100;
static_assert(kGrpcWastedStreamsBurst > kGrpcStreamsMax);

inline constexpr uint64_t kGrpcPrefaceMs = 5'000;       // until the peer's first SETTINGS
inline constexpr uint64_t kGrpcSettingsAckMs = 10'000;  // until it acknowledges ours
inline constexpr uint64_t kGrpcHeaderBlockMs = 10'000;  // from a HEADERS to its END_HEADERS
inline constexpr uint64_t kGrpcFirstStreamMs = 30'000;  // until the first stream that shows a known token
inline constexpr uint64_t kGrpcIdleMs = 300'000;        // without any stream
inline constexpr uint64_t kGrpcAccountMs = 10'000;      // until a Register or Login request is complete
// Until a client is told that its token is unknown, or that it can have no port. The original waits for the answer, and
// tries again without a pause after it: 1,300 times a second, for a fifth of a processor of ours.
inline constexpr uint64_t kGrpcRefusalHeldMs = 1'000;
inline constexpr uint64_t kGrpcEndingMs = 30'000;       // until the peer has taken what was queued at the end
// Our answer to a PING waits until its connection has brought no bytes of a service for kGrpcPingQuietMs, and at most
// kGrpcPingHeldMs. A client asks when it gets a visitor's bytes, to measure its bandwidth. The original client closes
// when its service does, and whatever arrives at it then is answered with a RST that overtakes the rest of what it had
// sent. Clients that ask whether we live wait 20 s for the answer.
inline constexpr uint64_t kGrpcPingQuietMs = 100;
inline constexpr uint64_t kGrpcPingHeldMs = 2'000;
inline constexpr uint64_t kGrpcDrainNoticeMs = 1'000;   // from the first GOAWAY to the one that refuses

}  // namespace natrp
