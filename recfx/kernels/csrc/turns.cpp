#include "turns.h"

#include <pthread.h>
#include <sched.h>

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
