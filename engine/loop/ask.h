// loop/ask.h
//
// ask(): a question to another thread's loop, for a thread that has none and may wait: the admin server's.
#pragma once

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <type_traits>

#include "loop/mailbox.h"

namespace natrp {

inline constexpr std::chrono::milliseconds kAnswerWait{2000};
inline constexpr std::chrono::milliseconds kAnswerLook{10};
inline const std::atomic<bool> kAnswersCome{false};  // of a thread whose loop is never over

// question: called in the mailbox's thread; what it reads must be there as long as the mailbox is. nullopt: no answer
// in time, or none any more, as over says; the answer that comes later is thrown away.
template <typename Question>
auto ask(Mailbox& mailbox, const std::atomic<bool>& over, Question question)
    -> std::optional<std::invoke_result_t<Question>> {
  const auto promise = std::make_shared<std::promise<std::invoke_result_t<Question>>>();
  auto answer = promise->get_future();
  mailbox.post([question, promise] { promise->set_value(question()); });
  for (auto left = kAnswerWait; left.count() > 0 && !over; left -= kAnswerLook) {
    if (answer.wait_for(kAnswerLook) == std::future_status::ready) return answer.get();
  }
  return std::nullopt;
}

}  // namespace natrp
