// control/tls_identity.h
//
// TlsIdentity: who the edge is: a private key and a certificate, in DIR/edge.key (0600) and DIR/edge.crt
// (PEM). Made on first start: Ed25519, self-signed, without an end date, because agents trust the key (its
// pin) and not a date. An operator may put files of their own in the same places, of any key type, with the
// chain in edge.crt.
//
// Life     load_or_create ──▶ shared by every TlsStream of the edge until the last is gone
// Thread   load_or_create: any. A TlsIdentity is read-only afterwards; copies share one SSL_CTX.
// Never    replaces a key that is there: every token carries its pin.
#pragma once

#include <openssl/types.h>

#include <memory>
#include <optional>
#include <string>

#include "base/join_token.h"
#include "base/result.h"

namespace natrp {

class TlsIdentity {
 public:
  // state_dir must exist. Safe against another process that does the same at the same moment: one key wins.
  static Result<TlsIdentity> load_or_create(const std::string& state_dir);
  // Whether load_or_create() would succeed, as far as can be told without making a file.
  static Status check(const std::string& state_dir);
  // The pin of the certificate that is there; nullopt: there is none that can be read. Makes nothing.
  static std::optional<Pin> find_pin(const std::string& state_dir);

  // Whether load_or_create() would have another key than this: the one that is there now is another, or there is none,
  // and it would make one. What it could not use at all is no other key: check() says so. Makes nothing.
  bool is_replaced_in(const std::string& state_dir) const;

  // SHA-256 of the certificate's SubjectPublicKeyInfo in DER.
  const Pin& pin() const { return pin_; }
  // The server side's context: TLS 1.3 only, no tickets, ALPN demanded. Owned by this and its copies.
  SSL_CTX* context() const { return context_.get(); }

 private:
  TlsIdentity(std::shared_ptr<SSL_CTX> context, const Pin& pin) : context_(std::move(context)), pin_(pin) {}
  std::shared_ptr<SSL_CTX> context_;
  Pin pin_;
};

// The pin of a certificate. Used by both ends.
Result<Pin> pin_of(const X509* certificate);

}  // namespace natrp
