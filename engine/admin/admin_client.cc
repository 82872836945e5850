#include "admin/admin_client.h"

#include <httplib.h>

#include <chrono>
#include <string>
#include <utility>

#include "admin/metrics.h"

namespace natrp {
namespace {

constexpr std::chrono::seconds kConnectWait{5};
// A server answers two at a time, and waits 2 s for a control thread that is busy.
constexpr std::chrono::seconds kAnswerWait{15};

std::string why(httplib::Error error) {
  switch (error) {
    case httplib::Error::Connection: return "nobody listens there";
    case httplib::Error::ConnectionTimeout: return "the connection is not answered";
    case httplib::Error::Read: return "it gave no answer";
    default: return httplib::to_string(error);
  }
}

}  // namespace

Result<std::vector<SessionInfo>> ask_for_sessions(const Address& admin) {
  httplib::Client client(admin.host_text(), admin.port());
  client.set_connection_timeout(kConnectWait);
  client.set_read_timeout(kAnswerWait);
  const std::string who = "the admin server at " + admin.text();
  const auto answer = client.Get(kSessionsPath);
  if (!answer) {
    return Error{"cannot ask " + who + ": " + why(answer.error()) +
                 "; start the edge with --admin " + admin.text() + ", or say with --admin where it has its own"};
  }
  if (answer->status == 503) return Error{who + " has no answer: " + answer->body.substr(0, answer->body.find('\n'))};
  auto sessions = sessions_from_json(answer->status == 200 ? answer->body : std::string());
  if (!sessions) {
    return Error{who + " is none of an edge: it answers " + std::to_string(answer->status) + " and no sessions; say " +
                 "with --admin where the edge has its own"};
  }
  return std::move(*sessions);
}

}  // namespace natrp
