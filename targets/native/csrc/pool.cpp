#include "pool.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace recfx {
namespace {

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");  // no builtin names a pause here, and `yield` does nothing on most processors
#endif
}

constexpr int SPINS = 2000;  // some tens of microseconds: as long as the gap between two calls of a busy server

struct Worker {
    std::thread thread;
    std::mutex mutex;
    std::condition_variable wake;
    std::atomic<int64_t> turn{0};  // odd: a task is waiting or running
    bool stop = false;
    Task task = nullptr;
    void* state = nullptr;
    int64_t member = 0;

    void loop() {
        int64_t seen = 0;
        for (;;) {
            for (int i = 0; i < SPINS && turn.load(std::memory_order_acquire) == seen; ++i) relax();
            if (turn.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(mutex);
                wake.wait(lock, [&] { return stop || turn.load(std::memory_order_acquire) != seen; });
                if (stop) return;
            }
            task(state, member);
            seen += 2;
            turn.store(seen, std::memory_order_release);
        }
    }
    void start(Task t, void* s, int64_t m) {
        task = t, state = s, member = m;
        {
            std::lock_guard<std::mutex> lock(mutex);
            turn.fetch_add(1, std::memory_order_release);
        }
        wake.notify_one();
    }
};

struct Pool {
    std::mutex busy;
    std::vector<std::unique_ptr<Worker>> workers;

    bool grow(size_t count) {
        try {
            while (workers.size() < count) {
                auto worker = std::make_unique<Worker>();
                worker->thread = std::thread([w = worker.get()] { w->loop(); });
                workers.push_back(std::move(worker));
            }
        } catch (const std::system_error&) {
            return false;
        } catch (const std::bad_alloc&) {
            return false;
        }
        return true;
    }
    ~Pool() {
        for (auto& worker : workers) {
            {
                std::lock_guard<std::mutex> lock(worker->mutex);
                worker->stop = true;
            }
            worker->wake.notify_one();
            worker->thread.join();
        }
    }
};

// Threads do not survive a fork: the child starts with a pool of its own and forgets, without touching it, the one it inherited.
std::atomic<Pool*> current{nullptr};

Pool& pool() {
    static const bool watched = (pthread_atfork(nullptr, nullptr, [] { current.store(nullptr); }), true);
    (void)watched;
    Pool* held = current.load(std::memory_order_acquire);
    if (held) return *held;
    auto* fresh = new Pool;
    if (current.compare_exchange_strong(held, fresh)) return *fresh;
    delete fresh;
    return *held;
}

}  // namespace

void Barrier::wait() {
    const int64_t phase = __atomic_load_n(&phase_, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&arrived_, 1, __ATOMIC_ACQ_REL) == members_) {
        __atomic_store_n(&arrived_, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&phase_, phase + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int spins = 0; __atomic_load_n(&phase_, __ATOMIC_ACQUIRE) == phase; ++spins) {
        if (spins < 20000) relax();
        else std::this_thread::yield();
    }
}

bool run_team(int64_t members, Task task, void* state) {
    Pool& held = pool();
    std::unique_lock<std::mutex> lock(held.busy, std::try_to_lock);
    if (!lock.owns_lock() || !held.grow(size_t(members - 1))) return false;
    for (int64_t m = 1; m < members; ++m) held.workers[size_t(m - 1)]->start(task, state, m);
    task(state, 0);
    for (int64_t m = 1; m < members; ++m) {
        auto& turn = held.workers[size_t(m - 1)]->turn;
        for (int spins = 0; turn.load(std::memory_order_acquire) & 1; ++spins) {
            if (spins < 20000) relax();
            else std::this_thread::yield();
        }
    }
    return true;
}

}  // namespace recfx
