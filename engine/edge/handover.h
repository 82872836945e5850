// edge/handover.h
//
// Handover: an edge makes way for its successor, and looks after it until its own end (docs/operations.md, Upgrading).
// It says when; what is drained and let go is the Edge's.
//
// Life     none ──begin──▶ trying ──nothing stands against it──▶ waiting ──due──▶ letting go ──start──▶ done
//                                 ──something does──▶ none       call_off: ──▶ none       done ──leave──▶ left
// Thread   the control thread.
// Memory   a successor that runs is on its own: it outlives this.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "loop/loop.h"
#include "loop/owned.h"
#include "runtime/options.h"
#include "runtime/successor.h"
#include "store/state_dir.h"

namespace natrp {

class Handover {
 public:
  // Both outlive this.
  Handover(Loop& loop, const EdgeOptions& options, Succession succession);
  ~Handover();
  Handover(const Handover&) = delete;
  Handover& operator=(const Handover&) = delete;

  // Tries the program that is there now. Nothing stands against it: drain() is called, and the handover waits. Else the
  // log has the reason, and all is as before. draining: the edge is at its end, for a handover or for good.
  void begin(bool draining, std::function<void()> drain);
  // True: what was drained for it is not needed any more, the edge stops. False: there was nothing to call off.
  bool call_off();

  // From drain() until the successor starts: public ports are to be handed on.
  bool under_way() const { return stage_ == Stage::kWaiting || stage_ == Stage::kLettingGo; }
  // The edge has to let go now. nobody_waits: no visitor of the edge's is without its data channel.
  bool is_due(bool nobody_waits) const;
  // What only one edge can have goes, between these two: first the sessions and ports, then the addresses.
  void let_go() { stage_ = Stage::kLettingGo; }
  void give_up_addresses();
  // Starts the successor, unless it was called off meanwhile. lock: the state folder's, which was given up.
  void start(std::vector<Fd> listeners, Fd lock);
  // This edge was told to stop. True: its successor was started, so what flows here may finish; the successor is not
  // looked after any more. False: the edge has to stop. A service manager tells all processes of a unit at once,
  // and those that are left a second time when the main one has ended: so under a manager the third time means us. And
  // where no edge has the state folder, the manager waits for our end before it starts one.
  bool leave();
  // Now and then: when the successor has begun to lead, its listeners are dropped here, and it is announced to the
  // service manager.
  void tick();
  // The successor has just been started, or will be again: an edge through which nothing flows waits for it.
  bool watches() const;

 private:
  enum class Stage : uint8_t { kNone, kTrying, kWaiting, kLettingGo, kDone, kLeft };
  std::string why_not() const;
  void tried(int status);
  void run_successor();
  void announce();
  void successor_ended(int status);
  void start_again_later();
  bool nobody_leads() const { return !another_has_state_dir(lock_); }

  Loop& loop_;
  const EdgeOptions& options_;
  Succession succession_;
  std::optional<Successor> successor_;  // when there is a command
  std::function<void()> drain_;
  Stage stage_ = Stage::kNone;
  uint64_t due_ms_ = 0;
  uint64_t watch_until_ms_ = 0;
  uint64_t starts_until_ms_ = 0;  // the successor has begun to lead by then, or it leads elsewhere
  uint32_t again_ms_ = 0;
  OwnedTimer<&Handover::run_successor> again_{*this};
  Fd lock_;
  std::vector<Fd> listeners_;  // kept until a successor leads: if one cannot start, the next one gets them
  bool led_ = false;           // the successor has begun to lead, and was announced
  unsigned told_to_stop_ = 0;
};

}  // namespace natrp
