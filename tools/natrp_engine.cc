// The edge: natrp-engine. Options → Edge, AdminServer → run.
#include "admin/admin_server.h"
#include "base/log.h"
#include "edge/edge.h"
#include "runtime/options.h"
#include "runtime/process.h"

int main(int argc, char** argv) {
  natrp::block_signals();
  auto parsed = natrp::parse_edge_options(argc, argv);
  if (!parsed.run) return parsed.end.say();
  natrp::log_setup(parsed.options.log_level, parsed.options.log_format);
  const auto admin_address = parsed.options.admin;
  natrp::Edge edge(std::move(parsed.options));
  if (const natrp::Status started = edge.start(); !started.ok()) {
    natrp::log_error(started.error().message);
    return 2;
  }
  std::unique_ptr<natrp::AdminServer> admin;
  if (admin_address) {
    admin = std::make_unique<natrp::AdminServer>(edge, *admin_address);
    if (const natrp::Status started = admin->start(); !started.ok()) {
      natrp::log_error(started.error().message);
      return 2;
    }
  }
  return edge.run();
}
