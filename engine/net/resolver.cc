#include "net/resolver.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

namespace natrp {

struct Resolver::State {
  struct Job {
    HostPort host_port;
    Answer answer;
  };
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Job> jobs;
  Mailbox* mailbox = nullptr;  // null once the resolver is gone
  bool started = false;

  static void run(const std::shared_ptr<State>& state) {
    for (;;) {
      std::unique_lock lock(state->mutex);
      state->changed.wait(lock, [&] { return state->mailbox == nullptr || !state->jobs.empty(); });
      if (state->mailbox == nullptr) return;
      Job job = std::move(state->jobs.front());
      state->jobs.pop_front();
      lock.unlock();
      auto found = natrp::resolve(job.host_port);
      lock.lock();
      if (state->mailbox == nullptr) return;
      state->mailbox->post([answer = std::move(job.answer), found = std::move(found)] { answer(found); });
    }
  }
};

Resolver::Resolver(Mailbox& mailbox) : state_(std::make_shared<State>()) { state_->mailbox = &mailbox; }

Resolver::~Resolver() {
  const std::lock_guard lock(state_->mutex);
  state_->mailbox = nullptr;
  state_->changed.notify_all();
}

void Resolver::resolve(const Target& target, Answer answer) {
  const auto answer_now = [this, &answer](Result<std::vector<Address>> found) {
    state_->mailbox->post([answer = std::move(answer), found = std::move(found)] { answer(found); });
  };
  if (!target.unix_path.empty()) {
    auto address = Address::unix_path(target.unix_path);
    if (!address.ok()) return answer_now(address.error());
    return answer_now(std::vector<Address>{address.value()});
  }
  const HostPort& host_port = target.host_port;
  if (auto literal = Address::parse(host_port.text()); literal.ok()) {
    return answer_now(std::vector<Address>{literal.value()});
  }
  const std::lock_guard lock(state_->mutex);
  state_->jobs.push_back({host_port, std::move(answer)});
  if (!state_->started) {
    state_->started = true;
    std::thread([state = state_] { State::run(state); }).detach();
  }
  state_->changed.notify_one();
}

}  // namespace natrp
