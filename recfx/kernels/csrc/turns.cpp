#include "turns.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>

#include <thread>

namespace recfx {
namespace {

// Cores that this process may use.
int32_t cores() {
#if defined(__linux__)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return CPU_COUNT(&allowed);
#endif
    const unsigned found = std::thread::hardware_concurrency();
    return found ? int32_t(found) : 1;
}

std::atomic<Turns*> current{nullptr};

// Which threads have made calls lately. Every thread has a place in `last`; two threads may share one, and then count as one.
constexpr int PLACES = 64;
constexpr int64_t LATELY_NS = 20'000'000;  // some slices of the system's: a thread that waits for a core has called before the wait
std::atomic<int64_t> last[PLACES];         // the time of the last call
std::atomic<uint32_t> threads{0};

// Nanoseconds; where the system has one, as of its last clock tick, which takes a few nanoseconds to read.
int64_t coarse_time() {
#if defined(CLOCK_MONOTONIC_COARSE)
    constexpr clockid_t clock = CLOCK_MONOTONIC_COARSE;
#else
    constexpr clockid_t clock = CLOCK_MONOTONIC;
#endif
    timespec now;
    clock_gettime(clock, &now);
    return int64_t(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

bool more_callers_than_cores(int64_t now) {
    static const int32_t available = cores();
    int32_t callers = 0;
    for (const auto& time : last) callers += now - time.load(std::memory_order_relaxed) < LATELY_NS;
    return callers > available;
}

}  // namespace

void Turns::wait() {
    Waiter mine;
    std::unique_lock<std::mutex> lock(mutex_);
    if (early_ > 0) {
        --early_;
        return;
    }
    (last_ ? last_->next : first_) = &mine;
    last_ = &mine;
    mine.called.wait(lock, [&] { return mine.ready; });
}

void Turns::pass_on() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!first_) {
        ++early_;
        return;
    }
    Waiter* waiter = first_;
    first_ = waiter->next;
    if (!first_) last_ = nullptr;
    waiter->ready = true;
    waiter->called.notify_one();  // while the mutex is held, because the waiter is on the stack of the thread that wakes up
}

void give_way() {
    thread_local const uint32_t place = threads.fetch_add(1, std::memory_order_relaxed) % PLACES;
    thread_local int64_t counted = 0;
    thread_local bool crowded = false;
    const int64_t now = coarse_time();
    if (now != counted) {
        last[place].store(now, std::memory_order_relaxed);
        crowded = more_callers_than_cores(now);
        counted = now;
    }
    if (crowded) sched_yield();
}

Turns& turns() {
    static const bool watched = (pthread_atfork(nullptr, nullptr, [] { current.store(nullptr); }), true);
    (void)watched;
    Turns* held = current.load(std::memory_order_acquire);
    if (held) return *held;
    auto* fresh = new Turns(cores());
    if (current.compare_exchange_strong(held, fresh)) return *fresh;
    delete fresh;
    return *held;
}

}  // namespace recfx
