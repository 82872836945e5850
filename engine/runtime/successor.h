// runtime/successor.h
//
// Successor: this program started once more, from the file that has its name now, with the same arguments and the same
// environment. After an upgrade that is the new one.
//
// Life     idle ──check() or start()──▶ runs ──it ends: on_end──▶ idle
// Parent   of a process that only checks: this one. Of a successor where a service manager listens (NOTIFY_SOCKET): the
//          manager. systemd waits for its own children only, and kills a main process that is none of them without a
//          drain when it stops the unit.
// Thread   its loop's.
// Memory   the process is on its own once it runs: it outlives this and the process that started it.
// Never    hands a descriptor of ours on, but standard input, output and error, and the listeners that it is told to.
//          (A request that is under way at the admin server may be, to a process that checks: its library does not
//          close it on exec.)
#pragma once

#include <spawn.h>
#include <sys/types.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "loop/loop.h"
#include "loop/owned.h"

namespace natrp {

// How this process was started: its file, then its arguments. Called by main at once: once the file was replaced, the
// kernel's name for it is that of a deleted file. The file keeps the name that it was started by, so that a symbolic
// link which leads to a new version by the time of the handover leads there.
std::vector<std::string> own_command(int argc, char** argv);
// The listeners that the process before this one has handed on. They are named in the environment, and this call
// removes them from it: a second call gives none.
std::vector<Fd> take_handed_listeners();

// What a handover needs of the process.
struct Succession {
  std::vector<std::string> command{};         // empty: there is no handover
  std::function<void()> give_up_addresses{};  // before the successor starts
};

class Successor {
 public:
  // status: as of waitpid(2), or kUnknownEnd: it was not ours to ask. Called from the loop.
  using OnEnd = std::function<void(int status)>;
  static constexpr int kUnknownEnd = -1;

  // command: the path of the file, then the arguments.
  Successor(Loop& loop, std::vector<std::string> command);
  ~Successor();
  Successor(const Successor&) = delete;
  Successor& operator=(const Successor&) = delete;

  // Runs it with --check: it looks at its arguments and files, and ends, within 5 s or by SIGKILL. What it prints to
  // standard output is thrown away, its sentences on standard error are kept: said(). One process at a time. variable:
  // one more in its environment, NAME=VALUE.
  Status check(std::string variable, OnEnd on_end) {
    return spawn({.checks = true, .variable = std::move(variable)}, std::move(on_end));
  }
  // listeners: the successor gets them by take_handed_listeners(). This process keeps them, too.
  Status start(std::span<const Fd> listeners, OnEnd on_end) {
    return spawn({.listeners = listeners}, std::move(on_end));
  }
  bool busy() const { return watch_.in_flight; }
  // Of the last one.
  pid_t pid() const { return pid_; }
  // What the last check wrote to standard error, in one line; of too much the first part. Empty: nothing; or there was
  // no descriptor for a pipe, and our own standard error has it.
  std::string said() const;
  const std::string& file() const { return command_.front(); }

 private:
  struct Way {
    bool checks = false;
    std::string variable{};  // empty: none
    std::span<const Fd> listeners{};
  };
  Status spawn(Way way, OnEnd on_end);
  int start_process(const Way& way, const posix_spawn_file_actions_t& files, char** words, char** environment);
  void on_op(Op& op);
  void end_check();
  void listen_to_check();

  OwnedOp<&Successor::on_op> watch_{*this};
  Loop& loop_;
  std::vector<std::string> command_;
  OnEnd on_end_;
  OwnedTimer<&Successor::end_check> check_deadline_{*this};
  bool checks_ = false;
  Fd check_says_;  // a pipe's end; never waited for: whoever has the other one may keep it open for ever
  std::string said_;
  OwnedTimer<&Successor::listen_to_check> listen_again_{*this};
  Fd pidfd_;
  pid_t pid_ = -1;
};

// "ended with code 2", "was ended by signal 9"
std::string how_it_ended(int status);

}  // namespace natrp
