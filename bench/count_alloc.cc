// libcount_alloc.so: counts what a program asks its allocator for, from outside.
//
//     NATRP_COUNT_ALLOC=FILE LD_PRELOAD=libcount_alloc.so PROGRAM ...
//
// FILE's first 8 bytes are the number of allocations (malloc and its kin, realloc, every operator new) of the
// process and of all that it forks and executes; whoever measures reads them while the program runs. Frees
// are not counted. It stands before the program's own allocator, mimalloc or another, and hands every call on
// to it: an allocator defines both malloc and operator new, hence both are counted, and a call that one
// makes of the other counts once.
//
// Any thread. It costs one atomic addition per call; never measure time with it.

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace {

using Count = std::atomic<uint64_t>;
static_assert(sizeof(Count) == 8 && Count::is_always_lock_free);

constexpr size_t kFileBytes = 4096;

Count early{0};  // until the file is there
std::atomic<Count*> count{&early};
[[gnu::tls_model("initial-exec")]] thread_local bool inside = false;

[[gnu::constructor]] void open_file() {
    const char* const path = std::getenv("NATRP_COUNT_ALLOC");
    const int fd = path == nullptr ? -1 : ::open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ::ftruncate(fd, kFileBytes) < 0) {
        return;  // whoever measures finds that nothing was counted
    }
    void* const file = ::mmap(nullptr, kFileBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ::close(fd);
    if (file != MAP_FAILED) {
        auto* const shared = static_cast<Count*>(file);
        count = shared;
        *shared += early.exchange(0);
    }
}

// The definition behind ours; dlsym() allocates nothing when it finds one.
template <typename Function>
Function* next(const char* symbol) {
    void* const found = ::dlsym(RTLD_NEXT, symbol);
    if (found == nullptr) {
        std::abort();
    }
    return reinterpret_cast<Function*>(found);
}

class Counted {
public:
    Counted() : outermost_(!inside) {
        if (outermost_) {
            inside = true;
            count.load(std::memory_order_relaxed)->fetch_add(1, std::memory_order_relaxed);
        }
    }
    ~Counted() {
        if (outermost_) {
            inside = false;
        }
    }
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;

private:
    bool outermost_;
};

}  // namespace

// Each hands its arguments on to the next definition of the same symbol.
#define HAND_ON(Function, symbol, ...)                      \
    static Function* const behind = next<Function>(symbol); \
    const Counted counted;                                  \
    return behind(__VA_ARGS__)

using OneSize = void*(size_t);
using TwoSizes = void*(size_t, size_t);
using Again = void*(void*, size_t);
using AgainItems = void*(void*, size_t, size_t);
using IntoPointer = int(void**, size_t, size_t);
using QuietNew = void*(size_t, const std::nothrow_t&);
using AlignedNew = void*(size_t, std::align_val_t);
using QuietAlignedNew = void*(size_t, std::align_val_t, const std::nothrow_t&);

extern "C" {
void* malloc(size_t size) noexcept {
    HAND_ON(OneSize, "malloc", size);
}
void* calloc(size_t items, size_t size) noexcept {
    HAND_ON(TwoSizes, "calloc", items, size);
}
void* realloc(void* old, size_t size) noexcept {
    HAND_ON(Again, "realloc", old, size);
}
void* reallocarray(void* old, size_t items, size_t size) noexcept {
    HAND_ON(AgainItems, "reallocarray", old, items, size);
}
int posix_memalign(void** made, size_t alignment, size_t size) noexcept {
    HAND_ON(IntoPointer, "posix_memalign", made, alignment, size);
}
void* aligned_alloc(size_t alignment, size_t size) noexcept {
    HAND_ON(TwoSizes, "aligned_alloc", alignment, size);
}
void* memalign(size_t alignment, size_t size) noexcept {
    HAND_ON(TwoSizes, "memalign", alignment, size);
}
}

void* operator new(size_t size) {
    HAND_ON(OneSize, "_Znwm", size);
}
void* operator new[](size_t size) {
    HAND_ON(OneSize, "_Znam", size);
}
void* operator new(size_t size, const std::nothrow_t& quiet) noexcept {
    HAND_ON(QuietNew, "_ZnwmRKSt9nothrow_t", size, quiet);
}
void* operator new[](size_t size, const std::nothrow_t& quiet) noexcept {
    HAND_ON(QuietNew, "_ZnamRKSt9nothrow_t", size, quiet);
}
void* operator new(size_t size, std::align_val_t alignment) {
    HAND_ON(AlignedNew, "_ZnwmSt11align_val_t", size, alignment);
}
void* operator new[](size_t size, std::align_val_t alignment) {
    HAND_ON(AlignedNew, "_ZnamSt11align_val_t", size, alignment);
}
void* operator new(size_t size, std::align_val_t alignment, const std::nothrow_t& quiet) noexcept {
    HAND_ON(QuietAlignedNew, "_ZnwmSt11align_val_tRKSt9nothrow_t", size, alignment, quiet);
}
void* operator new[](size_t size, std::align_val_t alignment, const std::nothrow_t& quiet) noexcept {
    HAND_ON(QuietAlignedNew, "_ZnamSt11align_val_tRKSt9nothrow_t", size, alignment, quiet);
}
