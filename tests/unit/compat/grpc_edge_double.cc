// A test program: the least edge around NatrpGrpcConnection, blocking on poll(). One port for original natrp clients,
// one public port for visitors, one token. tests/e2e/test_natrp_grpc.py runs real gRPC clients against it, so that
// what they say of the connection does not depend on the rest of the edge.
//
//   grpc_edge_double TOKEN       prints `edge ready bind=ADDR:PORT public=ADDR:PORT` on standard error; SIGTERM drains

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compat/natrp_grpc.h"

namespace natrp {
namespace {

constexpr size_t kReadBytes = 64 * 1024;
constexpr size_t kLinkOutBytes = 256 * 1024;  // no more input from a peer that leaves this much unread
constexpr uint64_t kDrainMs = 5'000;

volatile std::sig_atomic_t asked_to_stop = 0;

uint64_t now_ms() {
  using namespace std::chrono;
  return static_cast<uint64_t>(duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count());
}

void prepare(int fd) {
  const int one = 1;
  fcntl(fd, F_SETFL, O_NONBLOCK);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

int listen_anywhere(uint16_t& port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (fd < 0 || bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0 || listen(fd, 1024) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    std::perror("grpc_edge_double: no port on loopback");
    std::exit(1);
  }
  port = ntohs(address.sin_port);
  return fd;
}

struct Link;

// One Msg stream, and the visitor that it serves once there is one.
struct Channel {
  Link* link = nullptr;
  NatrpGrpcConnection::StreamId id = 0;
  int fd = -1;
  std::string for_visitor;  // delivered, not yet in the visitor's socket: unconsumed
  bool agent_ended = false;
  bool closed = false;
  bool stalled = false;  // the stream took less than the visitor had
};

struct Link : NatrpGrpcConnection::Events {
  Link(int socket, const std::string& good_token, std::list<Channel>& all)
      : fd(socket), token(good_token), channels(all), connection(*this, now_ms()) {}

  NatrpGrpcConnection::Verdict authenticate(std::string_view shown) override {
    NatrpGrpcConnection::Verdict verdict;
    verdict.accepted = shown == token;
    return verdict;
  }
  void on_stream_ready(NatrpGrpcConnection::StreamId id, uint64_t) override {
    Channel& channel = channels.emplace_back();
    channel.link = this;
    channel.id = id;
    mine[id] = &channel;
  }
  void on_stream_data(NatrpGrpcConnection::StreamId id, std::span<const uint8_t> bytes) override {
    if (Channel* channel = find(id)) channel->for_visitor.append(bytes.begin(), bytes.end());
  }
  void on_stream_end(NatrpGrpcConnection::StreamId id) override {
    if (Channel* channel = find(id)) channel->agent_ended = true;
  }
  void on_stream_writable(NatrpGrpcConnection::StreamId id) override {
    if (Channel* channel = find(id)) channel->stalled = false;
  }
  void on_stream_closed(NatrpGrpcConnection::StreamId id, NatrpGrpcConnection::StreamEnd) override {
    if (Channel* channel = find(id)) channel->closed = true;
    mine.erase(id);
  }

  // Null once its visitor is gone: what is queued for the agent may still be on its way then.
  Channel* find(NatrpGrpcConnection::StreamId id) const {
    const auto found = mine.find(id);
    return found == mine.end() ? nullptr : found->second;
  }

  int fd;
  const std::string& token;
  std::list<Channel>& channels;
  std::map<NatrpGrpcConnection::StreamId, Channel*> mine;
  std::vector<uint8_t> out;
  size_t out_sent = 0;
  bool broken = false;
  NatrpGrpcConnection connection;
};

class EdgeDouble {
 public:
  explicit EdgeDouble(std::string token) : token_(std::move(token)) {
    uint16_t bind_port = 0, public_port = 0;
    bind_ = listen_anywhere(bind_port);
    public_ = listen_anywhere(public_port);
    std::fprintf(stderr, "edge ready bind=127.0.0.1:%u public=127.0.0.1:%u\n", bind_port, public_port);
  }

  int run() {
    while (!(draining_ && links_.empty())) {
      const uint64_t now = now_ms();
      if (asked_to_stop && !draining_) begin_drain(now);
      if (draining_ && now > drain_until_ms_) return 1;
      poll_once();
      for (auto& link : links_) link.connection.on_tick(now);
      match_visitors();
      serve();
    }
    return 0;
  }

 private:
  void begin_drain(uint64_t now) {
    draining_ = true;
    drain_until_ms_ = now + kDrainMs;
    close(bind_);
    close(public_);
    bind_ = public_ = -1;
    for (auto& link : links_) link.connection.drain("the double is being stopped");
    for (auto& channel : channels_) {
      if (channel.fd < 0)
        channel.link->connection.end_stream(channel.id, GrpcStatus::kUnavailable, "stopping");
    }
  }

  // Sleeps until something can move; what can is found out by trying, in serve().
  void poll_once() {
    std::vector<pollfd> polls = {{bind_, POLLIN, 0}, {public_, POLLIN, 0}};
    for (auto& link : links_) {
      const bool behind = link.out.size() - link.out_sent > kLinkOutBytes;
      polls.push_back(
          {link.fd, static_cast<short>((behind ? 0 : POLLIN) | (link.out.empty() ? 0 : POLLOUT)), 0});
    }
    for (auto& channel : channels_) {
      if (channel.fd < 0) continue;
      const short events =
          static_cast<short>((channel.stalled ? 0 : POLLIN) | (channel.for_visitor.empty() ? 0 : POLLOUT));
      if (events) polls.push_back({channel.fd, events, 0});
    }
    poll(polls.data(), polls.size(), 100);
    accept_all();
  }

  void accept_all() {
    for (int fd; bind_ >= 0 && (fd = accept4(bind_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) {
      prepare(fd);
      links_.emplace_back(fd, token_, channels_);
    }
    for (int fd; public_ >= 0 && (fd = accept4(public_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) {
      prepare(fd);
      waiting_.push_back(fd);
    }
  }

  void match_visitors() {
    for (auto& channel : channels_) {
      if (waiting_.empty()) return;
      if (channel.fd >= 0 || channel.closed || channel.agent_ended) continue;
      channel.fd = waiting_.front();
      waiting_.pop_front();
      channel.link->connection.join_stream(channel.id);
    }
  }

  void serve() {
    for (auto& link : links_) {
      if (link.out.size() - link.out_sent <= kLinkOutBytes) read_link(link);
    }
    for (auto at = channels_.begin(); at != channels_.end();) {
      const bool over = !serve_channel(*at);
      if (over) at->link->mine.erase(at->id);
      at = over ? channels_.erase(at) : std::next(at);
    }
    for (auto at = links_.begin(); at != links_.end();) {
      flush(*at);
      if (at->broken) {
        at->connection.lost(NatrpGrpcConnection::StreamEnd::kLost);
        close(at->fd);
      }
      const bool forget =
          at->broken && std::none_of(channels_.begin(), channels_.end(),
                                     [&](const Channel& channel) { return channel.link == &*at; });
      if (at->broken) at->fd = -1;
      at = forget ? links_.erase(at) : std::next(at);
    }
  }

  void read_link(Link& link) {
    if (link.fd < 0) return;
    static std::vector<uint8_t> buffer(kReadBytes);
    const ssize_t size = read(link.fd, buffer.data(), buffer.size());
    if (size > 0) link.connection.feed({buffer.data(), static_cast<size_t>(size)});
    if (size == 0 || (size < 0 && errno != EAGAIN)) {
      link.broken = true;
      link.connection.lost(NatrpGrpcConnection::StreamEnd::kLost);
    }
  }

  void flush(Link& link) {
    if (link.fd < 0) return;
    for (int turn = 0; turn < 16; ++turn) {
      if (link.out.empty()) {
        link.out.resize(kReadBytes);
        link.out.resize(link.connection.pull(link.out));
        link.out_sent = 0;
        if (link.out.empty()) break;
      }
      const ssize_t size =
          send(link.fd, link.out.data() + link.out_sent, link.out.size() - link.out_sent, MSG_NOSIGNAL);
      if (size < 0) {
        if (errno != EAGAIN) link.broken = true;
        return;
      }
      link.out_sent += static_cast<size_t>(size);
      if (link.out_sent == link.out.size()) link.out.clear();
    }
    if (link.out.empty() && link.connection.finished()) {
      std::fprintf(stderr, "connection ended: %s\n", std::string(link.connection.end_reason()).c_str());
      link.broken = true;
    }
  }

  // False: nothing is left of it.
  bool serve_channel(Channel& channel) {
    NatrpGrpcConnection& connection = channel.link->connection;
    bool visitor_gone = false;
    if (channel.fd >= 0) {
      visitor_gone = !read_visitor(channel) || !write_visitor(channel);
      const bool all_delivered = channel.for_visitor.empty() && (channel.agent_ended || channel.closed);
      if (visitor_gone || all_delivered) {
        connection.end_stream(channel.id, GrpcStatus::kOk);
        close(channel.fd);
        channel.fd = -1;
        return false;
      }
      return true;
    }
    if (channel.agent_ended) connection.end_stream(channel.id, GrpcStatus::kOk);
    return !channel.closed && !channel.agent_ended;
  }

  bool read_visitor(Channel& channel) {
    static std::vector<uint8_t> buffer(kReadBytes);
    NatrpGrpcConnection& connection = channel.link->connection;
    const size_t room = std::min(connection.stream_writable(channel.id), buffer.size());
    channel.stalled = room == 0;
    if (room == 0) {
      connection.write_stream(channel.id, {buffer.data(), 1});  // asks to be told
      return true;
    }
    const ssize_t size = read(channel.fd, buffer.data(), room);
    if (size > 0) connection.write_stream(channel.id, {buffer.data(), static_cast<size_t>(size)});
    return size > 0 || (size < 0 && errno == EAGAIN);
  }

  bool write_visitor(Channel& channel) {
    if (channel.for_visitor.empty()) return true;
    const ssize_t size =
        send(channel.fd, channel.for_visitor.data(), channel.for_visitor.size(), MSG_NOSIGNAL);
    if (size < 0) return errno == EAGAIN;
    channel.for_visitor.erase(0, static_cast<size_t>(size));
    channel.link->connection.consume_stream(channel.id, static_cast<size_t>(size));
    return true;
  }

  std::string token_;
  int bind_ = -1;
  int public_ = -1;
  bool draining_ = false;
  uint64_t drain_until_ms_ = 0;
  std::list<Channel> channels_;
  std::list<Link> links_;
  std::deque<int> waiting_;
};

}  // namespace
}  // namespace natrp

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: grpc_edge_double TOKEN\n");
    return 2;
  }
  struct sigaction action {};
  action.sa_handler = [](int) { natrp::asked_to_stop = 1; };
  sigaction(SIGTERM, &action, nullptr);
  return natrp::EdgeDouble(argv[1]).run();
}
