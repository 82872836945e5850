// The agent: natrp. Options → Agent, AdminServer → run.
#include <memory>

#include "admin/admin_server.h"
#include "agent/agent.h"
#include "agent/agent_admin.h"
#include "base/log.h"
#include "control/tls_stream.h"
#include "runtime/options.h"
#include "runtime/process.h"

int main(int argc, char** argv) {
  auto parsed = natrp::parse_agent_options(argc, argv);
  if (parsed.checked && !parsed.options.ca_file.empty()) {
    // A start reads it in Agent::start(); the options cannot, they know no certificates.
    if (const auto ca = natrp::load_ca(parsed.options.ca_file); !ca.ok()) {
      parsed.end = {2, "natrp: " + ca.error().message + '\n'};
    }
  }
  if (!parsed.run) return parsed.end.say();
  natrp::block_signals();
  natrp::log_setup(parsed.options.log_level, parsed.options.log_format);
  natrp::Status started = natrp::check_process_limits(parsed.options.workers);
  if (started.ok()) natrp::reserve_descriptors();
  const auto admin_address = parsed.options.admin;
  natrp::Agent agent(std::move(parsed.options));
  natrp::AgentAdmin shown(agent);
  std::unique_ptr<natrp::AdminServer> admin;
  if (started.ok() && admin_address) {
    admin = std::make_unique<natrp::AdminServer>(shown, *admin_address);
    started = admin->listen();
  }
  if (started.ok()) started = agent.start();
  if (!started.ok()) {
    natrp::log_error(started.error().message);
    return 2;
  }
  if (admin) admin->serve();
  return agent.run();
}
