// The edge: natrp-engine. Options → Edge, AdminServer → run.
#include "admin/admin_server.h"
#include "base/log.h"
#include "edge/edge.h"
#include "edge/edge_admin.h"
#include "edge/rehearsal.h"
#include "runtime/options.h"
#include "runtime/process.h"
#include "runtime/successor.h"

int main(int argc, char** argv) {
  auto command = natrp::own_command(argc, argv);
  auto listeners = natrp::take_handed_listeners();
  auto parsed = natrp::parse_edge_options(argc, argv);
  if (const auto asking = natrp::read_asking_variable(); asking && parsed.checked) {
    if (const auto found = natrp::rehearse_start(parsed.options, *asking); !found.ok()) {
      parsed.end = {2, "natrp-engine: " + found.error().message + '\n'};
    }
  }
  if (!parsed.run) return parsed.end.say();
  natrp::block_signals();
  natrp::log_setup(parsed.options.log_level, parsed.options.log_format);
  const auto admin_address = parsed.options.admin;
  natrp::Status started = natrp::check_process_limits(parsed.options.workers);
  if (started.ok()) natrp::reserve_descriptors();
  natrp::Edge edge(std::move(parsed.options), std::move(listeners));
  natrp::EdgeAdmin shown(edge);
  std::unique_ptr<natrp::AdminServer> admin;
  if (started.ok()) started = edge.listen();
  if (started.ok() && admin_address) {
    admin = std::make_unique<natrp::AdminServer>(shown, *admin_address);
    started = admin->listen();
  }
  if (started.ok()) started = edge.start();
  if (!started.ok()) {
    natrp::log_error(started.error().message);
    return 2;
  }
  if (admin) admin->serve();
  return edge.run({std::move(command), [&admin] {
                     if (admin) admin->stop();
                   }});
}
