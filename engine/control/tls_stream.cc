#include "control/tls_stream.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/fd.h"
#include "control/auth.h"
#include "control/tls_identity.h"

namespace natrp {

struct TlsStream::State {
  SSL* ssl = nullptr;
  BIO* in = nullptr;   // owned by ssl
  BIO* out = nullptr;  // owned by ssl
  bool server = false;
  bool done = false;
  bool peer_closed = false;
  bool failed = false;
  bool verification_failed = false;
  bool rejected = false;
  std::string error;
  ClientVerify verify;

  ~State() { SSL_free(ssl); }
};

namespace {

// One protocol, as ALPN writes a list: each name behind its length.
constexpr unsigned char kAlpn[] = {7, 'n', 'a', 't', 'r', 'p', '/', '1'};

int choose_alpn(SSL*, const unsigned char** out, unsigned char* length, const unsigned char* offered,
                unsigned offered_length, void*) {
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, length, kAlpn, sizeof kAlpn, offered, offered_length) !=
      OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  }
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

bool speaks_natrp(const SSL* ssl) {
  const unsigned char* chosen = nullptr;
  unsigned length = 0;
  SSL_get0_alpn_selected(ssl, &chosen, &length);
  return length == kAlpn[0] && std::memcmp(chosen, kAlpn + 1, length) == 0;
}

bool is_address(const std::string& host) {
  unsigned char buffer[16];
  return inet_pton(AF_INET, host.c_str(), buffer) == 1 || inet_pton(AF_INET6, host.c_str(), buffer) == 1;
}

// The host as a certificate and SNI name it: without the dot behind a name that no search domain completes, and without
// the zone of an address, which is this host's own (RFC 6066 §3, RFC 4007 §11).
std::string name_of(const std::string& host) {
  if (const std::string address = host.substr(0, host.find('%')); is_address(address)) return address;
  return host.size() > 1 && host.back() == '.' ? host.substr(0, host.size() - 1) : host;
}

std::string library_reason() {
  const unsigned long code = ERR_peek_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  ERR_clear_error();
  return reason == nullptr ? "the bytes are not TLS" : reason;
}

// Of the peer, about our certificate (RFC 8446 §6.2); the library counts its alerts from 1000 on.
bool is_certificate_alert(unsigned long code) {
  const int alert = ERR_GET_REASON(code) - SSL_AD_REASON_OFFSET;
  const bool about_certificate = alert >= SSL_AD_BAD_CERTIFICATE && alert <= SSL_AD_CERTIFICATE_UNKNOWN;
  return ERR_GET_LIB(code) == ERR_LIB_SSL && (about_certificate || alert == SSL_AD_UNKNOWN_CA);
}

// The pin's half of the verification. Empty: the key is the right one.
std::string pin_failure(const ClientVerify& verify, const X509* certificate) {
  const Result<Pin> shown = pin_of(certificate);
  if (!shown) return shown.error().message;
  if (constant_time_equal(shown.value(), *verify.pin)) return {};
  return "the edge shows another key than " + verify.pin_source + " names (it shows " +
         format_pin(shown.value()) + ", " + verify.pin_source + " names " + format_pin(*verify.pin) +
         "): when the edge was set up anew, get a new token from its operator; when it was not, somebody else "
         "answers at its address. Nothing secret was sent";
}

}  // namespace

// Replaces OpenSSL's own walk along the chain, which knows nothing of pins.
int TlsStream::verify_edge(X509_STORE_CTX* store, void*) {
  const auto* ssl =
      static_cast<const SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  State& state = *static_cast<State*>(SSL_get_app_data(ssl));
  const ClientVerify& verify = state.verify;
  if (verify.pin) {
    state.error = pin_failure(verify, X509_STORE_CTX_get0_cert(store));
    if (!state.error.empty()) {
      state.verification_failed = true;
      X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
      return 0;
    }
  }
  if (verify.ca && X509_verify_cert(store) != 1) {
    state.verification_failed = true;
    state.error = "the edge's certificate was not accepted with --ca " + verify.ca->file + " for the host " +
                  verify.host + ": " + X509_verify_cert_error_string(X509_STORE_CTX_get_error(store)) +
                  "; check --server and --ca, or use --pin. Nothing secret was sent";
    return 0;
  }
  X509_STORE_CTX_set_error(store, X509_V_OK);
  return 1;
}

Result<TrustedCa> load_ca(const std::string& file) {
  ERR_clear_error();
  const std::string start = "cannot use --ca " + file + ": ";
  const Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return Error{start + std::strerror(errno), errno};
  std::string text;
  for (char buffer[4096];;) {
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error{start + std::strerror(errno), errno};
    if (n == 0) break;
    text.append(buffer, static_cast<size_t>(n));
  }
  std::shared_ptr<X509_STORE> store(X509_STORE_new(), X509_STORE_free);
  const std::unique_ptr<BIO, decltype(&BIO_free)> pem(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())),
                                                      BIO_free);
  NATRP_CHECK(store != nullptr && pem != nullptr, "memory for a CA");
  size_t count = 0;
  while (true) {
    const std::unique_ptr<X509, decltype(&X509_free)> certificate(
        PEM_read_bio_X509_AUX(pem.get(), nullptr, nullptr, nullptr), X509_free);
    if (certificate == nullptr) break;
    if (X509_STORE_add_cert(store.get(), certificate.get()) != 1) return Error{start + library_reason()};
    ++count;
  }
  const unsigned long end = ERR_peek_last_error();
  if (ERR_GET_LIB(end) != ERR_LIB_PEM || ERR_GET_REASON(end) != PEM_R_NO_START_LINE) {
    return Error{start + "certificate " + std::to_string(count + 1) + " in it cannot be read: " + library_reason() +
                 "; put the file there again, in PEM form"};
  }
  ERR_clear_error();
  if (count == 0) return Error{start + "it holds no certificate; it has to be in PEM form"};
  return TrustedCa{std::move(store), file};
}

Status prepare_tls_context(SSL_CTX* context) {
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  // An idle session then holds no 16 KiB record buffers; the next record pays an allocation. Heartbeats are 5 s apart.
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_alpn_select_cb(context, choose_alpn, nullptr);
  const bool set = SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1 &&
                   SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) == 1 &&
                   SSL_CTX_set_num_tickets(context, 0) == 1 &&
                   SSL_CTX_set_alpn_protos(context, kAlpn, sizeof kAlpn) == 0;
  if (!set) return Error{"cannot set up TLS 1.3: " + library_reason()};
  return Done{};
}

TlsStream::TlsStream(std::unique_ptr<State> state) : state_(std::move(state)) {}
TlsStream::TlsStream(TlsStream&&) noexcept = default;
TlsStream& TlsStream::operator=(TlsStream&&) noexcept = default;
TlsStream::~TlsStream() = default;

TlsStream TlsStream::server(const TlsIdentity& identity) {
  ERR_clear_error();
  auto state = std::make_unique<State>();
  state->server = true;
  state->ssl = SSL_new(identity.context());
  state->in = BIO_new(BIO_s_mem());
  state->out = BIO_new(BIO_s_mem());
  NATRP_CHECK(state->ssl != nullptr && state->in != nullptr && state->out != nullptr,
              "memory for a TLS stream");
  SSL_set_bio(state->ssl, state->in, state->out);
  SSL_set_accept_state(state->ssl);
  return TlsStream(std::move(state));
}

Result<TlsStream> TlsStream::client(const ClientVerify& verify) {
  ERR_clear_error();
  if (!verify.pin && !verify.ca) {
    return Error{"there is nothing to know the edge by: use a join token, --pin sha256:… or --ca FILE"};
  }
  if (verify.ca && verify.host.empty()) return Error{"--ca needs the edge's host name or address"};
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
  if (!context) return Error{"cannot set up TLS: " + library_reason()};
  if (Status prepared = prepare_tls_context(context.get()); !prepared) return prepared.error();
  if (verify.ca) SSL_CTX_set1_cert_store(context.get(), verify.ca->store.get());
  SSL_CTX_set_cert_verify_callback(context.get(), verify_edge, nullptr);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);

  auto state = std::make_unique<State>();
  state->verify = verify;
  state->ssl = SSL_new(context.get());
  state->in = BIO_new(BIO_s_mem());
  state->out = BIO_new(BIO_s_mem());
  NATRP_CHECK(state->ssl != nullptr && state->in != nullptr && state->out != nullptr,
              "memory for a TLS stream");
  SSL_set_bio(state->ssl, state->in, state->out);
  SSL_set_app_data(state->ssl, state.get());
  if (!verify.host.empty()) {
    X509_VERIFY_PARAM* wanted = SSL_get0_param(state->ssl);
    const std::string name = name_of(verify.host);
    const int set = is_address(name) ? X509_VERIFY_PARAM_set1_ip_asc(wanted, name.c_str())
                                     : X509_VERIFY_PARAM_set1_host(wanted, name.c_str(), 0);
    if (set != 1) return Error{"\"" + verify.host + "\" cannot be a host name or address"};
    // SNI carries names only (RFC 6066 §3). A name too long for it is not sent; the verification does not
    // need it.
    if (!is_address(name)) SSL_set_tlsext_host_name(state->ssl, name.c_str());
  }
  SSL_set_connect_state(state->ssl);
  TlsStream stream(std::move(state));
  stream.handshake();  // the client speaks first
  return stream;
}

bool TlsStream::fail(std::string sentence) {
  State& state = *state_;
  if (!state.failed) {
    state.failed = true;
    if (state.error.empty()) state.error = std::move(sentence);
  }
  return false;
}

// With the library's reason, which is told once.
bool TlsStream::fail_in_library(const std::string& what, const std::string& remedy) {
  state_->rejected = state_->server && is_certificate_alert(ERR_peek_error());
  return fail(what + ": " + library_reason() + remedy);
}

bool TlsStream::handshake() {
  State& state = *state_;
  if (state.done) return true;
  ERR_clear_error();
  const int result = SSL_do_handshake(state.ssl);
  if (result == 1) {
    if (!speaks_natrp(state.ssl)) {
      return fail(state.server
                      ? "the agent speaks TLS but not natrp/1 (no ALPN)"
                      : "what answers at the edge's address speaks TLS but not natrp/1: check --server");
    }
    state.done = true;
    return true;
  }
  const int error = SSL_get_error(state.ssl, result);
  if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return true;
  return state.server ? fail_in_library("the TLS handshake with the agent failed")
                      : fail_in_library("the TLS handshake with the edge failed",
                                        "; check that --server names a natrp edge");
}

bool TlsStream::feed(std::span<const uint8_t> bytes) {
  State& state = *state_;
  if (state.failed) return false;
  if (!bytes.empty()) {
    const int taken = BIO_write(state.in, bytes.data(), static_cast<int>(bytes.size()));
    NATRP_CHECK(taken == static_cast<int>(bytes.size()), "a memory BIO takes everything");
  }
  return handshake();
}

size_t TlsStream::read(std::span<uint8_t> to) {
  State& state = *state_;
  if (!state.done || state.failed || state.peer_closed) return 0;
  ERR_clear_error();
  const int n = SSL_read(state.ssl, to.data(), static_cast<int>(to.size()));
  if (n > 0) return static_cast<size_t>(n);
  const int error = SSL_get_error(state.ssl, n);
  if (error == SSL_ERROR_ZERO_RETURN) {
    state.peer_closed = true;
  } else if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) {
    // In TLS 1.3 the client has finished before the edge has judged it, so a refusal may come this late; and
    // an agent that does not accept the edge's certificate tells so here.
    fail_in_library(std::string("the ") + (state.server ? "agent" : "edge") + " ended TLS with an error");
  }
  return 0;
}

bool TlsStream::write(std::span<const uint8_t> bytes) {
  State& state = *state_;
  NATRP_CHECK(state.done, "plaintext is written after the handshake");
  if (state.failed) return false;
  if (bytes.empty()) return true;
  ERR_clear_error();
  // Without partial writes OpenSSL takes all of it, in records of 16 KiB: a memory BIO never blocks.
  if (SSL_write(state.ssl, bytes.data(), static_cast<int>(bytes.size())) <= 0) {
    return fail_in_library("cannot encrypt");
  }
  return true;
}

void TlsStream::write_end() {
  if (!state_->done || state_->failed) return;
  ERR_clear_error();
  SSL_shutdown(state_->ssl);
}

void TlsStream::take_output(std::string& to) {
  const size_t pending = BIO_ctrl_pending(state_->out);
  if (pending == 0) return;
  const size_t old = to.size();
  to.resize(old + pending);
  const int n = BIO_read(state_->out, to.data() + old, static_cast<int>(pending));
  NATRP_CHECK(n == static_cast<int>(pending), "a memory BIO gives what it has");
}

bool TlsStream::is_server() const { return state_->server; }
bool TlsStream::handshake_done() const { return state_->done; }
bool TlsStream::peer_closed() const { return state_->peer_closed; }
bool TlsStream::failed() const { return state_->failed; }
bool TlsStream::verification_failed() const { return state_->verification_failed; }
bool TlsStream::rejected() const { return state_->rejected; }
const std::string& TlsStream::error() const { return state_->error; }

std::array<uint8_t, 32> TlsStream::export_key(std::string_view label) const {
  NATRP_CHECK(state_->done, "keys are exported after the handshake");
  std::array<uint8_t, 32> key;
  const int made = SSL_export_keying_material(state_->ssl, key.data(), key.size(), label.data(), label.size(),
                                              nullptr, 0, 0);
  NATRP_CHECK(made == 1, "TLS 1.3 exports keys");
  return key;
}

}  // namespace natrp
