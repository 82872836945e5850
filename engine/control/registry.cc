#include "control/registry.h"

#include <algorithm>

#include "base/check.h"
#include "base/limits.h"

namespace natrp {

Takeover decide_takeover(const TakeoverQuestion& question) {
  if (!question.held) return Takeover::kNobodyThere;
  if (question.own) return Takeover::kOwn;
  if (question.same_instance) return Takeover::kSameInstance;
  if (question.holder_silent_ms >= kSessionSilentMs) return Takeover::kSilent;
  return question.replace ? Takeover::kReplaced : Takeover::kRefused;
}

void Registry::open_session(SlotId session, std::string client, std::string instance, uint64_t now_ms) {
  const bool fresh =
      sessions_.emplace(session.word, Session{std::move(client), std::move(instance), now_ms}).second;
  NATRP_CHECK(fresh, "a session is opened once");
}

void Registry::heard(SlotId session, uint64_t now_ms) {
  if (const auto found = sessions_.find(session.word); found != sessions_.end())
    found->second.heard_ms = now_ms;
}

void Registry::close_session(SlotId session) {
  std::erase_if(holders_, [&](const auto& held) { return held.second == session; });
  sessions_.erase(session.word);
}

TakeoverAnswer Registry::take_tunnel(SlotId session, const std::string& tunnel, uint32_t most, bool replace,
                                     uint64_t now_ms) {
  const auto asking = sessions_.find(session.word);
  NATRP_CHECK(asking != sessions_.end(), "a session that asks for a tunnel is open");
  const Session& newcomer = asking->second;
  const auto holding = holders_.find({newcomer.client, tunnel});

  TakeoverQuestion question;
  question.replace = replace;
  if (holding != holders_.end()) {
    const Session& old = sessions_.at(holding->second.word);
    question.held = true;
    question.own = holding->second == session;
    // An agent that sends no instance is a stranger to every other.
    question.same_instance = !old.instance.empty() && old.instance == newcomer.instance;
    question.holder_silent_ms = now_ms > old.heard_ms ? now_ms - old.heard_ms : 0;
  }

  TakeoverAnswer answer;
  if (!question.held && most != 0 && tunnels_held(newcomer.client) >= most) {
    answer.takeover = Takeover::kTooMany;
    const auto its_own = static_cast<size_t>(
        std::count_if(holders_.begin(), holders_.end(), [&](const auto& held) { return held.second == session; }));
    answer.may_change = its_own < most;
    answer.sentence = "client '" + newcomer.client + "' may have " + std::to_string(most) +
                      (most == 1 ? " tunnel" : " tunnels") + " at a time" +
                      (answer.may_change ? ", and other agents of it have some" : "") +
                      "; the edge's operator can raise it";
    return answer;
  }
  answer.takeover = decide_takeover(question);
  if (answer.takeover == Takeover::kRefused) {
    answer.sentence =
        "tunnel '" + tunnel + "' of client '" + newcomer.client +
        "' is held by another agent that is alive: stop that agent, give this tunnel another --name, " +
        "or take it over with --on-conflict replace";
    return answer;
  }
  if (question.held && !question.own) answer.loser = holding->second;
  holders_[{newcomer.client, tunnel}] = session;
  return answer;
}

bool Registry::give_up_tunnel(SlotId session, const std::string& tunnel) {
  const auto found = sessions_.find(session.word);
  if (found == sessions_.end()) return false;
  const auto holding = holders_.find({found->second.client, tunnel});
  if (holding == holders_.end() || !(holding->second == session)) return false;
  holders_.erase(holding);
  return true;
}

SlotId Registry::holder(const std::string& client, const std::string& tunnel) const {
  const auto holding = holders_.find({client, tunnel});
  return holding == holders_.end() ? SlotId{} : holding->second;
}

size_t Registry::tunnels_held(const std::string& client) const {
  size_t count = 0;
  for (auto at = holders_.lower_bound({client, ""}); at != holders_.end() && at->first.first == client; ++at)
    ++count;
  return count;
}

std::vector<SlotId> Registry::sessions_of(const std::string& client) const {
  std::vector<SlotId> found;
  for (const auto& [word, session] : sessions_) {
    if (session.client == client) found.push_back(SlotId{word});
  }
  return found;
}

}  // namespace natrp
