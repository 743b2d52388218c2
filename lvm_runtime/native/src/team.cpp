#include "team.h"

#include <algorithm>
#include <chrono>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace lvm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t end_shift = 16, number_shift = 32, low = 0xffff;
constexpr int spins = 2000;  // before other threads may have the CPU
// An idle helper sleeps after this: as long as sleeping and waking takes.
constexpr auto spin_time = std::chrono::microseconds(50);

void relax(int turn) {
    if (turn > spins) {
        std::this_thread::yield();
        return;
    }
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ volatile("yield");
#endif
}

std::atomic<uint64_t> generation{0};

}  // namespace

uint64_t process_generation() {
#if defined(__unix__) || defined(__APPLE__)
    static const int watched = pthread_atfork(nullptr, nullptr, [] { ++generation; });
    (void)watched;
#endif
    return generation;
}

Team::Team(int size) : shares_(size) {
    for (size_t i = 1; i < shares_.size(); ++i) helpers_.emplace_back([this, i] { help(i); });
}

Team::~Team() {
    stop_ = true;
    for (Share& share : shares_) wake(share);
    for (std::thread& helper : helpers_) helper.join();
}

// To be called after what it waits for was set: a helper says that it sleeps before it looks for the last time.
void Team::wake(Share& share) {
    if (!share.asleep) return;
    { std::lock_guard<std::mutex> lock(share.sleeping); }
    share.wake.notify_one();
}

bool Team::lead(int size) {
    if (size < 2 || helpers_.empty() || !leading_.try_lock()) return false;
    led_ = std::min(static_cast<size_t>(size), shares_.size());
    for (size_t i = 1; i < led_; ++i) {
        shares_[i].led = true;
        wake(shares_[i]);
    }
    return true;
}

void Team::release() {
    for (size_t i = 1; i < led_; ++i) shares_[i].led = false;
    leading_.unlock();
}

// Do the parts of a share that nobody has taken; return how many.
int64_t Team::take(Share& share) {
    int64_t count = 0;
    uint64_t ticket = share.ticket.load(std::memory_order_acquire);
    while ((ticket & low) < (ticket >> end_shift & low)) {
        if (!share.ticket.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
        Call call = share.call.load(std::memory_order_relaxed);  // the leader waits for the part, so the task stays
        call(share.context.load(std::memory_order_relaxed), static_cast<int64_t>(ticket & low));
        ++count, ++ticket;
    }
    return count;
}

void Team::share_out(int64_t parts, Call call, void* context) {
    done_.store(0, std::memory_order_relaxed);
    uint64_t number = ++number_ << number_shift, stop = static_cast<uint64_t>(parts), size = std::min<uint64_t>(led_, stop);
    for (uint64_t i = size; i-- > 0;) {  // the leader's last: helpers begin meanwhile
        uint64_t start = static_cast<uint64_t>(parts) * i / size;
        shares_[i].call.store(call, std::memory_order_relaxed);
        shares_[i].context.store(context, std::memory_order_relaxed);
        shares_[i].ticket.store(number | stop << end_shift | start, std::memory_order_release);
        stop = start;
    }
    int64_t left = parts;
    for (uint64_t i = 0; i < size; ++i) left -= take(shares_[i]);
    for (int turn = 0; done_.load(std::memory_order_acquire) < left; ++turn) relax(turn);
}

// A helper watches its own line alone, and looks for parts of others once it has done its own.
void Team::help(size_t thread) {
    Share& own = shares_[thread];
    uint64_t seen = 0;
    int turn = 0;
    Clock::time_point idle_since{};
    while (!stop_.load(std::memory_order_acquire)) {
        if (uint64_t number = own.ticket.load(std::memory_order_acquire) >> number_shift; number != seen) {
            seen = number;
            for (size_t i = 0; i < shares_.size(); ++i)
                if (int64_t count = take(shares_[(thread + i) % shares_.size()])) done_.fetch_add(count, std::memory_order_acq_rel);
            turn = 0, idle_since = Clock::time_point();
        } else if (own.led.load(std::memory_order_acquire)) {
            relax(++turn);
            idle_since = Clock::time_point();
        } else if (idle_since == Clock::time_point()) {
            idle_since = Clock::now();
        } else if (Clock::now() - idle_since < spin_time) {
            relax(0);
        } else {
            own.asleep = true;
            std::unique_lock<std::mutex> lock(own.sleeping);
            own.wake.wait(lock, [&] { return stop_ || own.led; });
            own.asleep = false;
            turn = 0, idle_since = Clock::time_point();
        }
    }
}

}  // namespace lvm
