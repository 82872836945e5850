// loop/ask.h
//
// ask(): a question to another thread's loop, for a thread that has none and may wait: the admin server's.
#pragma once

#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <type_traits>

#include "loop/mailbox.h"

namespace natrp {

inline constexpr std::chrono::seconds kAnswerWait{2};

// question: called in the mailbox's thread; what it reads must be there as long as the mailbox is. nullopt: no answer
// in time; the answer that comes later is thrown away.
template <typename Question>
auto ask(Mailbox& mailbox, Question question) -> std::optional<std::invoke_result_t<Question>> {
  const auto promise = std::make_shared<std::promise<std::invoke_result_t<Question>>>();
  auto answer = promise->get_future();
  mailbox.post([question, promise] { promise->set_value(question()); });
  if (answer.wait_for(kAnswerWait) != std::future_status::ready) return std::nullopt;
  return answer.get();
}

}  // namespace natrp
