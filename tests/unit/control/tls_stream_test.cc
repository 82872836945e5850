#include "control/tls_stream.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "control/tls_identity.h"
#include "temp_dir.h"

namespace natrp {
namespace {

std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// Carries bytes both ways until neither side has more.
void exchange(TlsStream& one, TlsStream& two) {
  for (int round = 0; round < 20; ++round) {
    std::string there;
    std::string back;
    one.take_output(there);
    two.take_output(back);
    if (there.empty() && back.empty()) return;
    if (!there.empty()) two.feed(bytes_of(there));
    if (!back.empty()) one.feed(bytes_of(back));
  }
}

std::string read_all(TlsStream& stream) {
  std::string text;
  uint8_t buffer[1000];
  while (const size_t n = stream.read(buffer)) text.append(reinterpret_cast<char*>(buffer), n);
  return text;
}

// An operator's own certificate: P-256, self-signed, for a name and an address.
void write_certificate_for(const std::string& directory, const char* alternative_names) {
  EVP_PKEY* key = EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256");
  X509* certificate = X509_new();
  X509_set_version(certificate, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_NAME* name = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("test"), -1, -1,
                             0);
  X509_set_issuer_name(certificate, name);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -60);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_pubkey(certificate, key);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, alternative_names);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
  ASSERT_GT(X509_sign(certificate, key, EVP_sha256()), 0);
  FILE* file = std::fopen((directory + "/edge.key").c_str(), "w");
  PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(file);
  ::chmod((directory + "/edge.key").c_str(), 0600);
  file = std::fopen((directory + "/edge.crt").c_str(), "w");
  PEM_write_X509(file, certificate);
  std::fclose(file);
  X509_free(certificate);
  EVP_PKEY_free(key);
}

class TlsStreamTest : public testing::Test {
 protected:
  TlsStream server() { return TlsStream::server(identity_); }
  TlsStream client_with_pin(const Pin& pin) {
    ClientVerify verify;
    verify.pin = pin;
    return TlsStream::client(verify).value();
  }
  std::string certificate() const { return dir_.path() + "/edge.crt"; }

  TempDir dir_;
  TlsIdentity identity_ = TlsIdentity::load_or_create(dir_.path()).value();
};

TEST_F(TlsStreamTest, CarriesPlaintextBothWaysInTls13) {
  TlsStream edge = server();
  TlsStream agent = client_with_pin(identity_.pin());
  EXPECT_FALSE(agent.handshake_done());
  exchange(agent, edge);
  ASSERT_TRUE(agent.handshake_done()) << agent.error();
  ASSERT_TRUE(edge.handshake_done()) << edge.error();
  const std::string up(100'000, 'u');
  ASSERT_TRUE(agent.write(bytes_of(up)));
  ASSERT_TRUE(edge.write(bytes_of("down")));
  exchange(agent, edge);
  EXPECT_EQ(read_all(edge), up);
  EXPECT_EQ(read_all(agent), "down");
}

TEST_F(TlsStreamTest, TakesTheHandshakeByteByByte) {
  TlsStream edge = server();
  TlsStream agent = client_with_pin(identity_.pin());
  for (int round = 0; round < 10 && !(edge.handshake_done() && agent.handshake_done()); ++round) {
    std::string bytes;
    agent.take_output(bytes);
    for (const char byte : bytes) ASSERT_TRUE(edge.feed(bytes_of(std::string(1, byte)))) << edge.error();
    bytes.clear();
    edge.take_output(bytes);
    for (const char byte : bytes) ASSERT_TRUE(agent.feed(bytes_of(std::string(1, byte)))) << agent.error();
  }
  EXPECT_TRUE(edge.handshake_done());
  EXPECT_TRUE(agent.handshake_done());
}

TEST_F(TlsStreamTest, BothEndsExportTheSameKeyAndEachSessionAnother) {
  std::array<uint8_t, 32> keys[2];
  for (auto& key : keys) {
    TlsStream edge = server();
    TlsStream agent = client_with_pin(identity_.pin());
    exchange(agent, edge);
    ASSERT_TRUE(agent.handshake_done());
    key = agent.export_key("EXPORTER-test");
    EXPECT_EQ(key, edge.export_key("EXPORTER-test"));
    EXPECT_NE(key, edge.export_key("EXPORTER-other"));
  }
  EXPECT_NE(keys[0], keys[1]);
}

TEST_F(TlsStreamTest, AWrongPinEndsTheHandshakeWithASentenceAndTheEdgeIsTold) {
  Pin wrong = identity_.pin();
  wrong[31] ^= 1;
  TlsStream edge = server();
  TlsStream agent = client_with_pin(wrong);
  exchange(agent, edge);
  EXPECT_TRUE(agent.failed());
  EXPECT_FALSE(agent.handshake_done());
  EXPECT_TRUE(agent.verification_failed());
  EXPECT_NE(agent.error().find("the edge shows another key than the token names"), std::string::npos)
      << agent.error();
  EXPECT_NE(agent.error().find(format_pin(identity_.pin())), std::string::npos) << agent.error();
  EXPECT_TRUE(edge.failed());
  EXPECT_FALSE(edge.verification_failed());
  EXPECT_NE(edge.error().find("bad certificate"), std::string::npos) << edge.error();
  EXPECT_TRUE(edge.rejected());
}

TEST_F(TlsStreamTest, ACaAndHostNameVerifyAnOperatorsCertificate) {
  TempDir dir;
  write_certificate_for(dir.path(), "DNS:edge.example,IP:127.0.0.1,IP:fe80::1");
  const TlsIdentity identity = TlsIdentity::load_or_create(dir.path()).value();
  for (const char* host : {"edge.example", "edge.example.", "EDGE.example", "127.0.0.1", "fe80::1", "fe80::1%eth0"}) {
    ClientVerify verify;
    verify.ca = load_ca(dir.path() + "/edge.crt").value();
    verify.host = host;
    TlsStream edge = TlsStream::server(identity);
    TlsStream agent = TlsStream::client(verify).value();
    exchange(agent, edge);
    EXPECT_TRUE(agent.handshake_done()) << agent.error();
  }
  for (const char* host : {"other.example", "edge.example..", "127.0.0.2", "fe80::2%eth0"}) {
    ClientVerify verify;
    verify.ca = load_ca(dir.path() + "/edge.crt").value();
    verify.host = host;
    TlsStream edge = TlsStream::server(identity);
    TlsStream agent = TlsStream::client(verify).value();
    exchange(agent, edge);
    EXPECT_TRUE(agent.verification_failed()) << host;
    EXPECT_NE(agent.error().find(host), std::string::npos) << agent.error();
  }
}

TEST_F(TlsStreamTest, AWrongCaIsRefusedEvenForTheRightHost) {
  TempDir dir;
  write_certificate_for(dir.path(), "DNS:edge.example");
  ClientVerify verify;
  verify.ca = load_ca(certificate()).value();
  verify.host = "edge.example";
  TlsStream edge = TlsStream::server(TlsIdentity::load_or_create(dir.path()).value());
  TlsStream agent = TlsStream::client(verify).value();
  exchange(agent, edge);
  EXPECT_TRUE(agent.verification_failed());
  EXPECT_TRUE(edge.rejected());
  EXPECT_NE(agent.error().find("--ca"), std::string::npos) << agent.error();
}

TEST_F(TlsStreamTest, WithAPinAndACaBothMustHold) {
  TempDir dir;
  write_certificate_for(dir.path(), "DNS:edge.example");
  const TlsIdentity identity = TlsIdentity::load_or_create(dir.path()).value();
  ClientVerify verify;
  verify.ca = load_ca(dir.path() + "/edge.crt").value();
  verify.host = "edge.example";
  verify.pin = identity_.pin();
  TlsStream edge = TlsStream::server(identity);
  TlsStream agent = TlsStream::client(verify).value();
  exchange(agent, edge);
  EXPECT_TRUE(agent.verification_failed());
}

TEST_F(TlsStreamTest, ThereIsNoUnverifiedMode) {
  EXPECT_FALSE(TlsStream::client(ClientVerify{}));
  ClientVerify without_host;
  without_host.ca = load_ca(certificate()).value();
  EXPECT_FALSE(TlsStream::client(without_host));
}

TEST_F(TlsStreamTest, ACaFileThatCannotBeUsedIsToldWithTheTrueReason) {
  TempDir dir;
  const auto reason = [&](const std::string& name, const std::string& text) {
    const std::string path = dir.path() + "/" + name;
    if (!text.empty()) std::ofstream(path) << text;
    const auto ca = load_ca(path);
    if (ca) return std::string("it was taken");
    EXPECT_NE(ca.error().message.find(path), std::string::npos) << ca.error().message;
    return ca.error().message;
  };
  std::ifstream file(certificate());
  const std::string good{std::istreambuf_iterator<char>(file), {}};
  const std::string broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
  EXPECT_NE(reason("nowhere", "").find("No such file"), std::string::npos);
  EXPECT_NE(reason("", "").find("Is a directory"), std::string::npos);
  EXPECT_NE(reason("words", "no certificate\n").find("holds no certificate"), std::string::npos);
  EXPECT_NE(reason("broken", broken).find("certificate 1 in it cannot be read"), std::string::npos);
  EXPECT_NE(reason("second", good + broken).find("certificate 2 in it cannot be read"), std::string::npos);
  EXPECT_EQ(reason("twice", good + good), "it was taken");
}

TEST_F(TlsStreamTest, ACaIsReadOnceAndServesWhenItsFileIsGone) {
  TempDir dir;
  write_certificate_for(dir.path(), "DNS:edge.example");
  const TlsIdentity identity = TlsIdentity::load_or_create(dir.path()).value();
  ClientVerify verify;
  verify.ca = load_ca(dir.path() + "/edge.crt").value();
  verify.host = "edge.example";
  std::filesystem::remove(dir.path() + "/edge.crt");
  for (int attempt = 0; attempt < 2; ++attempt) {
    TlsStream edge = TlsStream::server(identity);
    TlsStream agent = TlsStream::client(verify).value();
    exchange(agent, edge);
    EXPECT_TRUE(agent.handshake_done()) << agent.error();
  }
}

constexpr unsigned char kOurAlpn[] = {7, 'n', 'a', 't', 'r', 'p', '/', '1'};

// The other side is plain OpenSSL here, as far as its options say.
struct Plain {
  SSL_CTX* context;
  SSL* ssl;
  explicit Plain(const SSL_METHOD* method) : context(SSL_CTX_new(method)), ssl(nullptr) {}
  void start(bool server) {
    ssl = SSL_new(context);
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    if (server)
      SSL_set_accept_state(ssl);
    else
      SSL_set_connect_state(ssl);
  }
  ~Plain() {
    SSL_free(ssl);
    SSL_CTX_free(context);
  }
  void exchange_with(TlsStream& stream) {
    for (int round = 0; round < 10; ++round) {
      SSL_do_handshake(ssl);
      char buffer[8192];
      const int n = BIO_read(SSL_get_wbio(ssl), buffer, sizeof buffer);
      if (n > 0) stream.feed(bytes_of(std::string(buffer, static_cast<size_t>(n))));
      std::string back;
      stream.take_output(back);
      if (!back.empty()) BIO_write(SSL_get_rbio(ssl), back.data(), static_cast<int>(back.size()));
    }
  }
};

TEST_F(TlsStreamTest, AnAgentWithoutAlpnIsRefused) {
  Plain agent(TLS_client_method());
  agent.start(false);
  TlsStream edge = server();
  agent.exchange_with(edge);
  EXPECT_TRUE(edge.failed());
  EXPECT_FALSE(edge.handshake_done());
  EXPECT_NE(edge.error().find("natrp/1"), std::string::npos) << edge.error();
}

TEST_F(TlsStreamTest, AnAgentWithAnotherAlpnIsRefused) {
  Plain agent(TLS_client_method());
  const unsigned char h2[] = {2, 'h', '2'};
  SSL_CTX_set_alpn_protos(agent.context, h2, sizeof h2);
  agent.start(false);
  TlsStream edge = server();
  agent.exchange_with(edge);
  EXPECT_TRUE(edge.failed());
  EXPECT_FALSE(edge.handshake_done());
}

// Right in all but the version.
TEST_F(TlsStreamTest, AnAgentOfTls12IsRefusedForThatAlone) {
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    Plain agent(TLS_client_method());
    SSL_CTX_set_max_proto_version(agent.context, version);
    SSL_CTX_set_alpn_protos(agent.context, kOurAlpn, sizeof kOurAlpn);
    agent.start(false);
    TlsStream edge = server();
    agent.exchange_with(edge);
    EXPECT_EQ(edge.failed(), version == TLS1_2_VERSION) << edge.error();
    EXPECT_EQ(edge.handshake_done(), version == TLS1_3_VERSION);
  }
}

TEST_F(TlsStreamTest, AnEdgeOfTls12IsRefusedForThatAlone) {
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    Plain edge(TLS_server_method());
    SSL_CTX_set_max_proto_version(edge.context, version);
    SSL_CTX_set_alpn_select_cb(
        edge.context,
        [](SSL*, const unsigned char** chosen, unsigned char* length, const unsigned char*, unsigned, void*) {
          *chosen = kOurAlpn + 1;
          *length = sizeof kOurAlpn - 1;
          return SSL_TLSEXT_ERR_OK;
        },
        nullptr);
    ASSERT_EQ(SSL_CTX_use_certificate_file(edge.context, certificate().c_str(), SSL_FILETYPE_PEM), 1);
    ASSERT_EQ(SSL_CTX_use_PrivateKey_file(edge.context, (dir_.path() + "/edge.key").c_str(), SSL_FILETYPE_PEM), 1);
    edge.start(true);
    TlsStream agent = client_with_pin(identity_.pin());
    edge.exchange_with(agent);
    EXPECT_EQ(agent.failed(), version == TLS1_2_VERSION) << agent.error();
    EXPECT_EQ(agent.handshake_done(), version == TLS1_3_VERSION);
  }
}

TEST_F(TlsStreamTest, AnEdgeWithoutAlpnIsRefusedThoughItsKeyIsRight) {
  Plain edge(TLS_server_method());
  ASSERT_EQ(SSL_CTX_use_certificate_file(edge.context, certificate().c_str(), SSL_FILETYPE_PEM), 1);
  ASSERT_EQ(SSL_CTX_use_PrivateKey_file(edge.context, (dir_.path() + "/edge.key").c_str(), SSL_FILETYPE_PEM),
            1);
  edge.start(true);
  TlsStream agent = client_with_pin(identity_.pin());
  edge.exchange_with(agent);
  EXPECT_TRUE(agent.failed());
  EXPECT_FALSE(agent.handshake_done());
  EXPECT_FALSE(agent.verification_failed());
  EXPECT_NE(agent.error().find("natrp/1"), std::string::npos) << agent.error();
}

TEST_F(TlsStreamTest, GarbageFailsWithASentence) {
  TlsStream edge = server();
  EXPECT_FALSE(edge.feed(bytes_of(std::string(200, '\x16'))));
  EXPECT_TRUE(edge.failed());
  EXPECT_FALSE(edge.rejected());
  EXPECT_FALSE(edge.error().empty());
  TlsStream agent = client_with_pin(identity_.pin());
  EXPECT_FALSE(agent.feed(bytes_of("HTTP/1.1 400 Bad Request\r\n\r\n")));
  EXPECT_NE(agent.error().find("--server"), std::string::npos) << agent.error();
}

TEST_F(TlsStreamTest, AChangedRecordIsNeverRead) {
  TlsStream edge = server();
  TlsStream agent = client_with_pin(identity_.pin());
  exchange(agent, edge);
  ASSERT_TRUE(agent.write(bytes_of("secret")));
  std::string record;
  agent.take_output(record);
  record.back() ^= 1;
  edge.feed(bytes_of(record));
  EXPECT_EQ(read_all(edge), "");
  EXPECT_TRUE(edge.failed());
}

TEST_F(TlsStreamTest, TheEndIsTold) {
  TlsStream edge = server();
  TlsStream agent = client_with_pin(identity_.pin());
  exchange(agent, edge);
  ASSERT_TRUE(agent.write(bytes_of("last words")));
  agent.write_end();
  exchange(agent, edge);
  EXPECT_EQ(read_all(edge), "last words");
  EXPECT_TRUE(edge.peer_closed());
  EXPECT_FALSE(edge.failed());
}

}  // namespace
}  // namespace natrp
