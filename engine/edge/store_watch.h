// edge/store_watch.h
//
// StoreWatch: the clients in the store, read again when another program (natrpctl) has changed it.
//
// Life     read(), begin() ──▶ watching ──stop()──▶ landing ──▶ landed
// Thread   the control thread.
// Never    gives up: a store that cannot be read is tried again with each look(), and the log hears of it once.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "loop/loop.h"
#include "loop/owned.h"
#include "store/store.h"

namespace natrp {

class StoreWatch {
 public:
  // on_change gets all clients as they are now. loop and store outlive this.
  StoreWatch(Loop& loop, Store& store, std::string state_dir,
             std::function<void(std::vector<ClientRecord>)> on_change);
  StoreWatch(const StoreWatch&) = delete;
  StoreWatch& operator=(const StoreWatch&) = delete;

  // All clients, before there is a watch. What changes after this, on_change gets.
  Result<std::vector<ClientRecord>> read();
  // Hears of changes from now on. A folder that cannot be watched is no failure: look() sees them, too, a little later.
  void begin();
  // Has the store changed? With each tick: the event of a last write may come before it can be seen.
  void look();
  // The end: landed() once nothing is in flight any more.
  void stop();
  bool landed() const { return !op_.in_flight; }

 private:
  void on_op(Op& op);
  Status read_change();

  Loop& loop_;
  Store& store_;
  const std::string state_dir_;
  const std::function<void(std::vector<ClientRecord>)> on_change_;
  Fd events_;
  OwnedOp<&StoreWatch::on_op> op_{*this};
  int64_t version_ = 0;   // of the clients that were given last
  bool failing_ = false;  // the log has said so
};

}  // namespace natrp
