#include "runtime/options.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/limits.h"

namespace natrp {
namespace {

using Words = std::vector<std::string>;

template <typename Parse>
auto parsed(Parse parse, const Words& words) {
  std::vector<const char*> argv = {"program"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  return parse(static_cast<int>(argv.size()), argv.data());
}

auto edge(const Words& words) { return parsed(parse_edge_options, words); }
auto agent(const Words& words) { return parsed(parse_agent_options, words); }
auto ctl(const Words& words) { return parsed(parse_ctl_options, words); }

template <typename Outcome>
void expect_refused(const Outcome& outcome, const std::string& mention) {
  EXPECT_FALSE(outcome.run);
  EXPECT_EQ(outcome.end.exit_code, 2);
  EXPECT_NE(outcome.end.text.find(mention), std::string::npos)
      << "no '" << mention << "' in: " << outcome.end.text;
  EXPECT_GT(std::count(outcome.end.text.begin(), outcome.end.text.end(), ' '), 3) << outcome.end.text;
}

const std::string kToken = "ntrp1_" + std::string(85, 'C') + "A";
const std::string kOtherToken = "ntrp1_" + std::string(85, 'B') + "A";

Words agent_words(const Words& more = {}) {
  Words words = {"--server", "127.0.0.1:9", "--token", kToken, "--local", "127.0.0.1:80"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

class OptionsTest : public testing::Test {
 protected:
  void SetUp() override {
    unsetenv("NATRP_TOKEN");
    std::string name = (std::filesystem::temp_directory_path() / "natrp_options_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    dir_ = name;
  }
  void TearDown() override {
    unsetenv("NATRP_TOKEN");
    std::filesystem::remove_all(dir_);
  }
  std::string file(const std::string& text, const std::string& name = "config.toml") {
    const std::string path = dir_ + "/" + name;
    std::ofstream(path) << text;
    return path;
  }
  std::string dir_;
};

TEST_F(OptionsTest, AnEdgeServesWithNoFlagsAtAll) {
  const auto outcome = edge({});
  ASSERT_TRUE(outcome.run) << outcome.end.text;
  const EdgeOptions& options = outcome.options;
  EXPECT_EQ(options.bind.text(), "0.0.0.0:10022");
  EXPECT_EQ(options.public_bind.host_text(), "0.0.0.0");
  EXPECT_EQ(options.public_address, "");
  EXPECT_EQ(options.ports.format(), "20000-29999");
  EXPECT_FALSE(options.admin.has_value());
  EXPECT_EQ(options.state_dir, default_state_dir());
  EXPECT_EQ(options.grace_seconds, 60u);
  EXPECT_EQ(options.drain_seconds, 30u);
  EXPECT_EQ(options.pipes_max, 0u);
  EXPECT_TRUE(options.brief_wait);
  EXPECT_FALSE(options.natrp_grpc);
  cpu_set_t cpus;
  ASSERT_EQ(sched_getaffinity(0, sizeof cpus, &cpus), 0);
  EXPECT_EQ(options.workers, std::min<unsigned>(CPU_COUNT(&cpus), kWorkersMax));
}

TEST_F(OptionsTest, EveryFlagOfTheEdgeIsTaken) {
  const auto outcome = edge({"--bind",
                             "[::1]:7000",
                             "--public-bind",
                             "127.0.0.1",
                             "--public-address",
                             "edge.example",
                             "--state",
                             "/tmp/x/",
                             "--ports=443,500-510",
                             "--workers",
                             "3",
                             "--io",
                             "epoll",
                             "--pump",
                             "copy",
                             "--admin",
                             "127.0.0.1:9000",
                             "--drain-seconds",
                             "5",
                             "--log-level",
                             "debug",
                             "--log-format",
                             "json",
                             "--grace-seconds",
                             "0",
                             "--pipes-max",
                             "2",
                             "--brief-wait",
                             "off",
                             "--natrp-grpc",
                             "on"});
  ASSERT_TRUE(outcome.run) << outcome.end.text;
  const EdgeOptions& options = outcome.options;
  EXPECT_EQ(options.bind.text(), "[::1]:7000");
  EXPECT_EQ(options.public_bind.with_port(5).text(), "127.0.0.1:5");
  EXPECT_EQ(options.public_address, "edge.example");
  EXPECT_EQ(options.state_dir, "/tmp/x");
  EXPECT_EQ(options.ports.format(), "443,500-510");
  EXPECT_EQ(options.workers, 3u);
  EXPECT_EQ(options.io, IoKind::kEpoll);
  EXPECT_EQ(options.pump, PumpKind::kCopy);
  EXPECT_EQ(options.admin->text(), "127.0.0.1:9000");
  EXPECT_EQ(options.drain_seconds, 5u);
  EXPECT_EQ(options.log_level, LogLevel::kDebug);
  EXPECT_EQ(options.log_format, LogFormat::kJson);
  EXPECT_EQ(options.grace_seconds, 0u);
  EXPECT_EQ(options.pipes_max, 2u);
  EXPECT_FALSE(options.brief_wait);
  EXPECT_TRUE(options.natrp_grpc);
}

TEST_F(OptionsTest, PublicPortsListenWhereTheEdgeIsBound) {
  EXPECT_EQ(edge({"--bind", "127.0.0.5:7000"}).options.public_bind.host_text(), "127.0.0.5");
  EXPECT_EQ(edge({"--public-bind", "::1"}).options.public_bind.host_text(), "::1");
  EXPECT_EQ(edge({"--public-bind", "[::1]"}).options.public_bind.host_text(), "::1");
}

TEST_F(OptionsTest, TheEdgesOwnPortsAreNotLeased) {
  const auto ports = [](const std::string& bind, const std::string& admin, const std::string& public_bind) {
    return edge({"--bind", bind, "--admin", admin, "--public-bind", public_bind, "--ports", "7000-7003"})
        .options.ports.format();
  };
  EXPECT_EQ(ports("0.0.0.0:7000", "127.0.0.1:7002", "0.0.0.0"), "7001,7003");
  EXPECT_EQ(ports("[::]:7003", "off", "127.0.0.1"), "7000-7002");
  EXPECT_EQ(ports("127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.2"), "7000-7003") << "of another address";
  EXPECT_EQ(ports("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1"), "7000-7003");
  expect_refused(edge({"--ports", "10022"}), "those of --bind and --admin");
  for (const std::string admin : {"0.0.0.0:7000", "127.0.0.1:7000", "[::]:7000"}) {
    expect_refused(edge({"--bind", "127.0.0.1:7000", "--admin", admin}), "is in the way of --bind 127.0.0.1:7000");
  }
  EXPECT_TRUE(edge({"--bind", "127.0.0.1:7000", "--admin", "[::1]:7000"}).run) << "not in each other's way";
}

TEST_F(OptionsTest, ABadValueOfAnEdgesFlagIsNamed) {
  const std::vector<std::pair<Words, std::string>> cases = {
      {{"--ports", "20010-20000"}, "20010"},
      {{"--ports", ""}, "port"},
      {{"--ports", "1-70000"}, "70000"},
      {{"--bind", "127.0.0.1:99999"}, "99999"},
      {{"--bind", "nonsense:::1"}, "--bind"},
      {{"--bind", "localhost:80"}, "localhost"},
      {{"--public-bind", "not an address"}, "--public-bind"},
      {{"--public-bind", ""}, "--public-bind"},
      {{"--public-address", "a b"}, "--public-address"},
      {{"--public-address", "host:80"}, "--public-address"},
      {{"--public-address", std::string(254, 'a')}, "--public-address"},
      {{"--admin", "nonsense"}, "--admin"},
      {{"--workers", "-1"}, "--workers"},
      {{"--workers", "0"}, "--workers"},
      {{"--workers", "many"}, "many"},
      {{"--workers", "65"}, "from 1 to 64"},
      {{"--workers", "99999999999999999999"}, "--workers"},
      {{"--workers", "2 "}, "--workers"},
      {{"--bind", "10022"}, "'10022' has no host"},
      {{"--bind", "10022"}, "0.0.0.0:10022"},
      {{"--io", "kqueue"}, "auto, uring or epoll"},
      {{"--pump", "magic"}, "magic"},
      {{"--log-level", "loud"}, "loud"},
      {{"--log-format", "xml"}, "text or json"},
      {{"--drain-seconds", "-5"}, "--drain-seconds"},
      {{"--grace-seconds", "soon"}, "soon"},
      {{"--pipes-max", "-1"}, "--pipes-max"},
      {{"--natrp-grpc", "yes"}, "on or off"},
      {{"--brief-wait", "50"}, "on or off"},
      {{"--state", ""}, "--state"},
      {{"--frobnicate", "1"}, "--frobnicate"},
      {{"frobnicate"}, "frobnicate"},
      {{"--worker", "1"}, "did you mean --workers"},
      {{"--workers"}, "--workers needs a value: write --workers N"},
      {{"--workers", "1", "--workers", "2"}, "--workers is given more than once"},
      {{"--config"}, "--config needs a value: write --config FILE"},
      {{"--check=maybe"}, "--check takes no value: leave what is behind the '=' away"},
      {{"--config", "/nonexistent/x.toml"}, "/nonexistent/x.toml"},
      {{"--config", "/tmp"}, "/tmp"},
      {{"--config", ""}, "--config"},
      {{"--config", "", "--check"}, "--config"},
      {{"--config=", "--check"}, "--config="},
      {{"--bind=", "127.0.0.1:1"}, "--bind="}};
  for (const auto& [words, mention] : cases) {
    SCOPED_TRACE(words.front() + " " + (words.size() > 1 ? words[1] : ""));
    expect_refused(edge(words), mention);
  }
}

TEST_F(OptionsTest, AFileSetsWhatAFlagOverrides) {
  const std::string path = file(
      "bind = \"127.0.0.1:7000\"\nworkers = 2\ndrain_seconds = 7\nadmin = \"off\"\n[compat]\nnatrp_grpc = "
      "true\n");
  const auto outcome = edge({"--workers", "5", "--config", path});
  ASSERT_TRUE(outcome.run) << outcome.end.text;
  EXPECT_EQ(outcome.options.bind.text(), "127.0.0.1:7000");
  EXPECT_EQ(outcome.options.workers, 5u);
  EXPECT_EQ(outcome.options.drain_seconds, 7u);
  EXPECT_TRUE(outcome.options.natrp_grpc);
}

TEST_F(OptionsTest, AMistakeInAFileIsToldWithFileLineKeyAndWhatWasExpected) {
  const std::vector<std::tuple<std::string, int, std::string>> cases = {
      {"workers = 1\n\nfrobnicate = true\n", 3, "frobnicate"},
      {"workrs = 1\n", 1, "did you mean 'workers'"},
      {"prots = \"1\"\n", 1, "did you mean 'ports'"},
      {"drain_seconds = 5\nworkers = \"one\"\n", 2,
       "workers: expected a whole number from 1 to 64, got a string"},
      {"\n\n\nworkers = -3\n", 4, "from 1 to 64, got '-3'"},
      {"workers = 1.5\n", 1, "got a fraction"},
      {"pump = \"magic\"\n", 1, "auto, splice, uring or copy"},
      {"bind = 10022\n", 1, "bind: expected a string in quotes (ADDR:PORT), got an integer"},
      {"workers = 1\nports = \"9-3\"\n", 2, "ports"},
      {"workers = 1\nthis is not toml\n", 2, "TOML"},
      {"\n  workers = 99999999999999999999\nio = \"auto\"\n", 2, "workers: this is not TOML"},
      {"[compat]\nnatrp_grpc = on", 2, "natrp_grpc: this is not TOML"},
      {"workers = 1\nworkers = 2\n", 2, "workers"},
      {"natrp_grpc = true\n", 1, "natrp_grpc"},
      {"[compat]\nnatrp_grpc = \"on\"\n", 2, "compat.natrp_grpc: expected true or false"},
      {"[compat]\nfrp = true\n", 2, "compat.frp"},
      {"compat = 1\n", 1, "[compat]"},
      {"workers = \"b\"\n\nio = \"b\"\nbind = \"b\"\n", 1, "workers"},
      {"[[tunnel]]\nname = \"a\"\n", 1, "tunnel"},
      {"config = \"x\"\n", 1, "config"}};
  for (const auto& [text, line, mention] : cases) {
    SCOPED_TRACE(text);
    const std::string path = file(text);
    const auto outcome = edge({"--config", path});
    expect_refused(outcome, mention);
    expect_refused(outcome, path + ":" + std::to_string(line) + ": ");
  }
}

TEST_F(OptionsTest, CheckHelpAndVersionEndWithoutAnError) {
  for (const auto& outcome : {edge({"--check"}), edge({"--help"}), edge({"--version"})}) {
    EXPECT_FALSE(outcome.run);
    EXPECT_EQ(outcome.end.exit_code, 0);
    EXPECT_FALSE(outcome.end.text.empty());
  }
  expect_refused(edge({"--check", "--workers", "0"}), "--workers");
  expect_refused(agent({"--check"}), "--server");
  EXPECT_EQ(agent(agent_words({"--check"})).end.exit_code, 0);
}

TEST_F(OptionsTest, HelpNamesEveryFlagWithItsDefault) {
  const std::string text = edge({"--help"}).end.text;
  for (const char* word :
       {"--bind ADDR:PORT", "0.0.0.0:10022", "--ports", "20000-29999", "--io auto|uring|epoll",
        "--drain-seconds N", "Default: 30.", "--natrp-grpc", "--config FILE", "--check"}) {
    EXPECT_NE(text.find(word), std::string::npos) << word << " is not in\n" << text;
  }
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    EXPECT_LE(end - at, 115u) << text.substr(at, end - at);
    at = end + 1;
  }
}

TEST_F(OptionsTest, TheStateFolderFollowsTheUser) {
  if (geteuid() == 0) {
    EXPECT_EQ(default_state_dir(), "/var/lib/natrp-engine");
    ASSERT_EQ(seteuid(65534), 0);
  }
  setenv("XDG_STATE_HOME", "/x/state", 1);
  EXPECT_EQ(default_state_dir(), "/x/state/natrp-engine");
  setenv("XDG_STATE_HOME", "relative", 1);
  setenv("HOME", "/h/me", 1);
  EXPECT_EQ(default_state_dir(), "/h/me/.local/state/natrp-engine");
  unsetenv("XDG_STATE_HOME");
  EXPECT_EQ(default_state_dir(), "/h/me/.local/state/natrp-engine");
  // As the user database has it; a folder of the current one would be another at each start.
  unsetenv("HOME");
  EXPECT_EQ(default_state_dir().front(), '/');
  if (getuid() == 0) {
    ASSERT_EQ(seteuid(0), 0);
  }
}

TEST_F(OptionsTest, AStateFolderIsNamedSoThatItIsFoundFromElsewhere) {
  EXPECT_EQ(edge({"--state", "/x/state/"}).options.state_dir, "/x/state");
  EXPECT_EQ(edge({"--state", "state"}).options.state_dir, std::filesystem::current_path() / "state");
  EXPECT_EQ(edge({"--state", "~state"}).options.state_dir, std::filesystem::current_path() / "~state");
  for (const std::string home : {"~", "~/state"}) expect_refused(edge({"--state", home}), "stands for no folder here");
}

TEST_F(OptionsTest, AnAgentTakesOneTunnelFromItsFlags) {
  const auto outcome = agent(agent_words({"--name", "web", "--remote-port", "20005", "--on-conflict",
                                          "replace", "--pin", "sha256:" + std::string(62, '0') + "aF"}));
  ASSERT_TRUE(outcome.run) << outcome.end.text;
  const AgentOptions& options = outcome.options;
  EXPECT_EQ(options.server.host, "127.0.0.1");
  EXPECT_EQ(options.server.port, 9);
  EXPECT_EQ(options.server_text, "127.0.0.1:9");
  EXPECT_EQ(format_join_token(options.token), kToken);
  EXPECT_TRUE(options.on_conflict_replace);
  ASSERT_TRUE(options.pin.has_value());
  EXPECT_EQ((*options.pin)[31], 0xaf);
  ASSERT_EQ(options.tunnels.size(), 1u);
  EXPECT_EQ(options.tunnels[0].name, "web");
  EXPECT_EQ(options.tunnels[0].local, "127.0.0.1:80");
  EXPECT_EQ(options.tunnels[0].remote_port, 20005);
}

TEST_F(OptionsTest, TheOriginalsSingleDashFlagsAreTaken) {
  for (const Words& words : {Words{"-local=unix:/run/x", "-server=h:1", "-token=" + kToken},
                             Words{"-local", "unix:/run/x", "-server", "h:1", "-token", kToken}}) {
    const auto outcome = agent(words);
    ASSERT_TRUE(outcome.run) << outcome.end.text;
    EXPECT_EQ(outcome.options.tunnels[0].local, "unix:/run/x");
    EXPECT_EQ(outcome.options.tunnels[0].name, "default");
    EXPECT_EQ(outcome.options.server.host, "h");
    EXPECT_EQ(format_join_token(outcome.options.token), kToken);
  }
}

TEST_F(OptionsTest, ATokenComesFromFlagsThenTheEnvironmentThenTheFile) {
  const std::string path =
      file("server = \"h:1\"\ntoken = \"" + kToken + "\"\n[[tunnel]]\nlocal = \"h:2\"\n");
  const auto taken = [](const Words& words) {
    const AgentOptions options = agent(words).options;
    return std::pair(format_join_token(options.token), options.secret_file);
  };
  EXPECT_EQ(taken({"--config", path}), std::pair(kToken, path));
  setenv("NATRP_TOKEN", kOtherToken.c_str(), 1);
  EXPECT_EQ(taken({"--config", path}), std::pair(kOtherToken, std::string()));
  const std::string secret = file(" " + kToken + "\n", "secret");
  EXPECT_EQ(taken({"--config", path, "--token-file", secret}), std::pair(kToken, secret));
  EXPECT_EQ(taken(agent_words()), std::pair(kToken, std::string()));
  setenv("NATRP_TOKEN", "no token", 1);
  expect_refused(agent({"--config", path}), "NATRP_TOKEN");
}

TEST_F(OptionsTest, OnlyTheSourceThatWinsIsRead) {
  const std::string path = file("server = \"h:1\"\ntoken_file = \"/nonexistent/of the file\"\n"
                                "ca = \"/nonexistent/ca of the file\"\n[[tunnel]]\nlocal = \"h:2\"\n");
  const std::string pin = "sha256:" + std::string(64, '5');
  const std::string secret = file(kToken, "secret");
  expect_refused(agent({"--config", path, "--pin", pin}), "of the file");
  expect_refused(agent({"--config", path, "--token-file", secret}), "ca of the file");
  const auto outcome = agent({"--config", path, "--token-file", secret, "--pin", pin});
  ASSERT_TRUE(outcome.run) << outcome.end.text;
  EXPECT_EQ(format_join_token(outcome.options.token), kToken);
  setenv("NATRP_TOKEN", kOtherToken.c_str(), 1);
  EXPECT_EQ(format_join_token(agent({"--config", path, "--pin", pin}).options.token), kOtherToken);
  setenv("NATRP_TOKEN", "no token", 1);
  EXPECT_EQ(format_join_token(agent({"--config", path, "--token-file", secret, "--pin", pin}).options.token), kToken);
  EXPECT_EQ(format_join_token(agent(agent_words()).options.token), kToken);
  expect_refused(agent({"--config", path, "--pin", pin}), "NATRP_TOKEN");
}

TEST_F(OptionsTest, AFileThatCannotBeReadIsToldWithCauseAndRemedy) {
  const std::string secret = file(kToken, "secret");
  std::filesystem::permissions(dir_, std::filesystem::perms::all);
  std::filesystem::permissions(secret, std::filesystem::perms::none);
  const Words start = {"--server", "h:1", "--local", "h:2", "--token-file"};
  const auto with = [&](const std::string& name) {
    Words words = start;
    words.push_back(name);
    return agent(words);
  };
  expect_refused(with(dir_ + "/nowhere"), "No such file or directory; check its name");
  expect_refused(with("nowhere"), "begins in this folder");
  expect_refused(with(dir_), "Is a directory; name the file in it");
  if (geteuid() == 0) {
    ASSERT_EQ(seteuid(65534), 0);
  }
  const auto outcome = with(secret);
  const std::string uid = "uid " + std::to_string(geteuid());
  if (getuid() == 0) {
    ASSERT_EQ(seteuid(0), 0);
  }
  expect_refused(outcome, "Permission denied");
  expect_refused(outcome, uid);
}

TEST_F(OptionsTest, NoSentenceRepeatsAToken) {
  const std::string cut = "ntrp1_" + std::string(50, 'S');
  const std::string in_file = file("server = \"h:1\"\ntoken = \"" + cut + "\"\n");
  const std::string not_quoted = file("server = \"h:1\"\ntoken = " + cut + "\n", "b.toml");
  const std::string twice = file("token = \"" + cut + "\"\ntoken = \"" + cut + "\"\n", "c.toml");
  const std::string secret = file(cut, "secret");
  for (const Words& words :
       {Words{"--token", cut}, Words{cut}, Words{"--token", kToken, cut}, Words{"--tokn=" + cut},
        Words{"-t" + cut}, Words{"--token-file", secret}, Words{"--config", in_file},
        Words{"--config", not_quoted}, Words{"--config", twice}, Words{"--token", cut, "--token", cut},
        Words{"--check=" + cut}}) {
    SCOPED_TRACE(words.front());
    const auto outcome = agent(words);
    expect_refused(outcome, "");
    EXPECT_EQ(outcome.end.text.find("SSSS"), std::string::npos) << outcome.end.text;
  }
}

TEST_F(OptionsTest, ABadAgentIsToldWhatIsMissingOrWrong) {
  const std::vector<std::pair<Words, std::string>> cases = {
      {{}, "--server"},
      {{"--server", "h:1"}, "token"},
      {{"--server", "h:1", "--token", kToken}, "--local"},
      {{"--server", "", "--token", kToken}, "--server"},
      {{"--server", "h:0"}, "port 0"},
      {agent_words({"--local"}), "--local"},
      {{"--local", "unix:"}, "unix"},
      {{"--local", "unix:/" + std::string(200, 'x')}, "unix"},
      {{"--local", "127.0.0.1:99999"}, "99999"},
      {{"--local", "nonsense"}, "nonsense"},
      {agent_words({"--remote-port", "70000"}), "70000"},
      {agent_words({"--remote-port", "http"}), "http"},
      {agent_words({"--pin", "sha256:xyz"}), "--pin"},
      {agent_words({"--pin", "md5:00"}), "--pin"},
      {agent_words({"--ca", "/nonexistent/ca.pem"}), "/nonexistent/ca.pem"},
      {agent_words({"--name", ""}), "--name"},
      {agent_words({"--name", "a b"}), "--name"},
      {agent_words({"--on-conflict", "fight"}), "refuse or replace"},
      {agent_words({"--on-refusal", "sulk"}), "exit or retry"},
      {agent_words({"--on-conflict", "replace", "--on-refusal", "retry"}), "do not go together"},
      {agent_words({"--token-file", "/nonexistent"}), "both a token and a token file"},
      {{"--server", "h:1", "--local", "h:2", "--token-file", "/nonexistent/t"}, "/nonexistent/t"},
      {{"--server", "h:1", "--local", "h:2", "--token-file", dir_}, dir_},
      {{"--server", "h:1", "--local", "h:2", "--token-file", file("\n", "empty")}, "empty"},
      {agent_words({"--ca", file("nothing", "ca.pem")}), "ca.pem"},
      {{"-token=", "-local=h:1"}, "--token="},
      {{"--token", "ntrp1_" + std::string(86, 'B'), "--check"}, "last character"},
      {{"--token", "not-a-token"}, "token"}};
  for (const auto& [words, mention] : cases) {
    SCOPED_TRACE(mention);
    expect_refused(agent(words), mention);
  }
}

TEST_F(OptionsTest, AFileNamesSeveralTunnels) {
  const std::string path = file("server = \"h:1\"\ntoken = \"" + kToken +
                                "\"\non_conflict = \"replace\"\n\n[[tunnel]]\nlocal = \"h:2\"\n\n"
                                "[[tunnel]]\nname = \"b\"\nlocal = \"unix:/run/b\"\nremote_port = 20009\n");
  const auto outcome = agent({"--config", path});
  ASSERT_TRUE(outcome.run) << outcome.end.text;
  ASSERT_EQ(outcome.options.tunnels.size(), 2u);
  EXPECT_EQ(outcome.options.tunnels[0].name, "default");
  EXPECT_EQ(outcome.options.tunnels[0].remote_port, 0);
  EXPECT_EQ(outcome.options.tunnels[1].name, "b");
  EXPECT_EQ(outcome.options.tunnels[1].local, "unix:/run/b");
  EXPECT_EQ(outcome.options.tunnels[1].remote_port, 20009);
  const auto replaced = agent({"--config", path, "--local", "h:3"});
  ASSERT_EQ(replaced.options.tunnels.size(), 1u);
  EXPECT_EQ(replaced.options.tunnels[0].local, "h:3");
  EXPECT_EQ(replaced.options.tunnels[0].name, "default");
  expect_refused(agent({"--config", path, "--remote-port", "20001"}), "--local");
}

TEST_F(OptionsTest, AMistakeInATunnelIsToldWithItsLine) {
  const std::vector<std::tuple<std::string, int, std::string>> cases = {
      {"[[tunnel]]\nname = \"a\"\nlocal = \"127.0.0.1:80\"\nremote_prot = 1\n", 4,
       "did you mean 'remote_port'"},
      {"[[tunnel]]\nname = \"a\"\n", 1, "local"},
      {"[[tunnel]]\nname = \"a\"\nlocal = \"127.0.0.1:80\"\nremote_port = 70000\n", 4, "remote_port"},
      {"[[tunnel]]\nname = \"a b\"\nlocal = \"127.0.0.1:80\"\n", 2, "a b"},
      {"[[tunnel]]\nname = \"a\"\nlocal = \"nowhere\"\n", 3, "local: 'nowhere' has no port"},
      {"[[tunnel]]\nlocal = \"h:1\"\nremote_port = 443\n\n"
       "[[tunnel]]\nname = \"b\"\nlocal = \"h:2\"\nremote_port = 443\n",
       5, "'default' and 'b' both ask for remote_port 443"},
      {"[[tunnel]]\nlocal = 80\n", 2, "local: expected a string in quotes (HOST:PORT|unix:PATH), got an integer"},
      {"[[tunnel]]\nlocal = \"h:1\"\n\n[[tunnel]]\nlokal = \"h:2\"\n", 5, "did you mean 'local'"},
      {"on_conflict = \"refuse\"\ntoken = 5\n", 2, "token"},
      {"[tunel]\nname = \"a\"\n", 1, "tunel"},
      {"[[tunnels]]\nname = \"a\"\n", 1, "did you mean [[tunnel]]?"},
      {"[tunnel]\nname = \"a\"\n", 1, "[[tunnel]]"},
      {"tunnel = [1]\n", 1, "expected a table"},
      {"local = \"h:1\"\n", 1, "[[tunnel]]"},
      {"[[tunnel]]\nname = \"a\"\nlocal = \"h:1\"\n[[tunnel]]\nname = \"a\"\nlocal = \"h:2\"\n", 4, "'a'"}};
  for (const auto& [text, line, mention] : cases) {
    SCOPED_TRACE(text);
    const std::string path = file(text);
    const auto outcome = agent({"--server", "127.0.0.1:9", "--config", path});
    expect_refused(outcome, mention);
    expect_refused(outcome, path + ":" + std::to_string(line) + ": ");
  }
}

TEST_F(OptionsTest, MoreTunnelsThanASessionCarriesAreRefusedWithTheLineOfTheFirstTooMany) {
  std::string text = "server = \"h:1\"\ntoken = \"" + kToken + "\"\n";
  for (unsigned i = 0; i < kTunnelsPerSessionMax; ++i) {
    text += "[[tunnel]]\nname = \"t" + std::to_string(i) + "\"\nlocal = \"h:1\"\n";
  }
  ASSERT_TRUE(agent({"--config", file(text)}).run);
  const std::string path = file(text + "[[tunnel]]\nname = \"more\"\nlocal = \"h:1\"\n");
  const std::string line = ":" + std::to_string(2 + 3 * kTunnelsPerSessionMax + 1) + ": ";
  for (const Words& words : {Words{"--config", path}, Words{"--config", path, "--check"}}) {
    const auto outcome = agent(words);
    expect_refused(outcome, path + line);
    expect_refused(outcome, "at most " + std::to_string(kTunnelsPerSessionMax));
  }
}

TEST_F(OptionsTest, AFlagsVerificationReplacesTheFiles) {
  const std::string path = file("pin = \"sha256:" + std::string(64, '5') + "\"\n");
  const std::string ca = file("-----BEGIN CERTIFICATE-----\n", "ca.pem");
  const auto outcome = agent(agent_words({"--config", path, "--ca", ca}));
  ASSERT_TRUE(outcome.run) << outcome.end.text;
  EXPECT_FALSE(outcome.options.pin.has_value());
  EXPECT_EQ(outcome.options.ca_file, ca);
  expect_refused(agent(agent_words({"--pin", "sha256:" + std::string(64, '5'), "--ca", ca})),
                 "both a pin and a CA");
}

TEST_F(OptionsTest, CtlReadsItsCommands) {
  const auto added = ctl({"--state", dir_, "client", "add", "demo", "--ports", "443,20000-20003",
                          "--tunnels-max", "3", "--conns-max", "9", "--plain-token"});
  ASSERT_TRUE(added.run) << added.end.text;
  EXPECT_EQ(added.options.action, CtlAction::kClientAdd);
  EXPECT_EQ(added.options.state_dir, dir_);
  EXPECT_EQ(added.options.name, "demo");
  EXPECT_EQ(added.options.ports, "443,20000-20003");
  EXPECT_EQ(added.options.tunnels_max, 3u);
  EXPECT_EQ(added.options.conns_max, 9u);
  EXPECT_TRUE(added.options.plain_token);
  EXPECT_EQ(ctl({"client", "list"}).options.action, CtlAction::kClientList);
  EXPECT_EQ(ctl({"client", "remove", "demo"}).options.action, CtlAction::kClientRemove);
  const auto rotated = ctl({"token", "rotate", "demo", "--state", dir_});
  ASSERT_TRUE(rotated.run) << rotated.end.text;
  EXPECT_EQ(rotated.options.action, CtlAction::kTokenRotate);
  EXPECT_EQ(rotated.options.state_dir, dir_);
}

TEST_F(OptionsTest, CtlSetHoldsWhatWasGivenAndNothingElse) {
  const auto visitors = ctl({"client", "set", "demo", "--conns-max", "0"});
  ASSERT_TRUE(visitors.run) << visitors.end.text;
  EXPECT_EQ(visitors.options.action, CtlAction::kClientSet);
  EXPECT_EQ(visitors.options.name, "demo");
  EXPECT_EQ(visitors.options.conns_max, 0u);
  EXPECT_EQ(visitors.options.tunnels_max, std::nullopt);
  EXPECT_EQ(visitors.options.ports, std::nullopt);
  EXPECT_EQ(ctl({"client", "set", "demo", "--ports", "5,3-4"}).options.ports, "3-5");
  EXPECT_EQ(ctl({"client", "set", "demo", "--ports", "any"}).options.ports, "");
  EXPECT_EQ(ctl({"client", "set", "demo", "--tunnels-max", "2", "--state", dir_}).options.tunnels_max, 2u);
}

TEST_F(OptionsTest, CtlBlamesTheFirstWordThatBelongsNowhere) {
  const std::vector<std::pair<Words, std::string>> cases = {
      {{"client", "ad", "x"}, "'ad' is no command of 'client': add, set, list, remove; did you mean 'add'?"},
      {{"client", "rm", "x"}, "'rm' is no command of 'client': add, set, list, remove;"},
      {{"clients", "list"}, "'clients' is no command: client, token, session; did you mean 'client'?"},
      {{"tokn", "rotate", "x"}, "'tokn' is no command: client, token, session; did you mean 'token'?"},
      {{"client", "show", "home"}, "'show' is no command of 'client'"},
      {{"--state", dir_, "list"}, "did you mean 'client list' or 'session list'?"},
      {{"remove", "x"}, "did you mean 'client remove'?"},
      {{"--config", "x", "client", "list"}, "unknown flag --config"},
      {{"client", "add", "x", "--prots", "1"}, "did you mean --ports?"},
      {{"client", "add", "x", "--tunnels-max", "-1"}, "--tunnels-max"},
      {{"client", "add", "x", "y"}, "unexpected word 'y'"},
      {{"client", "list", "x", "y"}, "unexpected word 'x'"},
      {{"session", "list", "--admni", "x"}, "did you mean --admin?"}};
  for (const auto& [words, mention] : cases) {
    std::string trace = "natrpctl";
    for (const std::string& word : words) trace += " " + word;
    SCOPED_TRACE(trace);
    expect_refused(ctl(words), mention);
  }
}

TEST_F(OptionsTest, CtlSaysWhatIsWrongWithAWord) {
  const std::vector<std::pair<Words, std::string>> cases = {
      {{}, "--help"},
      {{"client"}, "--help"},
      {{"client", "add"}, "NAME"},
      {{"client", "frobnicate"}, "frobnicate"},
      {{"frobnicate"}, "frobnicate"},
      {{"client", "add", "new", "--ports", "9-3"}, "9-3"},
      {{"client", "add", "new", "--ports", "x"}, "'x'"},
      {{"client", "add", "new", "--tunnels-max", "-1"}, "--tunnels-max"},
      {{"client", "add", "new", "--frobnicate"}, "--frobnicate"},
      {{"client", "set"}, "NAME"},
      {{"client", "set", "demo"}, "give --ports, --tunnels-max or --conns-max"},
      {{"client", "set", "demo", "--ports", "9-3"}, "9-3"},
      {{"client", "set", "demo", "--ports", "anyone"}, "'anyone'"},
      {{"client", "set", "demo", "--conns-max", "-1"}, "--conns-max"},
      {{"client", "set", "demo", "--plain-token"}, "--plain-token"},
      {{"client", "set", "a b", "--conns-max", "1"}, "a b"},
      {{"token", "add", "x"}, "--help"},
      {{"client", "add", "a b"}, "a b"},
      {{"client", "list", "more"}, "more"},
      {{"--state=", "client", "list"}, "--state="},
      {{"client", "list", "--state"}, "--state needs a value: write --state DIR"},
      {{"client", "add", "x", "--ports", "1", "--ports", "2"}, "--ports is given more than once"},
      {{"session", "list", "--admin", "x"}, "'x'"},
      {{"client", "list", "--admin", "127.0.0.1:1"}, "--admin is a flag of 'session list': write it behind that"},
      {{"--ports", "1", "client", "add", "x"}, "--ports is a flag of 'client add' and 'client set': write it behind"},
      {{"client", "add", ""}, "name"}};
  for (const auto& [words, mention] : cases) {
    std::string trace = "natrpctl";
    for (const std::string& word : words) trace += " " + word;
    SCOPED_TRACE(trace);
    expect_refused(ctl(words), mention);
  }
  EXPECT_EQ(ctl({"--help"}).end.exit_code, 0);
  EXPECT_NE(ctl({"--help"}).end.text.find("--tunnels-max"), std::string::npos);
  EXPECT_NE(ctl({"client", "add", "--help"}).end.text.find("The most visitors at once"), std::string::npos);
  EXPECT_NE(ctl({"client", "set", "--help"}).end.text.find("any: all of the"), std::string::npos);
  EXPECT_NE(ctl({"client", "set", "--help"}).end.text.find("Default: as it is."), std::string::npos);
  EXPECT_EQ(ctl({"--version"}).end.exit_code, 0);
}

}  // namespace
}  // namespace natrp
