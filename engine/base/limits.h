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

// Of a listener: connected, and not accepted yet. The default of net.core.somaxconn since Linux 5.4.
inline constexpr int kListenBacklog = 4096;

// --- One turn of a loop: fairness ----------------------------------------------------------------------------------
// The epoll backend attempts the ops that are ready in rounds: what the handlers of one round submit is attempted in
// the next one, without a wait between them. The ring backend has one round a turn.
inline constexpr unsigned kRoundsPerTurn = 4;
// The limits of one round:
inline constexpr unsigned kAcceptsPerTurn = 64;
inline constexpr size_t kBytesPerTurn = 1u << 20;   // per pump
// … of a stream beside messages (runtime/wake_policy.h): the next message waits behind it, some 20 µs of splice or copy
inline constexpr size_t kBytesPerTurnQuick = 128u << 10;
inline constexpr unsigned kStepsPerTurn = 32;       // per pump: splice or read calls
// Ops that a loop lists between two turns without an allocation: several times what 32 short visitors at once need.
inline constexpr unsigned kOpsListed = 256;

// --- Before a loop sleeps (loop/brief_wait.h) ----------------------------------------------------------------------
// Longer than what an exchange of two hosts of one rack, or of processes of one host, keeps a worker waiting.
inline constexpr uint64_t kBriefWaitNs = 50'000;
// One conn alone has one receive a message, or two of which one finds nothing.
inline constexpr unsigned kBriefWaitReceivesMax = 4;
inline constexpr unsigned kBriefWaitPassedMax = 64;      // a wait for nothing is then less than 1 µs a turn
inline constexpr uint64_t kBriefWaitContendedNs = 300'000;  // who has a processor for so long computes
inline constexpr uint32_t kBriefWaitRestMs = 50;
inline constexpr uint32_t kBriefWaitRestMaxMs = 1600;

// --- Buffers of the message path -----------------------------------------------------------------------------------
// A buffer is held from the receive until the send has landed; an idle pair holds none. A read that fills it proves a
// streamer (kBulkFillBytes). Only the touched pages of a buffer cost memory. It begins with a cache line for what is
// sent before the bytes that were received (relay/chunks.h).
inline constexpr size_t kBufferBytes = 64u << 10;
inline constexpr size_t kBufferHeadBytes = 64;
inline constexpr size_t kBufferRoomBytes = kBufferBytes - kBufferHeadBytes;
// Offered to the kernel at any time: the ring hands them out in turn, so each costs a touched page. It begins small
// and doubles when a batch of receives found none; more come from the reserve when slow receivers hold theirs.
inline constexpr unsigned kBuffersOfferedFirst = 16;
inline constexpr unsigned kBuffersOffered = 64;
inline constexpr unsigned kBuffersMax = 16384;      // per worker: 1 GiB mapped, touched on use
// After a burst the pages of the others go back to the system (loop/buffer_trim): once so few receives came in so long,
// all but so many that are at hand, and so many at a time (a page fault later, each costs a receive half a µs).
inline constexpr uint32_t kBufferTrimMs = 1000;
inline constexpr unsigned kBufferTrimUses = 64;
inline constexpr unsigned kBuffersSpare = 16;
inline constexpr unsigned kBuffersTrimmed = 1024;
// When all are held, a pair that held one for so long without a byte that left for its sink gives it up, and ends.
inline constexpr uint32_t kBufferHoldMs = 10000;
static_assert((kBuffersOffered & (kBuffersOffered - 1)) == 0, "a provided-buffer ring has a power of two entries");
static_assert(kBuffersMax <= 65536, "a buffer id has 16 bits");

// --- After the start (runtime/start_trim.h) ------------------------------------------------------------------------
inline constexpr uint32_t kStartTrimMs = 1000;  // the handshake of the first session is over by then
inline constexpr unsigned kStartTrims = 2;      // the start itself, and the first session

// --- COPY ↔ BULK ---------------------------------------------------------------------------------------------------
inline constexpr size_t kBulkReadBytes = 16u << 10;  // three such reads in a row …
inline constexpr unsigned kBulkReads = 3;
inline constexpr size_t kBulkFillBytes = kBufferRoomBytes;  // … or one that filled a buffer
inline constexpr size_t kSmallMoveBytes = 4u << 10;  // three such moves in a row end BULK
inline constexpr unsigned kSmallMoves = 3;
inline constexpr uint32_t kBulkIdleMs = 1000;
inline constexpr uint32_t kStallMs = 1000;           // no progress while the source has bytes → COPY for good

// --- What waits in a data channel for its reader (net/socket: bound_receive_buffer) ---------------------------------
// Left to itself, the receive buffer of a stream whose sink is slower than its source grows to tcp_rmem[2], 32 MiB
// since Linux 6.16, on the shortest line, too. What is read last has then left every cache, and a stream takes
// megabytes of the kernel's memory for nothing. The kernel doubles the figures (socket(7)), and what it keeps the bytes
// in has its part of that: half on older kernels, two thirds where a frame of 1,500 bytes has a page.
inline constexpr uint64_t kReceiveBytesMin = 512u << 10;
inline constexpr uint64_t kReceiveBytesPerUs = 2000;  // of the round trip: 11 to 30 Gb/s

// --- Chunks (relay/chunks.h) -----------------------------------------------------------------------------------------
// A direction that moved so much goes on without chunks: what its visitor's channel costs is little beside it.
inline constexpr uint64_t kChunkedBytesMax = 64u << 10;
// An agent says that a channel is free a round trip after it was told of the visitor's end.
inline constexpr uint32_t kChannelReturnMs = 10000;

// --- Wake-ups of a worker (runtime/wake_policy.h) ------------------------------------------------------------------
inline constexpr uint32_t kBulkPeriodMs = 100;
inline constexpr unsigned kBulkPeriods = 3;           // so many of nothing but bulk: the worker's wake-ups may wait
inline constexpr uint64_t kBulkPeriodBytes = 8u << 20;  // of which each has at least so much: 0.7 Gb/s
inline constexpr unsigned kMixedPeriods = 2;            // so many with messages beside bulk: they shall not wait
inline constexpr uint64_t kQuickSliceNs = 100'000;      // the shortest that the scheduler takes (Linux 6.12 and later)

// --- Descriptors ---------------------------------------------------------------------------------------------------
// So many have a place in the kernel's table from the start (runtime/process.h): half a MiB of the kernel's memory.
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
inline constexpr uint32_t kSessionSilentMs = 2000;   // a second session of the same tunnel may take over after this
// Bytes queued before a RST get this long to be acknowledged, and longer only where data left for their reader lately.
inline constexpr uint32_t kResetDrainTimeoutMs = 10000;
inline constexpr uint32_t kHalfClosedMs = 10;        // a direction ended so long ago: its source is watched for a RST
inline constexpr uint32_t kSweepMs = 5;              // how often pairs that wait for a reset or a stall are looked at
inline constexpr uint32_t kAcceptPauseMs = 100;      // after EMFILE, nginx uses 500

// --- The store (store/store.h) -------------------------------------------------------------------------------------
// A running edge waits so long for another program that holds the store (a backup, an open sqlite3 shell): its control
// thread has heartbeats to answer meanwhile. It is some commits of natrpctl; whatever takes longer, a later tick tries.
inline constexpr int kStoreWaitMs = 50;
// Leases that are given within so long are written together: each write waits for the disk, for 10 ms and more on some,
// and after a restart all agents come at once.
inline constexpr uint32_t kLeaseWriteMs = 20;
// A command of a person, and the start of an edge, wait longer: a writer holds the file for a few fsyncs, and whoever
// needs more than this is broken.
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
// A data channel whose pair has moved nothing for so long has nothing under way: keepalive looks after it.
inline constexpr uint32_t kPatrolRecentMs = 60000;
static_assert(kPatrolRecentMs > kPeerSilentMs + 2 * kPatrolMs);
// A host that answers nothing is given up in this order: its session by heartbeats, which say why in the log; its
// control channel by TCP_USER_TIMEOUT, where no heartbeat looks; its pairs at last. A lost session leaves its pairs
// alone, and an outage that the session survives must not cost a visitor.
static_assert(kHeartbeatMs * kHeartbeatMisses < kTcpUserTimeoutMs);
static_assert(kTcpUserTimeoutMs <= kPeerSilentMs);
// Visitors and services: 60 s, then 5 probes 15 s apart.
inline constexpr int kSlowKeepaliveIdleS = 60;
inline constexpr int kSlowKeepaliveIntervalS = 15;
inline constexpr int kSlowKeepaliveProbes = 5;

// --- Lines of the log (base/line_out.h) ----------------------------------------------------------------------------
// A pipe has room for some 400 lines, and an edge says more than that at once when it stops. A reader on a busy host is
// late by a slice or two of its scheduler, and loses nothing; one that stands still costs whoever logs this much once.
inline constexpr uint64_t kLineWaitNs = 20'000'000;
inline constexpr uint64_t kLineWaitPeriodNs = 1'000'000'000;  // in which no more than that is waited
inline constexpr uint64_t kLineWaitLeastNs = 50'000;          // what one wait counts at least

// --- Wire (docs/protocol.md) ---------------------------------------------------------------------------------------
inline constexpr size_t kHelloBytes = 64;
inline constexpr size_t kStartBytes = 64;
inline constexpr size_t kFrameBytesMax = 64u << 10;
inline constexpr unsigned kTicketWindow = 1024;      // how far ticket counters may arrive out of order
// A sentence for people in a frame. Names and the short form of sets of ports (base/port_set.h) make it some 500 bytes;
// whatever else comes into one, the frame is sent.
inline constexpr size_t kSentenceBytesMax = 1024;
static_assert(kSentenceBytesMax <= kFrameBytesMax / 2, "room for the other fields of its frame");
inline constexpr size_t kNameBytesMax = 64;          // client and tunnel names
inline constexpr size_t kHostBytesMax = 253;         // of a name: RFC 1035 §2.3.4, without the lengths
inline constexpr unsigned kTunnelsPerSessionMax = 256;
// A client of so many tunnels at most has an agent for each, one that comes back before its old session is found dead,
// and some that wait for a tunnel: more sessions than 2 × tunnels_max + these are nobody's need.
inline constexpr unsigned kSessionsSpare = 8;

// --- Data channels dialled ahead -----------------------------------------------------------------------------------
inline constexpr unsigned kReadyChannelsMin = 2;     // per tunnel
inline constexpr unsigned kReadyChannelsMax = 64;    // per session
// What the edge lets a session hold: an agent divides the above among its workers and rounds up in each. Beside it,
// what was asked for visitors that waited and that have left since (EdgeSession::ready_max).
inline constexpr unsigned kReadyChannelsHeld = kReadyChannelsMax + kWorkersMax;
// Records of conns on their way to a pair (base/record_pool.h) that a worker keeps for the next ones. What a burst
// needs beyond goes back to the heap.
inline constexpr unsigned kRecordsKept = 2 * kReadyChannelsMax;
inline constexpr unsigned kParkedVisitorsMax = 4096; // per session and worker; more are refused at once
// Per worker: conns whose first bytes are not in yet, and no more than one slot of so many. The next one displaces the
// oldest, so that silence alone shuts nobody out: with 4096, a peer 400 ms away is heard until 10,000 a second come.
inline constexpr unsigned kUnprovenConnsMax = 4096;
inline constexpr unsigned kUnprovenSlotsShare = 4;
// Of workers that accept at one listener: how many conns one may have more than the one that has the fewest, and of
// many, which part of these.
inline constexpr uint32_t kConnsAhead = 2;
inline constexpr uint32_t kConnsAheadShare = 16;
// Control channels without a session: TLS and buffers are some 50 KB each, so 50 MB of a stranger's in all. A handshake
// costs the control thread a millisecond; who comes meanwhile waits for its turn, and has kHelloTimeoutMs in all.
inline constexpr unsigned kHandshakesMax = 1024;

// --- Agent back-off -------------------------------------------------------------------------------------------------
inline constexpr uint32_t kBackoffFirstMs = 200;
// Nobody is there: who is back is found within two seconds, by 8,192 agents with as many SYNs a second.
inline constexpr uint32_t kBackoffNobodyThereMaxMs = 2000;
// The edge turned us away.
inline constexpr uint32_t kBackoffMaxMs = 30000;
inline constexpr uint32_t kBackoffResetMs = 60000;

// --- The original natrp's clients (compat/natrp_grpc) ---------------------------------------------------------------
inline constexpr uint32_t kGrpcAgentsMax = 4096;           // connections of one worker
inline constexpr uint32_t kGrpcStrangersMax = 2048;        // of these, without a known token yet
// The rest is of one connection. What a peer may make this object hold, in bytes, at most:
//   kGrpcStreamsMax * (kGrpcOutBytesMax + about 1 KiB) + what nghttp2 keeps for the frames below, and at the
//   caller kGrpcStreamsMax * kGrpcWindowBytes + kGrpcWindowGrowthBytesMax, delivered and not yet consumed.
// Before a token was accepted nothing is queued or delivered: kGrpcStreamsUnprovenMax * about 1 KiB.

// While its output does not move, no more of a connection's input is read: answers do not pile up.
inline constexpr size_t kGrpcAnswerableBytes = 1024 * 1024;

// Calls that are open at once; more are refused (REFUSED_STREAM), and a client that knows waits.
inline constexpr uint32_t kGrpcStreamsMax = 1000;
// The same until one of them has shown a known token. grpc-go assumes 100 by itself until it has read our SETTINGS.
inline constexpr uint32_t kGrpcStreamsUnprovenMax = 100;
static_assert(kGrpcStreamsUnprovenMax < kGrpcStreamsMax);
// What gRPC itself takes by default. A Register or Login request is never as long.
inline constexpr size_t kGrpcMessageInBytesMax = 4 * 1024 * 1024;
inline constexpr size_t kGrpcAccountInBytesMax = 64 * 1024;
// The least that HTTP/2 allows to limit frames to: every peer takes it. One message of ours fills one frame.
inline constexpr size_t kGrpcFrameBytesMax = 16 * 1024;
// Queued for one stream: what the peer's window does not take yet.
inline constexpr size_t kGrpcOutBytesMax = 64 * 1024;

// What one stream may send ahead of its visitor: the first while it has none, the second from when one joins. The
// original client drops what it could not send before its service closed, so the answer of a service that closes behind
// it should fit; within half of it, because then a WINDOW_UPDATE goes out, and one that arrives at a client that has
// closed is answered with a RST that overtakes the rest. What was given on top of the first is bounded for the whole
// connection. Visitors that join take no more than half of that; the rest is for streams that got nothing any more and
// whose visitors keep up, so that distance does not set their speed (64 KiB at 50 ms are 10 Mb/s).
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
// Streams that ended before one byte of a visitor went up them: resets, refusals, wrong calls. A client that
// cancels all it has at once is innocent; an original client whose service is broken opens one after the
// other.
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
// Our answer to a PING waits until its connection has brought no bytes of a service for so long, and at most so much. A
// client asks when it gets a visitor's bytes, to measure its bandwidth; the original closes when its service does, and
// what arrives at it then is answered with a RST that overtakes the rest of what it had sent. Clients that ask whether
// we live wait 20 s for the answer.
inline constexpr uint64_t kGrpcPingQuietMs = 100;
inline constexpr uint64_t kGrpcPingHeldMs = 2'000;
inline constexpr uint64_t kGrpcDrainNoticeMs = 1'000;   // from the first GOAWAY to the one that refuses

}  // namespace natrp
