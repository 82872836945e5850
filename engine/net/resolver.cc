#include "net/resolver.h"

#include <condition_variable>
#include <deque>
#include <mutex>

#include "loop/start_thread.h"

namespace natrp {
namespace {

// A thread each. Where a DNS server is dead, glibc asks it twice and waits 5 s each time (resolv.conf(5)): so many such
// names may wait at once, and the next name has its answer right away all the same.
constexpr uint32_t kLookupsMost = 8;

}  // namespace

struct Resolver::State {
  struct Job {
    HostPort host_port;
    Answer answer;
  };
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Job> jobs;
  Mailbox* mailbox = nullptr;  // null once the resolver is gone
  Lookup lookup;
  uint32_t threads = 0;
  uint32_t idle = 0;

  // One more, for a job that found none idle. False: there is none at all, and none to be had.
  static bool add_thread(const std::shared_ptr<State>& state) {
    if (auto thread = start_thread("resolver", [state] { run(state); }); thread.ok()) {
      thread.value().detach();
      ++state->threads;
    }
    return state->threads > 0;  // those that are there do it one by one
  }

  static void run(const std::shared_ptr<State>& state) {
    std::unique_lock lock(state->mutex);
    for (;;) {
      ++state->idle;
      state->changed.wait(lock, [&] { return state->mailbox == nullptr || !state->jobs.empty(); });
      --state->idle;
      if (state->mailbox == nullptr) return;
      Job job = std::move(state->jobs.front());
      state->jobs.pop_front();
      lock.unlock();
      auto found = state->lookup(job.host_port);
      lock.lock();
      if (state->mailbox == nullptr) return;
      state->mailbox->post([answer = std::move(job.answer), found = std::move(found)] { answer(found); });
    }
  }
};

Resolver::Resolver(Mailbox& mailbox, Lookup lookup) : state_(std::make_shared<State>()) {
  state_->mailbox = &mailbox;
  state_->lookup = std::move(lookup);
}

Resolver::~Resolver() {
  const std::lock_guard lock(state_->mutex);
  state_->mailbox = nullptr;
  state_->changed.notify_all();
}

void Resolver::resolve(const Target& target, Answer answer) {
  const auto answer_now = [this, &answer](Found found) {
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
  // Who is idle may have been woken already for an earlier job.
  if (state_->jobs.size() >= state_->idle && state_->threads < kLookupsMost && !State::add_thread(state_)) {
    return answer_now(Error{"cannot resolve host '" + host_port.host + "': the system gives no thread for it"});
  }
  state_->jobs.push_back({host_port, std::move(answer)});
  state_->changed.notify_one();
}

}  // namespace natrp
