#include "openmp.h"

#include <pthread.h>

#include <atomic>

#include "plan.h"

namespace recfx {
namespace {

// GOMP_parallel exists in the runtimes of GNU, LLVM and Intel.
struct Runtime {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
    int (*thread)() = nullptr;
    int (*threads)() = nullptr;
    int (*most)() = nullptr;
};

Runtime runtime;
std::atomic<bool> usable{false};

struct Entry {
    void (*enter)(void*, int64_t, int64_t);
    void* data;
};

void enter_thread(void* held) {
    const Entry& entry = *static_cast<Entry*>(held);
    entry.enter(entry.data, runtime.thread(), runtime.threads());
}

}  // namespace

bool has_openmp() { return usable.load(std::memory_order_acquire); }

int64_t openmp_threads() { return runtime.most(); }

void openmp_region(void (*enter)(void*, int64_t, int64_t), void* data, int64_t threads) {
    Entry entry{enter, data};
    runtime.parallel(enter_thread, &entry, unsigned(threads), 0);
}

}  // namespace recfx

extern "C" void recfx_use_openmp(void* parallel, void* thread, void* threads, void* most) {
    using recfx::runtime;
    runtime.parallel = reinterpret_cast<void (*)(void (*)(void*), void*, unsigned, unsigned)>(parallel);
    runtime.thread = reinterpret_cast<int (*)()>(thread);
    runtime.threads = reinterpret_cast<int (*)()>(threads);
    runtime.most = reinterpret_cast<int (*)()>(most);
    // The threads of a region do not survive a fork, and the runtime would wait for them.
    static const bool watched = pthread_atfork(nullptr, nullptr, [] { recfx::usable.store(false); }) == 0;
    recfx::usable.store(watched && parallel && thread && threads && most, std::memory_order_release);
}
