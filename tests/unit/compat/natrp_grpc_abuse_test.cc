// What a hostile peer does to one connection: bounded by the numbers in base/limits.h, ended with
// ENHANCE_YOUR_CALM.

#include <gtest/gtest.h>
#include <malloc.h>

#include <random>

#include "compat/natrp_grpc.h"
#include "grpc_peer.h"

namespace natrp {
namespace {

using StreamEnd = NatrpGrpcConnection::StreamEnd;

class NatrpGrpcAbuseTest : public ::testing::Test {
 protected:
  NatrpGrpcAbuseTest() : connection(events, 1000) {
    events.connection = &connection;
    victim = peer.open_msg();
    peer.exchange(connection);
  }

  // Feeds the frame until the connection refuses, at most `count_max` times; returns how many were fed. The
  // answers are taken as they come, as by a peer that reads.
  size_t flood(std::string_view frame, size_t count_max, bool reads = true) {
    size_t count = 0;
    while (count < count_max) {
      ++count;
      if (!connection.feed(bytes_of(frame))) break;
      if (reads) take_answers();
    }
    take_answers();
    return count;
  }

  void take_answers() {
    std::vector<uint8_t> buffer(16384);
    while (connection.wants_output()) {
      const size_t size = connection.pull(buffer);
      if (size == 0) break;
      answers.append(buffer.begin(), buffer.begin() + static_cast<ptrdiff_t>(size));
    }
  }

  void expect_calm(std::string_view about) {
    EXPECT_NE(std::string_view::npos, connection.end_reason().find(about)) << connection.end_reason();
    EXPECT_TRUE(connection.finished());
    EXPECT_FALSE(connection.feed(bytes_of(frame_of(NGHTTP2_PING, 0, 0, "12345678"))));
    EXPECT_EQ(StreamEnd::kBroken, events.closed.at(victim));
    // The farewell is the last frame: GOAWAY, ENHANCE_YOUR_CALM, and the reason as its debug data.
    const std::string_view reason = connection.end_reason();
    ASSERT_GE(answers.size(), 17 + reason.size());
    const std::string_view farewell = std::string_view(answers).substr(answers.size() - reason.size() - 17);
    EXPECT_EQ(static_cast<char>(8 + reason.size()), farewell[2]);
    EXPECT_EQ(static_cast<char>(NGHTTP2_GOAWAY), farewell[3]);
    EXPECT_EQ(static_cast<char>(NGHTTP2_ENHANCE_YOUR_CALM), farewell[16]);
    EXPECT_EQ(reason, farewell.substr(17));
  }

  RecordingEvents events;
  NatrpGrpcConnection connection;
  GrpcPeer peer;
  int32_t victim = 0;
  std::string answers;
};

TEST_F(NatrpGrpcAbuseTest, PingFlood) {
  EXPECT_NEAR(kGrpcControlFramesBurst, flood(frame_of(NGHTTP2_PING, 0, 0, "12345678"), 100000), 20);
  expect_calm("PING");
}

TEST_F(NatrpGrpcAbuseTest, PingFloodOfAPeerThatReadsNoAnswers) {
  EXPECT_LE(flood(frame_of(NGHTTP2_PING, 0, 0, "12345678"), 100000, false), 1002u);  // the last one waits
  expect_calm("answers were not read");
}

TEST_F(NatrpGrpcAbuseTest, PingsInStepWithTheDataWeSendAreNoFlood) {
  const std::string content(10'000, 'x');
  for (size_t i = 0; i < 5 * kGrpcControlFramesBurst; ++i) {
    ASSERT_EQ(content.size(), connection.write_stream(victim, bytes_of(content)));
    const uint8_t opaque[8] = {};
    nghttp2_submit_ping(peer.session, 0, opaque);
    peer.exchange(connection);
    peer.calls[victim].data.clear();
  }
  EXPECT_EQ("", connection.end_reason());
}

TEST_F(NatrpGrpcAbuseTest, AllowancesComeBackWithTime) {
  const std::string ping = frame_of(NGHTTP2_PING, 0, 0, "12345678");
  for (uint64_t second = 1; second < 100; ++second) {
    connection.on_tick(1000 + second * 1000);
    ASSERT_EQ(kGrpcControlFramesPerSecond, flood(ping, kGrpcControlFramesPerSecond));
  }
  EXPECT_EQ("", connection.end_reason());
}

TEST_F(NatrpGrpcAbuseTest, SettingsFlood) {
  EXPECT_NEAR(kGrpcControlFramesBurst, flood(frame_of(NGHTTP2_SETTINGS, 0, 0, ""), 100000), 20);
  expect_calm("SETTINGS");
}

TEST_F(NatrpGrpcAbuseTest, PriorityAndWindowUpdateFloods) {
  EXPECT_GT(flood(frame_of(NGHTTP2_WINDOW_UPDATE, 0, 0, std::string("\0\0\0\1", 4)), 1000), 999u);
  EXPECT_LT(flood(frame_of(NGHTTP2_PRIORITY, 0, 101, std::string("\0\0\0\0\1", 5)), 100000),
            kGrpcControlFramesBurst);
  expect_calm("PRIORITY");
}

TEST_F(NatrpGrpcAbuseTest, EmptyDataFlood) {
  EXPECT_NEAR(kGrpcControlFramesBurst, flood(frame_of(NGHTTP2_DATA, 0, victim, ""), 100000), 20);
  expect_calm("without data");
}

TEST_F(NatrpGrpcAbuseTest, DataThatIsOnlyPaddingIsEmptyToo) {
  EXPECT_NEAR(
      kGrpcControlFramesBurst,
      flood(frame_of(NGHTTP2_DATA, NGHTTP2_FLAG_PADDED, victim, std::string("\x05\0\0\0\0\0", 6)), 100000),
      20);
  expect_calm("without data");
}

TEST_F(NatrpGrpcAbuseTest, RapidReset) {
  size_t calls = 0;
  while (calls < 100000 && connection.end_reason().empty()) {
    const auto id = peer.open_msg();
    std::string frames = peer.take_output();
    peer.cancel(id);
    frames += peer.take_output();
    connection.feed(bytes_of(frames));
    take_answers();
    ++calls;
  }
  EXPECT_NEAR(kGrpcWastedStreamsBurst, calls, 20);
  expect_calm("came to nothing");
}

TEST_F(NatrpGrpcAbuseTest, RapidResetProvokedFromTheServer) {
  // Each stream is opened, then broken so that the edge resets it: a window of more than 2^31 - 1.
  size_t calls = 0;
  while (calls < 100000 && connection.end_reason().empty()) {
    const auto id = peer.open_msg();
    connection.feed(
        bytes_of(peer.take_output() + frame_of(NGHTTP2_WINDOW_UPDATE, 0, id, "\x7f\xff\xff\xff")));
    take_answers();
    ++calls;
  }
  EXPECT_LE(calls, kGrpcWastedStreamsBurst + 20);
  expect_calm("too many");
}

TEST_F(NatrpGrpcAbuseTest, CallsThatAreRefusedAreBoundedToo) {
  constexpr size_t kPerSecond = 500;
  size_t calls = 0;
  for (; calls < 100000 && connection.end_reason().empty(); ++calls) {
    if (calls % kPerSecond == 0) connection.on_tick(1 + calls / kPerSecond * kGrpcRefusalHeldMs);
    peer.open_msg("evil");
    connection.feed(bytes_of(peer.take_output()));
    std::vector<uint8_t> buffer(16384);
    while (connection.wants_output()) {
      const size_t size = connection.pull(buffer);
      nghttp2_session_mem_recv(peer.session, buffer.data(), size);
    }
  }
  // Those that are held are not counted yet.
  EXPECT_GE(calls, kGrpcWastedStreamsBurst);
  EXPECT_LE(calls, kGrpcWastedStreamsBurst + kGrpcStreamsMax);
  ASSERT_FALSE(peer.goaways.empty());
  EXPECT_EQ(static_cast<uint32_t>(NGHTTP2_ENHANCE_YOUR_CALM), peer.goaways.back());
}

TEST_F(NatrpGrpcAbuseTest, StreamsThatCarriedAVisitorMayComeAndGoAsTheyLike) {
  for (size_t i = 0; i < 3 * kGrpcWastedStreamsBurst; ++i) {
    const auto id = peer.open_msg();
    peer.exchange(connection);
    ASSERT_EQ(3u, connection.write_stream(id, bytes_of("GET")));
    peer.exchange(connection);
    if (i % 2)
      peer.cancel(id);
    else
      connection.end_stream(id, GrpcStatus::kOk);
    peer.exchange(connection);
    ASSERT_TRUE(events.closed.count(id)) << connection.end_reason();
  }
  EXPECT_EQ("", connection.end_reason());
}

TEST_F(NatrpGrpcAbuseTest, AClientMayCancelAllItsStreamsAtOnce) {
  std::vector<int32_t> ids;
  for (uint32_t i = 0; i < kGrpcStreamsMax - 1; ++i) ids.push_back(peer.open_msg());
  peer.exchange(connection);
  EXPECT_EQ(kGrpcStreamsMax, connection.streams_ready());
  for (const auto id : ids) peer.cancel(id);
  peer.exchange(connection);
  EXPECT_EQ("", connection.end_reason());
  EXPECT_EQ(1u, connection.streams_ready());
}

TEST_F(NatrpGrpcAbuseTest, MoreStreamsThanToldEndTheConnection) {
  // A client of its own that has not heard of the limit, so that all are on their way: refused one by one.
  RecordingEvents others;
  NatrpGrpcConnection crowded(others, 1000);
  others.connection = &crowded;
  GrpcPeer eager;
  for (uint32_t i = 0; i < kGrpcStreamsMax + 50; ++i) eager.open_msg();
  eager.exchange(crowded);
  EXPECT_EQ(kGrpcStreamsMax, crowded.streams_ready());
  size_t refused = 0;
  for (const auto& [id, call] : eager.calls) refused += call.error == NGHTTP2_REFUSED_STREAM;
  EXPECT_EQ(50u, refused);
}

TEST(NatrpGrpcConnection, AStrangersStreamsAreFewAndKeepNothingOfTheirFields) {
  // A content type of 3800 bytes is put into the table, then named by one byte in each of a thousand calls.
  const std::string long_type = "application/grpc;" + std::string(3800, 'x');
  const std::string path = "/serverpb.ServerService/Register";
  const auto block = [&](bool first) {
    std::string fields("\x83\x86\x01\x01x\x04", 6);
    fields += static_cast<char>(path.size());
    fields += path;
    if (!first) return fields + "\xbe";
    fields += "\x5f\x7f";  // a length of 127 and the rest, seven bits at a time (RFC 7541 §5.1)
    for (size_t rest = long_type.size() - 127;; rest >>= 7) {
      fields += static_cast<char>(rest > 127 ? (rest & 127) | 128 : rest);
      if (rest <= 127) break;
    }
    return fields + long_type;
  };
  RecordingEvents events;
  NatrpGrpcConnection connection(events, 1000);
  std::vector<uint8_t> buffer(65536);
  const auto take_answers = [&] {
    while (connection.wants_output() && connection.pull(buffer) > 0) {
    }
  };
  connection.feed(bytes_of(std::string(NGHTTP2_CLIENT_MAGIC).append(frame_of(NGHTTP2_SETTINGS, 0, 0, ""))));
  take_answers();
  const size_t before = mallinfo2().uordblks;
  for (int call = 0; call < 1000; ++call) {
    ASSERT_TRUE(connection.feed(
        bytes_of(frame_of(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 2 * call + 1, block(call == 0)))));
    take_answers();
  }
  EXPECT_LT(mallinfo2().uordblks - before, kGrpcStreamsUnprovenMax * 1500u + 16384u);
}

TEST_F(NatrpGrpcAbuseTest, ContinuationFlood) {
  ASSERT_TRUE(connection.feed(bytes_of(frame_of(NGHTTP2_HEADERS, 0, 101, "\x83\x86"))));
  EXPECT_EQ(kGrpcContinuationsMax + 1, flood(frame_of(NGHTTP2_CONTINUATION, 0, 101, ""), 1000));
  expect_calm("CONTINUATION");
}

TEST_F(NatrpGrpcAbuseTest, AHeaderBlockThatIsLongOnTheWire) {
  // A literal that is never finished, so that no field is ever seen.
  std::string start(
      "\x00\x03"
      "abc"
      "\x7f\x80\x80\x7f",
      9);
  ASSERT_TRUE(connection.feed(bytes_of(frame_of(NGHTTP2_HEADERS, 0, 101, start + std::string(16000, 'x')))));
  EXPECT_LE(flood(frame_of(NGHTTP2_CONTINUATION, 0, 101, std::string(16000, 'x')), 1000), 3u);
  EXPECT_NE("", connection.end_reason());
  EXPECT_TRUE(connection.finished());
}

TEST_F(NatrpGrpcAbuseTest, AHeaderListOfManySmallFields) {
  auto fields = GrpcPeer::msg_call();
  for (uint32_t i = 0; i < kGrpcHeaderFieldsMax; ++i) {
    fields.push_back({std::string("x").append(std::to_string(i)), "y"});
  }
  peer.open(fields);
  connection.feed(bytes_of(peer.take_output()));
  take_answers();
  expect_calm("header list");
}

TEST_F(NatrpGrpcAbuseTest, AHeaderBombOfOneBytePerField) {
  // One field of 3000 bytes is put into the table, then named again and again by one byte.
  nghttp2_hd_deflater* deflater;
  nghttp2_hd_deflate_new(&deflater, 4096);
  std::string value(3000, 'v');
  uint8_t name[] = "x";
  const nghttp2_nv big{name, reinterpret_cast<uint8_t*>(value.data()), 1, value.size(), 0};
  uint8_t out[8192];
  const auto size = nghttp2_hd_deflate_hd(deflater, out, sizeof out, &big, 1);
  nghttp2_hd_deflate_del(deflater);
  const std::string block = std::string("\x83\x86\x04\x01/").append(out, out + size);
  std::string bomb = block;
  bomb.append(4000, '\xbe');  // index 62: the newest entry of the table
  connection.feed(bytes_of(frame_of(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 101, bomb)));
  take_answers();
  expect_calm("header list");
}

TEST_F(NatrpGrpcAbuseTest, AHeaderBlockThatNeverEnds) {
  ASSERT_TRUE(connection.feed(bytes_of(frame_of(NGHTTP2_HEADERS, 0, 101, "\x83\x86"))));
  connection.on_tick(1000 + kGrpcHeaderBlockMs);
  EXPECT_EQ("", connection.end_reason());
  connection.on_tick(1000 + kGrpcHeaderBlockMs + 1);
  take_answers();
  expect_calm("too long to arrive");
}

TEST_F(NatrpGrpcAbuseTest, HeadersThatNobodyReadsAnyMoreAreNotTakenForSlowOnes) {
  // Trailers that crossed our reset on their way, and a call that crossed our last GOAWAY.
  const auto over = peer.open_msg();
  peer.exchange(connection);
  peer.cancel(over);
  peer.exchange(connection);
  const auto flags = NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM;
  ASSERT_TRUE(connection.feed(bytes_of(frame_of(NGHTTP2_HEADERS, flags, over, "\x83\x86"))));
  connection.on_tick(1000 + kGrpcHeaderBlockMs + 1);
  ASSERT_EQ("", connection.end_reason());
  connection.drain("the edge is being stopped");
  peer.exchange(connection);
  ASSERT_TRUE(connection.feed(bytes_of(frame_of(NGHTTP2_HEADERS, flags, 101, "\x83\x86"))));
  connection.on_tick(1000 + 2 * (kGrpcHeaderBlockMs + 1));
  EXPECT_EQ("the edge is being stopped", connection.end_reason());
  EXPECT_EQ(0u, events.closed.count(victim)) << "its visitor flows";
}

TEST_F(NatrpGrpcAbuseTest, AConnectionThatBreaksHttp2HasNoCleanEnd) {
  peer.send(victim, message_of("half of an ans"));
  peer.exchange(connection);
  // DATA on stream 0: what comes behind it is not read any more.
  connection.feed(bytes_of(frame_of(NGHTTP2_DATA, 0, 0, message_of("wer"))));
  take_answers();
  EXPECT_TRUE(connection.finished());
  EXPECT_NE(std::string_view::npos, connection.end_reason().find("the peer broke HTTP/2"));
  EXPECT_EQ("half of an ans", events.data[victim]);
  EXPECT_EQ(StreamEnd::kBroken, events.closed.at(victim));
}

TEST(NatrpGrpcConnection, EndsAConnectionThatSendsNoPreface) {
  RecordingEvents events;
  NatrpGrpcConnection connection(events, 0);
  connection.feed(bytes_of(std::string_view(NGHTTP2_CLIENT_MAGIC, 10)));
  connection.on_tick(kGrpcPrefaceMs);
  EXPECT_EQ("", connection.end_reason());
  connection.on_tick(kGrpcPrefaceMs + 1);
  EXPECT_NE("", connection.end_reason());
  std::vector<uint8_t> buffer(1000);
  while (connection.wants_output()) connection.pull(buffer);
  EXPECT_TRUE(connection.finished());
}

TEST(NatrpGrpcConnection, EndsAConnectionThatDoesNotAcknowledgeSettings) {
  RecordingEvents events;
  NatrpGrpcConnection connection(events, 0);
  connection.feed(bytes_of(std::string(NGHTTP2_CLIENT_MAGIC).append(frame_of(NGHTTP2_SETTINGS, 0, 0, ""))));
  std::vector<uint8_t> buffer(1000);
  connection.on_tick(kGrpcSettingsAckMs);
  while (connection.wants_output()) connection.pull(buffer);
  EXPECT_FALSE(connection.finished());
  connection.on_tick(kGrpcSettingsAckMs + 1);
  while (connection.wants_output()) connection.pull(buffer);
  EXPECT_TRUE(connection.finished());
}

TEST(NatrpGrpcConnection, RefusesWhatIsNotHttp2) {
  RecordingEvents events;
  NatrpGrpcConnection connection(events, 0);
  EXPECT_FALSE(connection.feed(bytes_of("PRI * HTTP/1.1\r\n\r\n and more bytes than a preface")));
  EXPECT_NE("", connection.end_reason());
  std::vector<uint8_t> buffer(1000);
  while (connection.wants_output()) connection.pull(buffer);
  EXPECT_TRUE(connection.finished());
}

TEST(NatrpGrpcConnection, SurvivesCorruptedConversations) {
  // A true conversation with some bytes changed, at every kind of place; the fuzz target goes further.
  std::mt19937 random(20190101);
  for (int round = 0; round < 3000; ++round) {
    RecordingEvents events;
    NatrpGrpcConnection connection(events, 0);
    events.connection = &connection;
    GrpcPeer peer;
    const auto id = peer.open_msg();
    peer.send(id, message_of("hello"));
    std::string input = peer.take_output();
    for (int change = 0; change < 1 + round % 4; ++change) {
      input[24 + random() % (input.size() - 24)] = static_cast<char>(random());
    }
    for (size_t done = 0; done < input.size(); done += 17) {
      if (!connection.feed(bytes_of(std::string_view(input).substr(done, 17)))) break;
      for (const auto& [ready, client] : events.ready) connection.write_stream(ready, bytes_of("answer"));
      std::vector<uint8_t> buffer(1000);
      while (connection.wants_output() && connection.pull(buffer) > 0) {
      }
    }
    connection.lost(StreamEnd::kLost);
    EXPECT_EQ(events.ready.size(), events.closed.size());
  }
}

}  // namespace
}  // namespace natrp
