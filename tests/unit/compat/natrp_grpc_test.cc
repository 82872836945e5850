#include "compat/natrp_grpc.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "grpc_peer.h"

namespace natrp {
namespace {

using StreamEnd = NatrpGrpcConnection::StreamEnd;

std::string random_bytes(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

class NatrpGrpcTest : public ::testing::Test {
 protected:
  NatrpGrpcTest() : connection(events, 1000) { events.connection = &connection; }

  void exchange(size_t step = 65536) { peer.exchange(connection, step); }

  void tick_after(uint64_t passed_ms) {
    now_ms += passed_ms;
    connection.on_tick(now_ms);
    exchange();
  }

  // All of `content` to the stream, as room comes.
  void write_all(int32_t id, std::string_view content) {
    while (!content.empty()) {
      const size_t taken = connection.write_stream(id, bytes_of(content));
      content.remove_prefix(taken);
      exchange();
      ASSERT_TRUE(taken > 0 || content.empty()) << "no room came";
    }
  }

  // How much the peer may send on the stream before anything is consumed.
  uint32_t window(int32_t id) {
    return static_cast<uint32_t>(nghttp2_session_get_stream_remote_window_size(peer.session, id));
  }

  RecordingEvents events;
  uint64_t now_ms = 1000;
  NatrpGrpcConnection connection;
  GrpcPeer peer;
};

// ---- opening ----

TEST_F(NatrpGrpcTest, AMsgCallWithAKnownTokenIsReadyAndIsToldSoBeforeAnyVisitor) {
  const auto id = peer.open_msg();
  exchange();
  EXPECT_EQ(42u, events.ready.at(id));
  EXPECT_EQ(1u, connection.streams_ready());
  EXPECT_EQ("200", peer.calls[id].fields[":status"]);
  EXPECT_EQ("application/grpc", peer.calls[id].fields["content-type"]);
  EXPECT_FALSE(peer.calls[id].trailed);
}

TEST_F(NatrpGrpcTest, WorksWhenEveryByteComesAlone) {
  events.echoes = true;
  const auto id = peer.open_msg();
  peer.send(id, message_of("hello") + message_of("world"));
  exchange(1);
  EXPECT_EQ("helloworld", events.data[id]);
  EXPECT_EQ("helloworld", peer.calls[id].content());
}

TEST_F(NatrpGrpcTest, ATokenThatIsMissingOrThereTwiceIsBadMetadata) {
  auto without = GrpcPeer::msg_call();
  without.pop_back();
  auto twice = GrpcPeer::msg_call();
  twice.push_back(twice.back());
  for (const auto& fields : {without, twice}) {
    const auto id = peer.open(fields);
    exchange();
    EXPECT_EQ("3", peer.calls[id].grpc_status());
    EXPECT_EQ("bad metadata", peer.calls[id].fields["grpc-message"]);
    EXPECT_TRUE(peer.calls[id].headers_ended_it);
    EXPECT_TRUE(peer.calls[id].closed);
  }
  EXPECT_TRUE(events.tokens.empty());
}

TEST_F(NatrpGrpcTest, AnUnknownTokenIsUnauthenticatedWithASentence) {
  const auto id = peer.open_msg("evil");
  const auto endless = peer.open_msg(std::string(kGrpcTokenBytesMax + 1, 'x'));
  exchange();
  tick_after(kGrpcRefusalHeldMs - 1);
  for (const auto call : {id, endless}) EXPECT_FALSE(peer.calls[call].closed) << "it would try again at once";
  tick_after(1);
  for (const auto call : {id, endless}) {
    EXPECT_EQ("16", peer.calls[call].grpc_status());
    EXPECT_NE(std::string::npos, peer.calls[call].fields["grpc-message"].find("ask its operator"));
  }
  EXPECT_EQ(std::vector<std::string>{"evil"}, events.tokens);
  EXPECT_TRUE(events.ready.empty());
}

TEST_F(NatrpGrpcTest, ACallThatIsToBeRefusedMayEndBefore) {
  auto fields = GrpcPeer::msg_call("evil");
  fields.emplace_back("grpc-timeout", "100m");
  const auto cancelled = peer.open_msg("evil"), late = peer.open(fields);
  exchange();
  peer.cancel(cancelled);
  exchange();
  tick_after(100);
  tick_after(kGrpcRefusalHeldMs);
  EXPECT_EQ("4", peer.calls[late].grpc_status());
}

TEST_F(NatrpGrpcTest, AnUnknownMethodIsUnimplemented) {
  auto fields = GrpcPeer::msg_call();
  fields[2].second = "/serverpb.ServerService/Other";
  const auto id = peer.open(fields);
  exchange();
  EXPECT_EQ("12", peer.calls[id].grpc_status());
}

TEST_F(NatrpGrpcTest, WhatIsNotGrpcGetsAnHttpStatus) {
  auto get = GrpcPeer::msg_call();
  get[0].second = "GET";
  auto json = GrpcPeer::msg_call();
  json[4].second = "application/json";
  auto web = GrpcPeer::msg_call();
  web[4].second = "application/grpc-web";
  const auto get_id = peer.open(get), json_id = peer.open(json), web_id = peer.open(web);
  exchange();
  EXPECT_EQ("405", peer.calls[get_id].fields[":status"]);
  EXPECT_EQ("415", peer.calls[json_id].fields[":status"]);
  EXPECT_EQ("415", peer.calls[web_id].fields[":status"]);
  EXPECT_TRUE(events.ready.empty());
}

TEST_F(NatrpGrpcTest, RegisterAndLoginAnswerCodeFailedWithASentence) {
  for (const char* method : {"Register", "Login"}) {
    auto fields = GrpcPeer::msg_call();
    fields[2].second = std::string("/serverpb.ServerService/") + method;
    fields.pop_back();  // no token needed
    const std::string request(
        "\0\0\0\0\x0a\x0a\x03"
        "a@b"
        "\x12\x03"
        "pwd",
        15);
    const auto id = peer.open(fields, request);
    exchange();
    EXPECT_FALSE(peer.calls[id].trailed) << "answers only a whole request";
    peer.finish(id);
    exchange();
    EXPECT_EQ("0", peer.calls[id].grpc_status());
    const std::string& data = peer.calls[id].data;
    ASSERT_GT(data.size(), 20u);
    EXPECT_EQ(std::string("\x08\x01\x12"), data.substr(5, 3));
    EXPECT_NE(std::string::npos, data.find("natrpctl client add"));
  }
}

TEST_F(NatrpGrpcTest, ALoginWithoutExactlyOneMessageOrWithoutAnEndGetsAnError) {
  auto fields = GrpcPeer::msg_call();
  fields[2].second = "/serverpb.ServerService/Login";
  const auto none = peer.open(fields, "", true);
  const auto two = peer.open(fields, message_of("a") + message_of("b"), true);
  const auto big = peer.open(fields, message_of(std::string(kGrpcAccountInBytesMax, 'x')), true);
  const auto endless = peer.open(fields, message_of("a"));
  exchange();
  EXPECT_EQ("13", peer.calls[none].grpc_status());
  EXPECT_EQ("13", peer.calls[two].grpc_status());
  EXPECT_EQ("8", peer.calls[big].grpc_status());
  EXPECT_EQ("none", peer.calls[endless].grpc_status());
  tick_after(kGrpcAccountMs);
  EXPECT_EQ("4", peer.calls[endless].grpc_status());
}

// ---- bytes ----

TEST_F(NatrpGrpcTest, CarriesMegabytesBothWaysByteForByte) {
  const auto id = peer.open_msg();
  const std::string up = random_bytes(3 * 1024 * 1024 + 17, 1), down = random_bytes(2 * 1024 * 1024 + 5, 2);
  peer.send(id, message_of(down));
  exchange();
  write_all(id, up);
  EXPECT_TRUE(down == events.data[id]);
  EXPECT_TRUE(up == peer.calls[id].content());
}

TEST_F(NatrpGrpcTest, AMessageOfFourMebibytesIsTakenAndALongerOneIsNot) {
  const auto most = peer.open_msg(), more = peer.open_msg();
  const std::string content(kGrpcMessageInBytesMax - 5, 'm');  // tag and length are part of the message
  peer.send(most, message_of(content));
  peer.send(more, message_of(content + "x"));
  exchange();
  EXPECT_TRUE(content == events.data[most]);
  EXPECT_EQ("", events.data[more]);
  EXPECT_EQ("8", peer.calls[more].grpc_status());
  EXPECT_EQ(StreamEnd::kBadInput, events.closed.at(more));
  EXPECT_EQ(1u, connection.streams_ready());
}

TEST_F(NatrpGrpcTest, ACompressedMessageEndsItsCallUnimplemented) {
  const auto id = peer.open_msg(), other = peer.open_msg();
  peer.send(id, message_of("before") + std::string("\x01\0\0\0\x03xyz", 8));
  exchange();
  EXPECT_EQ("12", peer.calls[id].grpc_status());
  EXPECT_EQ("before", events.data[id]) << "bytes before the fault are delivered";
  EXPECT_EQ(StreamEnd::kBadInput, events.closed.at(id));
  EXPECT_FALSE(peer.calls[other].closed) << "the connection and its other streams go on";
}

TEST_F(NatrpGrpcTest, TakesNoMoreThanTheQueueHoldsAndSaysWhenThereIsRoom) {
  GrpcPeer stubborn(false);  // gives no window back: 65535 bytes and no more
  const auto id = stubborn.open_msg();
  stubborn.exchange(connection);
  const std::string content = random_bytes(1024 * 1024, 4);
  size_t taken = 0;
  for (int round = 0; round < 20; ++round) {
    const size_t writable = connection.stream_writable(id);
    EXPECT_EQ(writable, connection.write_stream(id, bytes_of(std::string_view(content).substr(taken))));
    taken += writable;
    stubborn.exchange(connection);
  }
  EXPECT_GE(taken, kGrpcOutBytesMax) << "a window's worth";
  EXPECT_LE(taken, 65535 + kGrpcOutBytesMax) << "a window's worth and one queue";
  EXPECT_EQ(0u, connection.stream_writable(id));
  events.writable.clear();

  stubborn.consume(id, 65535);
  stubborn.exchange(connection);
  EXPECT_EQ(std::vector<int32_t>{id}, events.writable);
  EXPECT_GT(connection.stream_writable(id), 0u);
}

TEST_F(NatrpGrpcTest, ASlowVisitorStopsItsOwnStreamOnly) {
  events.consumes = false;
  const auto slow = peer.open_msg(), quick = peer.open_msg();
  exchange();
  const std::string content = random_bytes(5 * 1024 * 1024, 5);
  for (size_t done = 0; done < content.size(); done += 1024 * 1024) {
    for (const auto id : {slow, quick}) peer.send(id, message_of(content.substr(done, 1024 * 1024)));
  }
  exchange();
  EXPECT_LE(events.data[slow].size(), kGrpcWindowBytes);
  for (size_t consumed = 0; consumed < content.size();) {
    const size_t here = events.data[quick].size();
    ASSERT_GT(here, consumed) << "the quick stream stopped";
    connection.consume_stream(quick, here - consumed);
    consumed = here;
    exchange();
  }
  EXPECT_TRUE(content == events.data[quick]);
  EXPECT_LE(events.data[slow].size(), kGrpcWindowBytes);
  EXPECT_GT(events.data[slow].size(), kGrpcWindowBytes - 100);

  events.consumes = true;
  connection.consume_stream(slow, events.data[slow].size());
  exchange();
  EXPECT_TRUE(content == events.data[slow]);
}

TEST_F(NatrpGrpcTest, EvenSlowVisitorsWithMoreThanTheConnectionsWindowDoNotStopAnother) {
  events.consumes = false;
  const std::string content(kGrpcWindowBytes, 's');
  for (uint32_t i = 0; i * kGrpcWindowBytes < 2 * kGrpcConnectionWindowBytes; ++i) {
    peer.send(peer.open_msg(), message_of(content));
    exchange();
  }
  events.consumes = true;
  const auto quick = peer.open_msg();
  peer.send(quick, message_of(content));
  exchange();
  EXPECT_EQ(content.size(), events.data[quick].size());
}

TEST_F(NatrpGrpcTest, AStreamWhoseVisitorKeepsUpGetsAWiderWindowAndASlowOneDoesNot) {
  const auto quick = peer.open_msg(), slow = peer.open_msg();
  peer.send(quick, message_of(std::string(4'000'000, 'q')));
  exchange();
  ASSERT_EQ(4'000'000u, events.data[quick].size());
  const auto quick_window = nghttp2_session_get_stream_remote_window_size(peer.session, quick);
  EXPECT_GT(quick_window, static_cast<int32_t>(kGrpcWindowBytesMax / 2));
  EXPECT_LE(quick_window, static_cast<int32_t>(kGrpcWindowBytesMax));

  events.consumes = false;
  peer.send(slow, message_of(std::string(4'000'000, 's')));
  for (size_t consumed = 0; consumed < 4'000'000;) {
    exchange();
    // Always a third of what was delivered is still waiting.
    const size_t waiting = events.data[slow].size() - consumed;
    ASSERT_GT(waiting, 0u);
    ASSERT_LE(waiting, kGrpcWindowBytes) << "after " << consumed;
    const size_t count = std::max<size_t>(1, waiting * 2 / 3);
    connection.consume_stream(slow, count);
    consumed += count;
  }
}

TEST_F(NatrpGrpcTest, AStreamThatAVisitorJoinsMaySendFurtherAheadAndOneThatWaitsMayNot) {
  events.consumes = false;
  const auto joined = peer.open_msg(), waits = peer.open_msg(), quick = peer.open_msg();
  exchange();
  connection.join_stream(joined);
  const std::string content = random_bytes(2'000'000, 7);
  for (const auto id : {joined, waits}) peer.send(id, message_of(content));
  exchange();
  EXPECT_LE(events.data[joined].size(), kGrpcWindowBytesMax);
  EXPECT_GT(events.data[joined].size(), kGrpcWindowBytesMax - 100);
  EXPECT_LE(events.data[waits].size(), kGrpcWindowBytes);

  // Its visitor takes nothing, and the others go on.
  events.consumes = true;
  peer.send(quick, message_of(content));
  exchange();
  EXPECT_TRUE(content == events.data[quick]);
  EXPECT_LE(events.data[joined].size(), kGrpcWindowBytesMax);
  for (const auto id : {joined, waits}) connection.consume_stream(id, events.data[id].size());
  exchange();
  for (const auto id : {joined, waits}) EXPECT_TRUE(content == events.data[id]) << id;
}

TEST_F(NatrpGrpcTest, AVisitorThatWaitedWidensTheStreamThatComesWhetherOrNotThePeerKnowsOurSettings) {
  events.joins = true;
  events.consumes = false;
  const std::string content(kGrpcWindowBytesMax, 'w');
  for (const char* when : {"before our SETTINGS", "after them"}) {
    const auto id = peer.open_msg();
    peer.send(id, message_of(content));
    exchange();
    EXPECT_EQ("", connection.end_reason());
    EXPECT_GT(events.data[id].size(), kGrpcWindowBytesMax - 100) << when;
    connection.consume_stream(id, events.data[id].size());
    exchange();
    EXPECT_TRUE(content == events.data[id]) << when;
  }
}

TEST_F(NatrpGrpcTest, VisitorsThatJoinShareABudgetAndWhatAStreamHadIsGivenBackWhenItEnds) {
  constexpr uint32_t kGrowth = kGrpcWindowBytesMax - kGrpcWindowBytes;
  constexpr uint32_t kWide = kGrpcWindowGrowthJoinedBytesMax / kGrowth;
  exchange();
  const auto open_joined = [&] {
    const auto id = peer.open_msg();
    exchange();
    for (int twice = 0; twice < 2; ++twice) connection.join_stream(id);  // counts once
    exchange();
    return id;
  };
  std::vector<int32_t> wide;
  while (wide.size() < kWide) {
    wide.push_back(open_joined());
    ASSERT_EQ(kGrpcWindowBytesMax, window(wide.back())) << wide.size();
  }
  const auto small = open_joined();
  EXPECT_EQ(kGrpcWindowBytes, window(small));

  // All of an answer comes through it, too, if its client waits for the window.
  events.consumes = false;
  const std::string content = random_bytes(400'000, 8);
  peer.send(small, message_of(content));
  exchange();
  EXPECT_LE(events.data[small].size(), kGrpcWindowBytes);
  for (size_t consumed = 0; consumed < content.size();) {
    const size_t here = events.data[small].size() - consumed;
    ASSERT_GT(here, 0u) << "stopped after " << consumed;
    connection.consume_stream(small, here);
    consumed += here;
    exchange();
  }
  EXPECT_TRUE(content == events.data[small]);
  connection.end_stream(small, GrpcStatus::kOk);
  exchange();

  // However a stream ends, the next visitor has what its visitor had.
  peer.cancel(wide[0]);
  connection.end_stream(wide[1], GrpcStatus::kOk);
  connection.end_stream(wide[2], GrpcStatus::kCancelled);
  exchange();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(events.closed.count(wide[i])) << i;
    EXPECT_EQ(kGrpcWindowBytesMax, window(open_joined())) << i;
  }
  EXPECT_EQ(kGrpcWindowBytes, window(open_joined()));

  // What is left of the growth is for those that keep up.
  events.consumes = true;
  const auto quick = open_joined();
  ASSERT_EQ(kGrpcWindowBytes, window(quick));
  peer.send(quick, message_of(std::string(4'000'000, 'q')));
  exchange();
  EXPECT_EQ(4'000'000u, events.data[quick].size());
  EXPECT_GT(window(quick), kGrpcWindowBytesMax / 2);
}

TEST_F(NatrpGrpcTest, AStreamThatCannotSendMoreIsNotWidened) {
  const auto ended = peer.open_msg(), cut = peer.open_msg(), refused = peer.open_msg("evil");
  peer.finish(ended);
  exchange();
  connection.end_stream(cut, GrpcStatus::kOk);
  exchange();
  for (const int32_t id : {ended, cut, refused, 4711}) connection.join_stream(id);
  EXPECT_FALSE(connection.wants_output());
  connection.lost(StreamEnd::kLost);
  connection.join_stream(ended);
}

TEST_F(NatrpGrpcTest, OneBusyStreamDoesNotStarveAnother) {
  const auto bulk = peer.open_msg(), small = peer.open_msg();
  exchange();
  const std::string content(kGrpcOutBytesMax, 'b');
  ASSERT_GT(connection.write_stream(bulk, bytes_of(content)), 0u);
  ASSERT_EQ(5u, connection.write_stream(small, bytes_of("hello")));
  // The small one's turn comes after at most two frames of the bulk.
  std::vector<uint8_t> buffer(2 * (9 + kGrpcFrameBytesMax) + 100);
  const size_t size = connection.pull(buffer);
  ASSERT_EQ(static_cast<ssize_t>(size), nghttp2_session_mem_recv(peer.session, buffer.data(), size));
  EXPECT_EQ("hello", peer.calls[small].content());
}

TEST_F(NatrpGrpcTest, TwoHundredStreamsAreKeptApart) {
  events.echoes = true;
  std::map<int32_t, std::string> said;
  for (uint32_t i = 0; i < 200; ++i) {
    const auto id = peer.open_msg();
    said[id] = random_bytes(5000 + i, i);
    peer.send(id, message_of(said[id]));
  }
  exchange(1000);
  EXPECT_EQ(200u, connection.streams_ready());
  for (const auto& [id, content] : said) EXPECT_TRUE(content == peer.calls[id].content()) << id;
}

// ---- ends ----

TEST_F(NatrpGrpcTest, AStreamWhoseVisitorLeftEndsWithOkAfterTheBytesBefore) {
  const auto id = peer.open_msg();
  exchange();
  const std::string content = random_bytes(50'000, 6);
  ASSERT_EQ(content.size(), connection.write_stream(id, bytes_of(content)));
  connection.end_stream(id, GrpcStatus::kOk);
  EXPECT_EQ(0u, connection.stream_writable(id));
  EXPECT_EQ(0u, connection.write_stream(id, bytes_of("late")));
  EXPECT_FALSE(events.closed.count(id)) << "its bytes are still here";
  exchange();
  EXPECT_TRUE(content == peer.calls[id].content());
  EXPECT_EQ("0", peer.calls[id].grpc_status());
  EXPECT_TRUE(peer.calls[id].closed) << "also the client's direction";
  EXPECT_EQ(static_cast<uint32_t>(NGHTTP2_NO_ERROR), peer.calls[id].error);
  EXPECT_EQ(StreamEnd::kEnded, events.closed.at(id));
  EXPECT_EQ(0u, connection.streams_ready());
}

TEST_F(NatrpGrpcTest, TheStatusAndItsSentenceAreToldAndOnlyTheFirst) {
  const auto id = peer.open_msg();
  exchange();
  connection.end_stream(id, GrpcStatus::kUnavailable, "100% gone");
  connection.end_stream(id, GrpcStatus::kOk);
  exchange();
  EXPECT_EQ("14", peer.calls[id].grpc_status());
  EXPECT_EQ("100%25 gone", peer.calls[id].fields["grpc-message"]);
}

TEST_F(NatrpGrpcTest, AnAgentThatEndsItsDirectionIsToldAfterItsBytesAndCanStillReceive) {
  const auto id = peer.open_msg();
  peer.send(id, message_of("last words"));
  peer.finish(id);
  exchange();
  EXPECT_EQ("last words", events.data[id]);
  EXPECT_EQ(std::vector<int32_t>{id}, events.ended);
  EXPECT_FALSE(events.closed.count(id));
  write_all(id, "answer");
  connection.end_stream(id, GrpcStatus::kOk);
  exchange();
  EXPECT_EQ("answer", peer.calls[id].content());
  EXPECT_EQ("0", peer.calls[id].grpc_status());
  EXPECT_EQ(StreamEnd::kEnded, events.closed.at(id));
}

TEST_F(NatrpGrpcTest, ACallThatEndsTogetherWithItsHeadersIsReadyThenEnded) {
  events.ends_with_agent = true;
  const auto id = peer.open(GrpcPeer::msg_call(), "", true);
  exchange();
  EXPECT_EQ(1u, events.ready.count(id));
  EXPECT_EQ(std::vector<int32_t>{id}, events.ended);
  EXPECT_EQ("0", peer.calls[id].grpc_status());
}

TEST_F(NatrpGrpcTest, ACallThatEndsWithinAMessageIsAnError) {
  const auto id = peer.open_msg();
  const std::string whole = message_of("hello");
  peer.send(id, whole.substr(0, whole.size() - 1));
  peer.finish(id);
  exchange();
  EXPECT_EQ("13", peer.calls[id].grpc_status());
  EXPECT_EQ(StreamEnd::kBadInput, events.closed.at(id));
  EXPECT_TRUE(events.ended.empty());
}

TEST_F(NatrpGrpcTest, TrailersOfTheClientEndItsDirection) {
  const auto id = peer.open_msg();
  exchange();
  uint8_t name[] = "x-note", value[] = "bye";
  const nghttp2_nv trailer{name, value, 6, 3, 0};
  const std::string block = [&] {
    nghttp2_hd_deflater* deflater;
    nghttp2_hd_deflate_new(&deflater, 0);
    uint8_t out[64];
    const auto size = nghttp2_hd_deflate_hd(deflater, out, sizeof out, &trailer, 1);
    nghttp2_hd_deflate_del(deflater);
    return std::string(out, out + size);
  }();
  connection.feed(
      bytes_of(frame_of(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, id, block)));
  EXPECT_EQ(std::vector<int32_t>{id}, events.ended);
}

TEST_F(NatrpGrpcTest, ACancelledStreamIsClosedAtOnceAndTheOthersGoOn) {
  events.echoes = true;
  const auto id = peer.open_msg(), other = peer.open_msg();
  exchange();
  ASSERT_EQ(4u, connection.write_stream(id, bytes_of("text")));
  peer.cancel(id);
  exchange();
  EXPECT_EQ(StreamEnd::kCancelled, events.closed.at(id));
  EXPECT_EQ(0u, connection.write_stream(id, bytes_of("more")));
  connection.consume_stream(id, 10);
  connection.end_stream(id, GrpcStatus::kOk);
  peer.send(other, message_of("still here"));
  exchange();
  EXPECT_EQ("still here", peer.calls[other].content());
}

TEST_F(NatrpGrpcTest, GrpcTimeoutEndsTheCallWhenItHasPassed) {
  auto fields = GrpcPeer::msg_call();
  fields.push_back({"grpc-timeout", "1500m"});
  const auto id = peer.open(fields);
  exchange();
  tick_after(1499);
  EXPECT_FALSE(events.closed.count(id));
  tick_after(1);
  EXPECT_EQ(StreamEnd::kDeadline, events.closed.at(id));
  EXPECT_EQ("4", peer.calls[id].grpc_status());
  EXPECT_TRUE(peer.calls[id].closed);
}

TEST_F(NatrpGrpcTest, ABadGrpcTimeoutIsRefused) {
  auto fields = GrpcPeer::msg_call();
  fields.push_back({"grpc-timeout", "soon"});
  const auto id = peer.open(fields);
  exchange();
  EXPECT_EQ("3", peer.calls[id].grpc_status());
}

TEST_F(NatrpGrpcTest, APeerThatDoesNotTakeTheRestIsCutOffInTheEnd) {
  GrpcPeer stubborn(false);
  const auto id = stubborn.open_msg();
  stubborn.exchange(connection);
  while (connection.write_stream(id, bytes_of(std::string(30'000, 'x'))) > 0) stubborn.exchange(connection);
  connection.end_stream(id, GrpcStatus::kOk);
  now_ms += kGrpcEndingMs - 1;
  connection.on_tick(now_ms);
  stubborn.exchange(connection);
  EXPECT_FALSE(events.closed.count(id));
  connection.on_tick(now_ms + 1);
  stubborn.exchange(connection);
  EXPECT_EQ(StreamEnd::kAborted, events.closed.at(id));
  EXPECT_TRUE(stubborn.calls[id].closed);
  EXPECT_EQ(static_cast<uint32_t>(NGHTTP2_CANCEL), stubborn.calls[id].error);
}

TEST_F(NatrpGrpcTest, ALostConnectionClosesWhatWasReadyOnce) {
  const auto id = peer.open_msg(), other = peer.open_msg();
  exchange();
  connection.lost(StreamEnd::kLost);
  connection.lost(StreamEnd::kLost);
  EXPECT_EQ(StreamEnd::kLost, events.closed.at(id));
  EXPECT_EQ(StreamEnd::kLost, events.closed.at(other));
  EXPECT_TRUE(connection.finished());
  EXPECT_FALSE(connection.feed(bytes_of("more")));
  EXPECT_EQ(0u, connection.write_stream(id, bytes_of("x")));
}

// ---- the connection ----

TEST_F(NatrpGrpcTest, TellsItsLimitsAndAnswersPings) {
  const uint8_t opaque[8] = {1};
  nghttp2_submit_ping(peer.session, 0, opaque);
  exchange();
  EXPECT_EQ(kGrpcStreamsUnprovenMax, peer.settings[NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS]);
  EXPECT_EQ(kGrpcWindowBytes, peer.settings[NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE]);
  EXPECT_EQ(kGrpcHeaderListBytesMax, peer.settings[NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE]);
  EXPECT_EQ(1, peer.ping_acks);
}

TEST_F(NatrpGrpcTest, AllowsAllStreamsOnceATokenIsKnown) {
  peer.open_msg("evil");
  exchange();
  tick_after(kGrpcRefusalHeldMs);
  EXPECT_EQ(kGrpcStreamsUnprovenMax, peer.settings[NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS]);
  peer.open_msg();
  exchange();
  EXPECT_EQ(kGrpcStreamsMax, peer.settings[NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS]);
  while (connection.streams_ready() < kGrpcStreamsMax) {
    peer.open_msg();
    exchange();
    ASSERT_EQ("", connection.end_reason());
  }
}

TEST_F(NatrpGrpcTest, DrainsRunningStreamsAndTakesNoNewOnes) {
  const auto id = peer.open_msg();
  exchange();
  connection.drain("the edge is being stopped");
  const auto late = peer.open_msg();  // it has not seen the GOAWAY yet
  exchange();
  EXPECT_EQ("14", peer.calls[late].grpc_status());
  EXPECT_EQ("the edge is being stopped: try again in a moment", peer.calls[late].fields["grpc-message"]);
  EXPECT_EQ((std::vector<uint32_t>{NGHTTP2_NO_ERROR, NGHTTP2_NO_ERROR}), peer.goaways)
      << "a notice, then the last id";
  write_all(id, "still served");
  EXPECT_FALSE(connection.finished());
  connection.end_stream(id, GrpcStatus::kOk);
  exchange();
  EXPECT_EQ("still served", peer.calls[id].content());
  EXPECT_EQ("0", peer.calls[id].grpc_status());
  EXPECT_TRUE(connection.finished());
}

TEST_F(NatrpGrpcTest, DrainGoesOnWithAPeerThatAnswersNoPing) {
  exchange();
  connection.drain("the edge is being stopped");
  std::vector<uint8_t> buffer(1000);
  while (connection.wants_output()) connection.pull(buffer);
  EXPECT_FALSE(connection.finished());
  connection.on_tick(now_ms + kGrpcDrainNoticeMs);
  while (connection.wants_output()) connection.pull(buffer);
  EXPECT_TRUE(connection.finished());
}

TEST_F(NatrpGrpcTest, AGoawayOfTheClientLetsItsStreamsFinish) {
  events.echoes = true;
  const auto id = peer.open_msg();
  exchange();
  nghttp2_submit_goaway(peer.session, 0, 0, NGHTTP2_NO_ERROR, nullptr, 0);
  exchange();
  EXPECT_FALSE(connection.finished());
  peer.send(id, message_of("on"));
  exchange();
  EXPECT_EQ("on", peer.calls[id].content());
  connection.end_stream(id, GrpcStatus::kOk);
  exchange();
  EXPECT_EQ("0", peer.calls[id].grpc_status());
  EXPECT_TRUE(connection.finished());
  EXPECT_EQ("the client said that it is done", connection.end_reason());
}

TEST_F(NatrpGrpcTest, EndsAnIdleConnectionButNotOneWithAStream) {
  const auto id = peer.open_msg();
  exchange();
  tick_after(10 * kGrpcIdleMs);
  EXPECT_FALSE(connection.finished());
  connection.end_stream(id, GrpcStatus::kOk);
  exchange();
  tick_after(kGrpcIdleMs);
  EXPECT_FALSE(connection.finished());
  tick_after(1);
  EXPECT_TRUE(connection.finished());
  EXPECT_NE("", connection.end_reason());
}

TEST_F(NatrpGrpcTest, EndsAConnectionThatNeverShowsAToken) {
  exchange();
  tick_after(kGrpcFirstStreamMs);
  EXPECT_FALSE(connection.finished());
  tick_after(1);
  EXPECT_TRUE(connection.finished());
  EXPECT_EQ(std::vector<uint32_t>{NGHTTP2_NO_ERROR}, peer.goaways);
}

}  // namespace
}  // namespace natrp
