// original_client: what the original natrp's client does, fast enough not to be what is measured.
//
//     original_client --server 127.0.0.1:10022 --token-file FILE --local 127.0.0.1:80 [--streams 1] [--cc cubic]
//
// One HTTP/2 connection to the edge (no TLS, as the original's) with --streams gRPC calls of Msg; each has a
// connection to the service of its own, dialled at once, and carries both ways in messages of 16 KiB. When
// either side ends, both end, and the next call is opened. It prints one line, {"serving":"ADDRESS:PORT"},
// and exits 0 on SIGTERM, 1 when the edge refuses it or is lost.
//
// It is the bench's own, and simpler than any real client: one thread, no reconnecting, no account calls.

#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <signal.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flags.h"
#include "json_object.h"
#include "message_stream.h"
#include "ready_loop.h"
#include "sockets.h"
#include "stop_signal.h"

namespace natrp::bench {
namespace {

constexpr size_t kReceiveBytes = 256 * 1024;
// Frames wait here for the socket of the edge; above it nothing more is framed.
constexpr size_t kWireBytes = 256 * 1024;
// Windows that do not limit a loopback: what a gRPC library's bandwidth estimate would come to.
constexpr int32_t kStreamWindowBytes = 4 << 20;
constexpr int32_t kConnectionWindowBytes = 16 << 20;
constexpr int kConnectTimeoutMs = 5000;

bool try_again(int error) {
    return error == EAGAIN || error == EINTR;
}

// A bench does not go on without its edge.
[[noreturn]] void lost(const std::string& reason) {
    std::fprintf(stderr, "original_client: the edge is lost: %s\n", reason.c_str());
    std::exit(1);
}

class Client;

// One call of Msg and its connection to the service.
// Life: call opened, service dialled -> both flow -> one of them ended -> swept by the Client. Nothing of it
// is closed inside the event that ends it: other events of the same batch may name it.
class Call final : public ReadyHandler {
public:
    Call(Client& client, Fd service) : client_(client), service_(std::move(service)) {}

    void on_ready(uint32_t events) override;

    // From the edge: content for the service. The bytes are the caller's until flush_up().
    bool on_data(std::string_view bytes);
    void flush_up();
    void on_call_closed() { call_closed_ = true; }

    // For the framing of what the service said.
    ssize_t offer(size_t most, uint32_t* flags);
    void frame(const uint8_t* head, size_t count, std::vector<char>& wire);

    bool is_over() const { return call_closed_ && pending_up_.empty(); }
    bool is_service_ended() const { return service_ended_; }
    bool is_call_closed() const { return call_closed_; }
    int fd() const { return service_.get(); }

    int32_t id = -1;

private:
    void fill_down();
    void want(uint32_t events);
    void consumed(size_t bytes);

    Client& client_;
    Fd service_;
    uint32_t wanted_ = EPOLLIN;
    bool call_closed_ = false;
    bool service_ended_ = false;
    bool service_broken_ = false;
    bool deferred_ = false;
    MessageReader reader_;
    std::vector<iovec> batch_;  // content of the bytes just received
    std::string pending_up_;    // content that the service did not take yet; at most a stream's window
    MessageSlots down_;
};

class Client final : public ReadyHandler {
public:
    Client(const Address& server, const Address& local, std::string token, size_t streams,
           const std::string& congestion)
        : local_(local), token_(std::move(token)), streams_(streams), congestion_(congestion),
          edge_(begin_connect(server, 0, 0, congestion)), received_(kReceiveBytes),
          authority_(format_address(server)) {
        wait_for_connect(server);
        begin_session();
        loop_.add(edge_.get(), *this, EPOLLIN);
    }
    ~Client() override { nghttp2_session_del(session_); }

    void run(int stop_fd) {
        Stop stop;
        loop_.add(stop_fd, stop, EPOLLIN);
        JsonObject().text("serving", format_address(local_)).print();
        while (!stop.raised) {
            sweep();
            while (calls_.size() < streams_) {
                open_call();
            }
            send();
            loop_.wait(ReadyLoop::kForever);
        }
    }

    void on_ready(uint32_t events) override {
        if ((events & EPOLLOUT) != 0) {
            send();
        }
        if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0) {
            receive();
        }
    }

    nghttp2_session* session() { return session_; }
    ReadyLoop& loop() { return loop_; }

    // Frames what may be framed, and gives it to the socket as far as it takes it.
    void send() {
        for (;;) {
            if (wire_.size() - wire_sent_ < kWireBytes) {
                check(nghttp2_session_send(session_));
            }
            if (wire_sent_ == wire_.size()) {
                break;
            }
            const ssize_t sent =
                ::send(edge_.get(), wire_.data() + wire_sent_, wire_.size() - wire_sent_, MSG_NOSIGNAL);
            if (sent < 0 && !try_again(errno)) {
                lost(std::strerror(errno));
            }
            if (sent <= 0) {
                break;
            }
            wire_sent_ += static_cast<size_t>(sent);
            if (wire_sent_ == wire_.size()) {
                wire_.clear();
                wire_sent_ = 0;
            }
        }
        const bool waits = wire_sent_ < wire_.size();
        if (waits != wants_out_) {
            wants_out_ = waits;
            loop_.change(edge_.get(), *this, waits ? EPOLLIN | EPOLLOUT : EPOLLIN);
        }
    }

private:
    struct Stop final : ReadyHandler {
        void on_ready(uint32_t) override { raised = true; }
        bool raised = false;
    };

    static void check(ssize_t result) {
        if (result < 0) {
            lost(nghttp2_strerror(static_cast<int>(result)));
        }
    }

    void wait_for_connect(const Address& server) {
        pollfd one{edge_.get(), POLLOUT, 0};
        if (!edge_ || ::poll(&one, 1, kConnectTimeoutMs) != 1 || connect_result(edge_.get()) != 0) {
            lost("no connection to " + format_address(server));
        }
    }

    void begin_session() {
        nghttp2_session_callbacks* callbacks = nullptr;
        nghttp2_session_callbacks_new(&callbacks);
        nghttp2_session_callbacks_set_send_callback(callbacks, on_send);
        nghttp2_session_callbacks_set_send_data_callback(callbacks, on_send_data);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
        nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
        nghttp2_option* option = nullptr;
        nghttp2_option_new(&option);
        nghttp2_option_set_no_auto_window_update(option, 1);
        nghttp2_session_client_new2(&session_, callbacks, this, option);
        nghttp2_option_del(option);
        nghttp2_session_callbacks_del(callbacks);
        const std::array<nghttp2_settings_entry, 2> settings = {{
            {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
            {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindowBytes},
        }};
        check(nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings.data(), settings.size()));
        check(nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kConnectionWindowBytes));
    }

    void open_call() {
        Fd service = begin_connect(local_, 0, 0, congestion_);
        if (!service) {
            refuse("the service " + format_address(local_) + " cannot be dialled");
        }
        calls_.push_back(std::make_unique<Call>(*this, std::move(service)));
        Call& call = *calls_.back();
        const auto field = [](std::string_view name, std::string_view value) {
            return nghttp2_nv{reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
                              reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(),
                              value.size(), NGHTTP2_NV_FLAG_NONE};
        };
        const std::array<nghttp2_nv, 8> head = {
            field(":method", "POST"),
            field(":scheme", "http"),
            field(":path", "/serverpb.ServerService/Msg"),
            field(":authority", authority_),
            field("content-type", "application/grpc"),
            field("user-agent", "natrp-bench/1"),
            field("te", "trailers"),
            field("natrp-token", token_),
        };
        nghttp2_data_provider provider{};
        provider.source.ptr = &call;
        provider.read_callback = on_read;
        call.id = nghttp2_submit_request(session_, nullptr, head.data(), head.size(), &provider, &call);
        check(call.id);
        loop_.add(call.fd(), call, EPOLLIN);
    }

    void sweep() {
        std::erase_if(calls_, [](const auto& call) { return call->is_over(); });
    }

    void receive() {
        const ssize_t got = ::recv(edge_.get(), received_.data(), received_.size(), 0);
        if (got < 0 && try_again(errno)) {
            return;
        }
        if (got <= 0) {
            lost(got == 0 ? "it closed the connection" : std::strerror(errno));
        }
        check(nghttp2_session_mem_recv(session_, reinterpret_cast<const uint8_t*>(received_.data()),
                                       static_cast<size_t>(got)));
        for (Call* call : std::exchange(touched_, {})) {
            call->flush_up();
        }
        send();
    }

    static Client& self(void* user) { return *static_cast<Client*>(user); }
    static Call* call_of(nghttp2_session* session, int32_t id) {
        return static_cast<Call*>(nghttp2_session_get_stream_user_data(session, id));
    }

    static ssize_t on_send(nghttp2_session*, const uint8_t* data, size_t length, int, void* user) {
        std::vector<char>& wire = self(user).wire_;
        if (wire.size() >= kWireBytes) {
            return NGHTTP2_ERR_WOULDBLOCK;
        }
        wire.insert(wire.end(), data, data + length);
        return static_cast<ssize_t>(length);
    }

    static int on_send_data(nghttp2_session*, nghttp2_frame*, const uint8_t* head, size_t length,
                            nghttp2_data_source* source, void* user) {
        std::vector<char>& wire = self(user).wire_;
        if (wire.size() >= kWireBytes) {
            return NGHTTP2_ERR_WOULDBLOCK;
        }
        static_cast<Call*>(source->ptr)->frame(head, length, wire);
        return 0;
    }

    static ssize_t on_read(nghttp2_session*, int32_t, uint8_t*, size_t most, uint32_t* flags,
                           nghttp2_data_source* source, void*) {
        return static_cast<Call*>(source->ptr)->offer(most, flags);
    }

    static int on_data_chunk(nghttp2_session* session, uint8_t, int32_t id, const uint8_t* data, size_t length,
                             void* user) {
        Call* call = call_of(session, id);
        nghttp2_session_consume_connection(session, length);
        if (call == nullptr || call->is_call_closed()) {
            return 0;
        }
        if (!call->on_data({reinterpret_cast<const char*>(data), length})) {
            lost("what it sends is no row of messages");
        }
        std::vector<Call*>& touched = self(user).touched_;
        if (touched.empty() || touched.back() != call) {
            touched.push_back(call);
        }
        return 0;
    }

    static int on_header(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t name_length,
                         const uint8_t* value, size_t value_length, uint8_t, void* user) {
        const std::string_view key(reinterpret_cast<const char*>(name), name_length);
        const std::string_view text(reinterpret_cast<const char*>(value), value_length);
        if (frame->headers.cat == NGHTTP2_HCAT_RESPONSE && key == "grpc-message") {
            self(user).refusal_ = text;
        }
        return 0;
    }

    // An answer that is over with its first headers is a refusal: opening the next call would ask for another.
    static int on_frame(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
        if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_RESPONSE &&
            (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
            lost("it refused a call: " + self(user).refusal_);
        }
        if (frame->hd.type == NGHTTP2_GOAWAY) {
            lost("it said goodbye");
        }
        // The edge ended the call: that protocol has no half-close, and nothing will read the service's rest.
        const bool ended = (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) &&
                           (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
        const Call* const call = ended ? call_of(session, frame->hd.stream_id) : nullptr;
        if (call != nullptr && !call->is_service_ended()) {
            nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_CANCEL);
        }
        return 0;
    }

    static int on_stream_close(nghttp2_session* session, int32_t id, uint32_t, void*) {
        if (Call* call = call_of(session, id)) {
            call->on_call_closed();
        }
        return 0;
    }

    Address local_;
    std::string token_;
    size_t streams_;
    std::string congestion_;
    ReadyLoop loop_;
    Fd edge_;
    nghttp2_session* session_ = nullptr;
    std::list<std::unique_ptr<Call>> calls_;
    std::vector<Call*> touched_;  // got content from the bytes just received
    std::vector<char> received_;
    std::vector<char> wire_;
    size_t wire_sent_ = 0;
    bool wants_out_ = false;
    std::string authority_;
    std::string refusal_;
};

void Call::on_ready(uint32_t events) {
    if (is_over()) {
        return;  // ended earlier in this batch of events
    }
    if ((events & EPOLLOUT) != 0) {
        flush_up();
    }
    if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0 && !service_ended_ && !call_closed_) {
        fill_down();
        client_.send();
    }
}

bool Call::on_data(std::string_view bytes) {
    size_t framing = bytes.size();
    while (!bytes.empty()) {
        const auto [content, sound] = reader_.next(bytes);
        if (!sound) {
            return false;
        }
        if (!content.empty()) {
            framing -= content.size();
            batch_.push_back({const_cast<char*>(content.data()), content.size()});
        }
    }
    consumed(framing);
    return true;
}

void Call::flush_up() {
    size_t written = 0;
    if (!pending_up_.empty()) {
        const ssize_t sent = ::send(service_.get(), pending_up_.data(), pending_up_.size(), MSG_NOSIGNAL);
        service_broken_ = service_broken_ || (sent < 0 && !try_again(errno));
        written = sent > 0 ? static_cast<size_t>(sent) : 0;
        pending_up_.erase(0, written);
    }
    size_t taken = 0;  // of the batch
    if (pending_up_.empty() && !batch_.empty()) {
        msghdr message{};
        message.msg_iov = batch_.data();
        message.msg_iovlen = std::min<size_t>(batch_.size(), IOV_MAX);
        const ssize_t sent = ::sendmsg(service_.get(), &message, MSG_NOSIGNAL);
        service_broken_ = service_broken_ || (sent < 0 && !try_again(errno) && errno != ENOTCONN);
        taken = sent > 0 ? static_cast<size_t>(sent) : 0;
        written += taken;
    }
    for (const iovec& piece : batch_) {
        const size_t part = std::min(taken, piece.iov_len);
        taken -= part;
        pending_up_.append(static_cast<const char*>(piece.iov_base) + part, piece.iov_len - part);
    }
    batch_.clear();
    if (service_broken_) {
        written += pending_up_.size();
        pending_up_.clear();
    }
    consumed(written);
    want(pending_up_.empty() ? (wanted_ & ~EPOLLOUT) : (wanted_ | EPOLLOUT));
}

void Call::consumed(size_t bytes) {
    if (bytes > 0 && !call_closed_) {
        nghttp2_session_consume_stream(client_.session(), id, bytes);
    }
}

// Nothing is read before what was read is framed: an edge that takes no more stops the service.
void Call::fill_down() {
    if (down_.empty()) {
        const ssize_t got = down_.fill(service_.get());
        service_ended_ = got == 0 || (got < 0 && !try_again(errno));
        if (got < 0 && errno == ECONNREFUSED) {
            refuse("nobody serves where --local points");  // the next call would meet the same
        }
    }
    want(service_ended_ || !down_.empty() ? (wanted_ & ~EPOLLIN) : (wanted_ | EPOLLIN));
    if (deferred_ && (service_ended_ || !down_.empty())) {
        deferred_ = false;
        nghttp2_session_resume_data(client_.session(), id);
    }
}

ssize_t Call::offer(size_t most, uint32_t* flags) {
    if (!down_.empty()) {
        *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
        return static_cast<ssize_t>(std::min(most, down_.bytes().size()));
    }
    if (service_ended_) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        return 0;
    }
    deferred_ = true;
    want(wanted_ | EPOLLIN);
    return NGHTTP2_ERR_DEFERRED;
}

void Call::frame(const uint8_t* head, size_t count, std::vector<char>& wire) {
    constexpr size_t kFrameHeadBytes = 9;
    wire.insert(wire.end(), head, head + kFrameHeadBytes);
    const char* const from = down_.bytes().data();
    wire.insert(wire.end(), from, from + count);
    down_.take(count);
}

void Call::want(uint32_t events) {
    if (events != wanted_) {
        wanted_ = events;
        client_.loop().change(service_.get(), *this, events);
    }
}

std::string read_token(const std::string& path) {
    std::ifstream file(path);
    std::string token;
    file >> token;
    if (token.empty()) {
        refuse("there is no token in " + path);
    }
    return token;
}

int run(int argc, char** argv) {
    Flags flags(argc, argv, 1);
    const Address server = parse_address(flags.required("server"));
    const Address local = parse_address(flags.required("local"));
    const std::string token = read_token(flags.required("token-file"));
    const size_t streams = flags.count("streams", 1, 1, 1000);
    const std::string congestion = flags.text("cc", "");
    flags.reject_unknown();

    ::signal(SIGPIPE, SIG_IGN);
    const Fd stop = watch_stop_signals();

    Client(server, local, token, streams, congestion).run(stop.get());
    return 0;
}

}  // namespace
}  // namespace natrp::bench

int main(int argc, char** argv) {
    return natrp::bench::run(argc, argv);
}
