#include "team.h"

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
    {
        std::lock_guard<std::mutex> lock(sleeping_);
        stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& helper : helpers_) helper.join();
}

bool Team::lead() {
    if (helpers_.empty() || !leading_.try_lock()) return false;
    {
        std::lock_guard<std::mutex> lock(sleeping_);
        led_ = true;
    }
    wake_.notify_all();
    return true;
}

void Team::release() {
    led_ = false;
    leading_.unlock();
}

// Do parts of the task at hand until none is left, this thread's own first; return how many.
int64_t Team::work(size_t thread) {
    int64_t count = 0;
    for (size_t i = 0; i < shares_.size(); ++i) {
        Share& share = shares_[(thread + i) % shares_.size()];
        uint64_t ticket = share.ticket.load(std::memory_order_acquire);
        while ((ticket & low) < (ticket >> end_shift & low)) {
            if (!share.ticket.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
            Call call = share.call.load(std::memory_order_relaxed);  // the leader waits for the part, so the task stays
            call(share.context.load(std::memory_order_relaxed), static_cast<int64_t>(ticket & low));
            ++count, ++ticket;
        }
    }
    return count;
}

void Team::share_out(int64_t parts, Call call, void* context) {
    done_.store(0, std::memory_order_relaxed);
    uint64_t number = ++number_ << number_shift, size = shares_.size(), stop = static_cast<uint64_t>(parts);
    for (uint64_t i = size; i-- > 0;) {  // the leader's last: helpers begin meanwhile
        uint64_t start = static_cast<uint64_t>(parts) * i / size;
        shares_[i].call.store(call, std::memory_order_relaxed);
        shares_[i].context.store(context, std::memory_order_relaxed);
        shares_[i].ticket.store(number | stop << end_shift | start, std::memory_order_release);
        stop = start;
    }
    int64_t left = parts - work(0);
    for (int turn = 0; done_.load(std::memory_order_acquire) < left; ++turn) relax(turn);
}

void Team::help(size_t thread) {
    int turn = 0;
    Clock::time_point idle_since{};
    while (!stop_.load(std::memory_order_acquire)) {
        if (int64_t count = work(thread)) {
            done_.fetch_add(count, std::memory_order_acq_rel);
            turn = 0, idle_since = Clock::time_point();
        } else if (led_.load(std::memory_order_acquire)) {
            relax(++turn);
            idle_since = Clock::time_point();
        } else if (idle_since == Clock::time_point()) {
            idle_since = Clock::now();
        } else if (Clock::now() - idle_since < spin_time) {
            relax(0);
        } else {
            std::unique_lock<std::mutex> lock(sleeping_);
            wake_.wait(lock, [this] { return stop_ || led_; });
            turn = 0;
        }
    }
}

}  // namespace lvm
