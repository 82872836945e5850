// count_alloc_control: a program whose number of allocations is known, to see that libcount_alloc.so counts right.
//
//     count_alloc_control ROUNDS        prints how many allocations it made beyond those of ROUNDS 0
//
// It is linked as the programs of the engine are, with the same allocator.

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>
#include <thread>

namespace {

// The compiler may leave out an allocation that nobody could see: these are seen.
void* volatile seen = nullptr;

uint64_t allocations = 0;

void* made(void* pointer) {
    ++allocations;
    seen = pointer;
    return seen;
}

struct alignas(128) Wide {
    char bytes[128];
};

void one_round() {
    std::free(made(std::malloc(40)));
    std::free(made(std::calloc(3, 40)));
    void* grown = made(std::realloc(nullptr, 40));
    std::free(made(std::realloc(grown, 4000)));
    std::free(made(::strdup("what the C library asks for")));
    std::free(made(std::aligned_alloc(64, 128)));
    void* aligned = nullptr;
    if (::posix_memalign(&aligned, 64, 128) == 0) {
        std::free(made(aligned));
    }
    delete static_cast<int*>(made(new int));
    delete[] static_cast<char*>(made(new char[100]));
    delete static_cast<int*>(made(new (std::nothrow) int));
    delete[] static_cast<char*>(made(new (std::nothrow) char[100]));
    delete static_cast<Wide*>(made(new Wide));
    delete[] static_cast<Wide*>(made(new Wide[2]));
    delete static_cast<Wide*>(made(new (std::nothrow) Wide));
}

}  // namespace

int main(int argc, char** argv) {
    const std::string_view text = argc == 2 ? argv[1] : "";
    uint64_t rounds = 0;
    if (text.empty() || std::from_chars(text.data(), text.data() + text.size(), rounds).ec != std::errc()) {
        std::fprintf(stderr, "count_alloc_control: the argument is the number of rounds\n");
        return 2;
    }
    // Another thread than the first: each has its own part of the counter's state.
    std::thread([rounds] {
        for (uint64_t i = 0; i < rounds; ++i) {
            one_round();
        }
    }).join();
    std::printf("%llu\n", static_cast<unsigned long long>(allocations));
    return 0;
}
