#include "pool.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
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

// What the members of a team share; on the calling thread's stack.
struct Team {
    Task task;
    void* state;
    const bool gathers;                // no member begins before all have come
    std::atomic<int64_t> arrived{0};   // without the caller
    std::atomic<int32_t> verdict{0};   // 1: begin, 2: not all came
};

enum Stage : int32_t { IDLE, POSTED, TAKEN };

struct Worker {
    std::thread thread;
    std::mutex mutex;
    std::condition_variable wake;
    std::atomic<int32_t> stage{IDLE};
    bool stop = false;
    Team* team = nullptr;
    int64_t member = 0;

    bool posted() const { return stage.load(std::memory_order_acquire) == POSTED; }

    void loop() {
        for (;;) {
            for (int i = 0; i < SPINS && !posted(); ++i) relax();
            if (!posted()) {
                std::unique_lock<std::mutex> lock(mutex);
                wake.wait(lock, [&] { return stop || posted(); });
                if (stop) return;
            }
            int32_t expected = POSTED;
            if (!stage.compare_exchange_strong(expected, TAKEN, std::memory_order_acq_rel)) continue;
            if (comes(*team)) team->task(team->state, member);
            stage.store(IDLE, std::memory_order_release);
        }
    }
    static bool comes(Team& team) {
        if (!team.gathers) return true;
        team.arrived.fetch_add(1, std::memory_order_acq_rel);
        int32_t verdict;
        while (!(verdict = team.verdict.load(std::memory_order_acquire))) relax();
        return verdict == 1;
    }
    void start(Team* t, int64_t m) {
        team = t, member = m;
        {
            std::lock_guard<std::mutex> lock(mutex);
            stage.store(POSTED, std::memory_order_release);
        }
        wake.notify_one();
    }
    // Takes back what no thread has taken; false when one has.
    bool withdraw() {
        int32_t expected = POSTED;
        return stage.compare_exchange_strong(expected, IDLE, std::memory_order_acq_rel);
    }
    void finish() const {
        for (int spins = 0; stage.load(std::memory_order_acquire) != IDLE; ++spins) {
            if (spins < 20000) relax();
            else std::this_thread::yield();
        }
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

namespace {

// Waits until all others have come, for so long; false, with none of them at work, when they have not.
bool gather(Pool& held, Team& team, int64_t others, int64_t patience_ns) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::nanoseconds(patience_ns);
    while (team.arrived.load(std::memory_order_acquire) < others && std::chrono::steady_clock::now() < end) relax();
    bool missing = false;
    for (int64_t w = 0; w < others; ++w) missing |= held.workers[size_t(w)]->withdraw();
    while (!missing && team.arrived.load(std::memory_order_acquire) < others) relax();  // taken, and about to come
    team.verdict.store(missing ? 2 : 1, std::memory_order_release);
    if (missing)
        for (int64_t w = 0; w < others; ++w) held.workers[size_t(w)]->finish();
    return !missing;
}

}  // namespace

bool run_team(int64_t members, Task task, void* state, int64_t patience_ns) {
    Pool& held = pool();
    std::unique_lock<std::mutex> lock(held.busy, std::try_to_lock);
    if (!lock.owns_lock() || !held.grow(size_t(members - 1))) return false;
    Team team{task, state, patience_ns > 0};
    for (int64_t m = 1; m < members; ++m) held.workers[size_t(m - 1)]->start(&team, m);
    if (team.gathers && !gather(held, team, members - 1, patience_ns)) return false;
    task(state, 0);
    for (int64_t m = 1; m < members; ++m) {
        Worker& worker = *held.workers[size_t(m - 1)];
        if (!team.gathers && worker.withdraw()) task(state, m);  // its thread has no core: waiting would take longer
        else worker.finish();
    }
    return true;
}

}  // namespace recfx
