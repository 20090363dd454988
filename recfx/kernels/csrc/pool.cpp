#include "pool.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "openmp.h"
#include "turns.h"

namespace recfx {
namespace {

using Clock = std::chrono::steady_clock;

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");  // the compiler has no builtin for a pause on this processor, and most processors ignore `yield`
#endif
}

constexpr int FEW_SPINS = 500;      // some tens of microseconds at most
constexpr int MANY_SPINS = 20'000;  // after these, another thread may need the core

int64_t nanoseconds(Clock::duration d) { return std::chrono::duration_cast<std::chrono::nanoseconds>(d).count(); }

// When calls ask for a team. A member whose core the system has given to another process delays the whole call for a slice of time, some
// milliseconds. More such calls often follow, so calls work alone for a while after one, and for twice as long after the next.
struct Policy {
    static constexpr int64_t FIRST_NS = 20'000'000, LONGEST_NS = 2'000'000'000;
    static constexpr int32_t CALM = 512;           // teams without a delay after which the next pause is half as long
    static constexpr int64_t HELD_UP_NS = 60'000;  // shorter waits come from shares of uneven size, or from a thread that wakes up

    std::atomic<int64_t> until{0};                 // the time from which calls ask for a team again
    std::atomic<int64_t> pause{FIRST_NS};
    std::atomic<int32_t> calm{0};

    bool asks(Clock::time_point now) const { return nanoseconds(now.time_since_epoch()) >= until.load(std::memory_order_relaxed); }

    void held_up(Clock::time_point now) {
        const int64_t length = pause.load(std::memory_order_relaxed);
        until.store(nanoseconds(now.time_since_epoch()) + length, std::memory_order_relaxed);
        pause.store(length * 2 < LONGEST_NS ? length * 2 : LONGEST_NS, std::memory_order_relaxed);
        calm.store(0, std::memory_order_relaxed);
    }
    void went_well() {
        if (calm.fetch_add(1, std::memory_order_relaxed) < CALM) return;
        calm.store(0, std::memory_order_relaxed);
        const int64_t length = pause.load(std::memory_order_relaxed);
        if (length > FIRST_NS) pause.store(length / 2, std::memory_order_relaxed);
    }
};
Policy policy;

thread_local int64_t barrier_ns;  // the time that this thread has waited at barriers, without short waits

struct Team {
    Task task, alone;
    void* state;
    int64_t members, patience_ns;
    std::atomic<int64_t> arrived{0};  // without the caller
    std::atomic<int32_t> verdict{0};  // 1: begin, 2: not all members came
    bool formed = false;
    Clock::time_point done{};         // when the caller had done its share

    // Waits until all others have come, for as long as patience lasts.
    bool gather() {
        const auto end = Clock::now() + std::chrono::nanoseconds(patience_ns);
        bool all;
        while (!(all = arrived.load(std::memory_order_acquire) == members - 1) && Clock::now() < end) relax();
        verdict.store(all ? 1 : 2, std::memory_order_release);
        return all;
    }
    bool joins() {
        arrived.fetch_add(1, std::memory_order_acq_rel);
        int32_t found;
        while (!(found = verdict.load(std::memory_order_acquire))) relax();
        return found == 1;
    }
    void lead() {
        formed = true;
        if (patience_ns > 0 && !gather()) alone(state, 0);
        else task(state, 0);
        done = Clock::now();
    }
    static void enter(void* held, int64_t thread, int64_t threads) {
        Team& team = *static_cast<Team*>(held);
        if (threads < team.members || thread >= team.members) return;  // a region within a region has one thread
        if (thread == 0) return team.lead();
        if (team.patience_ns == 0 || team.joins()) team.task(team.state, thread);
    }
};

struct Turn {
    Turn() { turns().begin(); }
    ~Turn() { turns().end(); }
};

// Whether a team did the work.
bool in_team(Team& team) {
    if (team.members < 2 || !has_openmp() || turns().calls() > 1) return false;
    const auto start = Clock::now();
    if (!policy.asks(start)) return false;
    barrier_ns = 0;
    const int64_t threads = openmp_threads();
    openmp_region(Team::enter, &team, threads > team.members ? threads : team.members);
    if (!team.formed) return false;
    const auto end = Clock::now();
    const int64_t waited = barrier_ns + nanoseconds(end - team.done);
    if (waited > Policy::HELD_UP_NS && 2 * waited > nanoseconds(end - start)) policy.held_up(end);
    else policy.went_well();
    return true;
}

}  // namespace

void Barrier::wait() {
    const int64_t phase = __atomic_load_n(&phase_, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&arrived_, 1, __ATOMIC_ACQ_REL) == members_) {
        __atomic_store_n(&arrived_, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&phase_, phase + 1, __ATOMIC_RELEASE);
        return;
    }
    const auto passed = [&] { return __atomic_load_n(&phase_, __ATOMIC_ACQUIRE) != phase; };
    for (int spins = 0; spins < FEW_SPINS; ++spins) {
        if (passed()) return;
        relax();
    }
    const auto start = Clock::now();
    for (int spins = FEW_SPINS; !passed(); ++spins) {
        if (spins < MANY_SPINS) relax();
        else std::this_thread::yield();
    }
    barrier_ns += nanoseconds(Clock::now() - start);
}

void run_team(int64_t members, Task task, Task alone, void* state, int64_t patience_ns) {
    const Turn mine;
    Team team{task, alone, state, members, patience_ns};
    if (in_team(team)) return;
    if (alone) return alone(state, 0);
    for (int64_t m = 0; m < members; ++m) task(state, m);
}

}  // namespace recfx
