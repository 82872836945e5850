#include "control/tls_identity.h"

#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "base/dir_owner.h"
#include "base/fd.h"
#include "control/auth.h"
#include "control/tls_stream.h"

namespace natrp {
namespace {

struct Free {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(BIO* bio) const { BIO_free(bio); }
};
using Key = std::unique_ptr<EVP_PKEY, Free>;
using Certificate = std::unique_ptr<X509, Free>;
using Memory = std::unique_ptr<BIO, Free>;

std::string library_reason() {
  const unsigned long code = ERR_peek_last_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  ERR_clear_error();
  return reason == nullptr ? "unknown reason" : reason;
}

std::string text_of(BIO* bio) {
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio, &data);
  return std::string(data, static_cast<size_t>(length));
}

// path: the file that is to be, not the one that stands for it until it is whole.
Error not_written(const std::string& directory, const std::string& path, int errno_value) {
  Error error = Error::from_errno("cannot write " + path, errno_value);
  if (errno_value == ENOSPC || errno_value == EDQUOT) {
    error.message += "; make room on the disk of the state folder " + directory;
  } else {
    error.message += "; look after the disk of the state folder " + directory;
  }
  error.message += ", or give another folder with --state";
  return error;
}

// An errno, or 0.
int write_all_synced(int fd, const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    const ssize_t n = ::write(fd, text.data() + at, text.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    at += static_cast<size_t>(n);
  }
  return ::fsync(fd) == 0 ? 0 : errno;
}

// path appears whole and on the disk, or not at all. When somebody else made it meanwhile, theirs stays:
// link(2) never replaces, rename(2) would.
Status create_file(const std::string& directory, const std::string& path, const std::string& text,
                   mode_t mode) {
  const Fd folder(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid()) return Error::from_errno("cannot open the folder " + directory, errno);
  std::string temporary = path + ".XXXXXX";
  Fd file(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!file.valid()) {
    if (errno == ENOSPC || errno == EDQUOT) return not_written(directory, path, errno);
    return Error::from_errno("cannot create " + path + " (the state folder must be writable by this user)",
                             errno);
  }
  give_to_owner_of_dir(directory, file.get());
  Status written = Done{};
  if (const int failure = write_all_synced(file.get(), text); failure != 0) {
    written = not_written(directory, path, failure);
  }
  if (written && ::fchmod(file.get(), mode) != 0) written = Error::from_errno("cannot set the mode of " + path, errno);
  if (written && ::link(temporary.c_str(), path.c_str()) != 0 && errno != EEXIST) {
    written = not_written(directory, path, errno);
  }
  ::unlink(temporary.c_str());
  if (!written) return written;
  if (::fsync(folder.get()) != 0) return not_written(directory, path, errno);
  return Done{};
}

Status create_key(const std::string& directory, const std::string& path) {
  Key key(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  Memory memory(BIO_new(BIO_s_mem()));
  if (!key || !memory ||
      PEM_write_bio_PKCS8PrivateKey(memory.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return Error{"cannot make the edge's key: " + library_reason()};
  }
  return create_file(directory, path, text_of(memory.get()), 0600);
}

Status create_certificate(const std::string& directory, const std::string& path, EVP_PKEY* key) {
  Certificate certificate(X509_new());
  Memory memory(BIO_new(BIO_s_mem()));
  uint64_t serial = 0;
  random_bytes({reinterpret_cast<uint8_t*>(&serial), sizeof serial});
  X509* x = certificate.get();
  X509_NAME* name = X509_get_subject_name(x);
  const bool made =
      x != nullptr && memory && X509_set_version(x, X509_VERSION_3) == 1 &&
      ASN1_INTEGER_set_uint64(X509_get_serialNumber(x), serial >> 1) == 1 &&
      X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                                 reinterpret_cast<const unsigned char*>("natrp-engine edge"), -1, -1,
                                 0) == 1 &&
      X509_set_issuer_name(x, name) == 1 && X509_set_pubkey(x, key) == 1 &&
      // The dates RFC 5280 §4.1.2.5 gives to a certificate without an end; the start is long past, so that a
      // host whose clock is wrong at its first boot makes a certificate that is valid later.
      ASN1_TIME_set_string_X509(X509_getm_notBefore(x), "20200101000000Z") == 1 &&
      ASN1_TIME_set_string_X509(X509_getm_notAfter(x), "99991231235959Z") == 1 &&
      // Ed25519 and Ed448 hash by themselves and refuse a digest.
      X509_sign(x, key,
                EVP_PKEY_is_a(key, "ED25519") || EVP_PKEY_is_a(key, "ED448") ? nullptr : EVP_sha256()) > 0 &&
      PEM_write_bio_X509(memory.get(), x) == 1;
  if (!made) return Error{"cannot make the edge's certificate: " + library_reason()};
  return create_file(directory, path, text_of(memory.get()), 0644);
}

// No key, and no error: the file is not there.
Result<Key> load_key(const std::string& path) {
  Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) {
    if (errno == ENOENT) return Key();
    return Error::from_errno("cannot read the edge's key " + path + " (run as the user who owns it)", errno);
  }
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return Error::from_errno("cannot look at " + path, errno);
  if ((status.st_mode & 0007) != 0) {
    return Error{"everybody on this host may read the edge's key " + path +
                 ": take that away with `chmod 600 " + path +
                 "`, and if it was so for long, delete edge.key and edge.crt and give out new tokens"};
  }
  char text[65536];
  size_t length = 0;
  for (;;) {
    const ssize_t n = ::read(file.get(), text + length, sizeof text - length);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error::from_errno("cannot read the edge's key " + path, errno);
    if (n == 0) break;
    length += static_cast<size_t>(n);
  }
  Memory memory(BIO_new_mem_buf(text, static_cast<int>(length)));
  // A callback that gives no password: without it OpenSSL would ask on the terminal.
  Key key(PEM_read_bio_PrivateKey(
      memory.get(), nullptr, [](char*, int, int, void*) { return -1; }, nullptr));
  OPENSSL_cleanse(text, sizeof text);
  if (!key) {
    return Error{path + " holds no private key in PEM without a password (" + library_reason() +
                 "): restore it from a backup, or delete edge.key and edge.crt and give out new tokens"};
  }
  return key;
}

}  // namespace

Result<Pin> pin_of(const X509* certificate) {
  unsigned char* der = nullptr;
  const int length = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &der);
  if (length <= 0) return Error{"a certificate has no public key that can be read: " + library_reason()};
  const Pin pin = sha256({der, static_cast<size_t>(length)});
  OPENSSL_free(der);
  return pin;
}

Status TlsIdentity::check(const std::string& state_dir) {
  if (::access((state_dir + "/edge.crt").c_str(), F_OK) == 0) {
    const auto identity = load_or_create(state_dir);  // makes nothing then
    return identity ? Status(Done{}) : identity.error();
  }
  const auto key = load_key(state_dir + "/edge.key");  // none is no error
  return key ? Status(Done{}) : key.error();
}

std::optional<Pin> TlsIdentity::find_pin(const std::string& state_dir) {
  const Memory file(BIO_new_file((state_dir + "/edge.crt").c_str(), "r"));
  const Certificate certificate(file ? PEM_read_bio_X509(file.get(), nullptr, nullptr, nullptr) : nullptr);
  ERR_clear_error();
  if (!certificate) return std::nullopt;
  const auto pin = pin_of(certificate.get());
  return pin.ok() ? std::optional(pin.value()) : std::nullopt;
}

bool TlsIdentity::is_replaced_in(const std::string& state_dir) const {
  if (const auto pin = find_pin(state_dir)) return *pin != pin_;
  const Result<Key> key = load_key(state_dir + "/edge.key");
  if (!key) return false;
  if (!key.value()) return ::access((state_dir + "/edge.crt").c_str(), F_OK) != 0;
  return EVP_PKEY_eq(key.value().get(), SSL_CTX_get0_privatekey(context_.get())) != 1;
}

Result<TlsIdentity> TlsIdentity::load_or_create(const std::string& state_dir) {
  ERR_clear_error();
  const std::string key_path = state_dir + "/edge.key";
  const std::string certificate_path = state_dir + "/edge.crt";
  struct stat status {};
  if (::stat(state_dir.c_str(), &status) != 0) {
    return Error::from_errno(
        "cannot use the state folder " + state_dir + " (create it, or name another with --state)", errno);
  }
  const bool has_certificate = ::access(certificate_path.c_str(), F_OK) == 0;
  Result<Key> key = load_key(key_path);
  if (!key) return key.error();
  if (!key.value() && has_certificate) {
    return Error{"there is a certificate " + certificate_path + " but no key " + key_path +
                 ": restore the key from a backup, or delete the certificate too and give out new tokens"};
  }
  if (!key.value()) {
    if (Status created = create_key(state_dir, key_path); !created) return created.error();
    key = load_key(key_path);
    if (!key) return key.error();
    if (!key.value())
      return Error{"the key " + key_path + " was deleted while it was being made: start again"};
  }
  // A crash between the two files leaves a key alone; its certificate is made now, and the pin is the same.
  if (!has_certificate) {
    if (Status created = create_certificate(state_dir, certificate_path, key.value().get()); !created) {
      return created.error();
    }
  }
  std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  if (!context) return Error{"cannot set up TLS: " + library_reason()};
  if (SSL_CTX_use_certificate_chain_file(context.get(), certificate_path.c_str()) != 1) {
    return Error{"cannot use the certificate " + certificate_path + ": " + library_reason() +
                 "; delete it and a new one is made for the same key"};
  }
  if (SSL_CTX_use_PrivateKey(context.get(), key.value().get()) != 1 ||
      SSL_CTX_check_private_key(context.get()) != 1) {
    return Error{"the certificate " + certificate_path + " is not of the key " + key_path + ": " +
                 library_reason() +
                 "; put the right pair there, or delete the certificate and a new one is made for the key"};
  }
  if (Status prepared = prepare_tls_context(context.get()); !prepared) return prepared.error();
  const Result<Pin> pin = pin_of(SSL_CTX_get0_certificate(context.get()));
  if (!pin) return pin.error();
  return TlsIdentity(std::move(context), pin.value());
}

}  // namespace natrp
