// control/tls_stream.h
//
// TlsStream: TLS 1.3 without a socket. Bytes of the peer go in, bytes for the peer come out, plaintext on the
// other side. Both sides demand ALPN "natrp/1"; the client always verifies the edge, by pin, by CA and host
// name, or both.
//
// Life     handshaking ──▶ done ──▶ closed by the peer (close_notify)
//                └────────────┴────▶ failed: error() says why; output may hold the alert for the peer
// Thread   one at a time.
// Never    performs I/O. Resumes a session: tickets are off, every agent proves itself anew.
#pragma once

#include <openssl/types.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/join_token.h"
#include "base/result.h"

namespace natrp {

class TlsIdentity;

// The authorities that an operator trusts, read once and shared by every attempt to connect: when the file is changed
// or removed later, no edge is refused for that.
struct TrustedCa {
  std::shared_ptr<X509_STORE> store;
  std::string file;  // for sentences
};
// Every certificate of a PEM file. An error names the file and what the kernel or OpenSSL says about it.
Result<TrustedCa> load_ca(const std::string& file);

// How the agent knows the edge. At least one of pin and ca; when both are given, both must hold.
struct ClientVerify {
  std::optional<Pin> pin;
  std::string pin_source = "the token";  // for the sentence: "the token" or "--pin"
  std::optional<TrustedCa> ca;
  std::string host;  // what was dialled, name or address. Needed with ca; sent as SNI.
};

class TlsStream {
 public:
  static TlsStream server(const TlsIdentity& identity);
  // Fails when verify holds nothing to verify by, and when TLS gets no memory.
  static Result<TlsStream> client(const ClientVerify& verify);
  TlsStream(TlsStream&&) noexcept;
  TlsStream& operator=(TlsStream&&) noexcept;
  ~TlsStream();

  // Bytes from the peer. Goes on with the handshake. False when the stream has failed.
  bool feed(std::span<const uint8_t> bytes);
  // Plaintext from the peer; 0: none now, or the stream has ended (peer_closed, failed).
  size_t read(std::span<uint8_t> to);
  // Plaintext for the peer, all of it; only after handshake_done(). False when the stream has failed.
  bool write(std::span<const uint8_t> bytes);
  // Tells the peer that nothing more comes. Output holds the alert.
  void write_end();
  // Appends what has to be sent to the peer.
  void take_output(std::string& to);

  bool is_server() const;
  bool handshake_done() const;
  bool peer_closed() const;
  bool failed() const;
  // The peer is not who it should be: trying again cannot help, and nothing secret was sent.
  bool verification_failed() const;
  // The edge's side: it is the agent that did not take the edge for the right one.
  bool rejected() const;
  const std::string& error() const;

  // Keying material both ends share (RFC 8446 §7.5), without context. Only after handshake_done().
  std::array<uint8_t, 32> export_key(std::string_view label) const;

 private:
  struct State;
  explicit TlsStream(std::unique_ptr<State> state);
  static int verify_edge(X509_STORE_CTX* store, void* unused);
  bool handshake();
  bool fail(std::string sentence);
  bool fail_in_library(const std::string& what, const std::string& remedy = {});
  std::unique_ptr<State> state_;  // the verify callback holds its address
};

// What both sides' contexts have in common: TLS 1.3 only, no tickets, ALPN. Used by TlsIdentity.
Status prepare_tls_context(SSL_CTX* context);

}  // namespace natrp
