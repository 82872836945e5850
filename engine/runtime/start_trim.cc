#include "runtime/start_trim.h"

#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "base/fd.h"
#include "base/limits.h"
#include "loop/loop.h"

namespace natrp {
namespace {

// Documentation/admin-guide/mm/pagemap.rst of the kernel: one word a page.
constexpr uint64_t kPageOfFile = uint64_t{1} << 61;
constexpr uint64_t kPageSwapped = uint64_t{1} << 62;
constexpr uint64_t kPagePresent = uint64_t{1} << 63;

struct Trim {
  Fd pagemap;
  uintptr_t page_bytes;
  size_t bytes = 0;
};

// False as well when it cannot be found out.
bool all_are_the_files(const Trim& trim, uintptr_t from, uintptr_t to) {
  std::array<uint64_t, 512> words;
  for (uintptr_t page = from / trim.page_bytes, end = to / trim.page_bytes; page < end;) {
    const size_t count = std::min<size_t>(words.size(), end - page);
    const auto wanted = static_cast<ssize_t>(count * sizeof words[0]);
    if (pread(trim.pagemap.get(), words.data(), count * sizeof words[0],
              static_cast<off_t>(page * sizeof words[0])) != wanted) {
      return false;
    }
    for (size_t i = 0; i < count; ++i) {
      const bool there = (words[i] & (kPagePresent | kPageSwapped)) != 0;
      if (there && (words[i] & kPageOfFile) == 0) return false;
    }
    page += count;
  }
  return true;
}

// dl_iterate_phdr() holds the loader's lock: no library comes or goes meanwhile, so the addresses stay what they are.
int trim_segments(dl_phdr_info* object, size_t, void* context) {
  Trim& trim = *static_cast<Trim*>(context);
  for (unsigned i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = object->dlpi_phdr[i];
    // What the loader has relocated and then made read-only lies in segments that say writable.
    if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
    const uintptr_t from = (object->dlpi_addr + segment.p_vaddr) & ~(trim.page_bytes - 1);
    const uintptr_t end = object->dlpi_addr + segment.p_vaddr + segment.p_memsz;
    const uintptr_t to = (end + trim.page_bytes - 1) & ~(trim.page_bytes - 1);
    if (!all_are_the_files(trim, from, to)) continue;
    // Refused where the operator has locked the memory: then it is to stay.
    if (madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED) == 0) trim.bytes += to - from;
  }
  return 0;
}

}  // namespace

size_t trim_file_pages() {
  Trim trim{.pagemap = Fd(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)),
            .page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE))};
  if (!trim.pagemap.valid()) return 0;
  dl_iterate_phdr(trim_segments, &trim);
  return trim.bytes;
}

StartTrim::~StartTrim() { loop_.timers().disarm(due_); }

void StartTrim::soon() {
  if (left_ == 0 || due_.armed()) return;
  --left_;
  loop_.timers().arm(due_, kStartTrimMs);
}

void StartTrim::on_due() { trim_file_pages(); }

}  // namespace natrp
