// base/list.h
//
// List<T, &T::link>: an intrusive doubly linked list. An element is a member of at most one list through one
// ListLink and belongs to whoever owns the element; the list owns nothing and allocates nothing.
//
// Thread   the thread that owns the list. Nothing here is locked.
#pragma once

#include <cstdint>

#include "base/check.h"

namespace natrp {

struct ListLink {
  ListLink* next = nullptr;
  ListLink* prev = nullptr;
  bool linked() const { return next != nullptr; }
  void unlink() {
    if (next == nullptr) return;
    prev->next = next;
    next->prev = prev;
    next = prev = nullptr;
  }
};

template <typename T, ListLink T::*kLink>
class List {
 public:
  List() { head_.next = head_.prev = &head_; }
  List(const List&) = delete;
  List& operator=(const List&) = delete;

  bool empty() const { return head_.next == &head_; }
  void push_back(T& element) { insert_before(head_, element.*kLink); }
  void push_front(T& element) { insert_before(*head_.next, element.*kLink); }
  T* front() { return empty() ? nullptr : owner(head_.next); }
  T* back() { return empty() ? nullptr : owner(head_.prev); }
  T* pop_front() {
    T* element = front();
    if (element != nullptr) (element->*kLink).unlink();
    return element;
  }
  T* pop_back() {
    T* element = back();
    if (element != nullptr) (element->*kLink).unlink();
    return element;
  }
  // Calls f(element) for each; f may unlink the element it is given, and no other.
  template <typename F>
  void for_each(F&& f) {
    for (ListLink* at = head_.next; at != &head_;) {
      ListLink* next = at->next;
      f(*owner(at));
      at = next;
    }
  }

 private:
  static void insert_before(ListLink& at, ListLink& link) {
    NATRP_CHECK(!link.linked(), "an element may be in one list only");
    link.next = &at;
    link.prev = at.prev;
    at.prev->next = &link;
    at.prev = &link;
  }
  static T* owner(ListLink* link) {
    // offsetof for a pointer to member: no object is touched, and the address is not null because UBSan and clang
    // rightly object to arithmetic on null.
    T* nowhere = reinterpret_cast<T*>(uintptr_t{1} << 20);
    const auto offset = reinterpret_cast<char*>(&(nowhere->*kLink)) - reinterpret_cast<char*>(nowhere);
    return reinterpret_cast<T*>(reinterpret_cast<char*>(link) - offset);
  }
  ListLink head_;
};

}  // namespace natrp
