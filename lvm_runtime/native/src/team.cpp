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

constexpr uint64_t parts_shift = 16, number_shift = 32, low = 0xffff;
constexpr int spins = 2000;  // some 50 µs: as long as sleeping and waking takes

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

Team::Team(int size) {
    for (int i = 1; i < size; ++i) helpers_.emplace_back([this] { help(); });
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

// Take a part of the task at hand, if there is one: its number is in the lowest bits of `ticket`.
bool Team::take(uint64_t& ticket) {
    ticket = ticket_.load(std::memory_order_acquire);
    while ((ticket & low) < (ticket >> parts_shift & low))
        if (ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) return true;
    return false;
}

void Team::share_out(int64_t parts, Call call, void* context) {
    call_.store(call, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    uint64_t number = (ticket_.load(std::memory_order_relaxed) >> number_shift) + 1;
    ticket_.store(number << number_shift | static_cast<uint64_t>(parts) << parts_shift, std::memory_order_release);
    uint64_t ticket;
    while (take(ticket)) {
        call(context, static_cast<int64_t>(ticket & low));
        done_.fetch_add(1, std::memory_order_acq_rel);
    }
    for (int turn = 0; done_.load(std::memory_order_acquire) < parts; ++turn) relax(turn);
}

void Team::help() {
    int idle = 0;
    while (!stop_.load(std::memory_order_acquire)) {
        uint64_t ticket;
        if (take(ticket)) {  // the leader waits for this part, so the task stays what it is
            call_.load(std::memory_order_relaxed)(context_.load(std::memory_order_relaxed), static_cast<int64_t>(ticket & low));
            done_.fetch_add(1, std::memory_order_acq_rel);
            idle = 0;
        } else if (led_.load(std::memory_order_acquire) || ++idle < spins) {
            relax(led_ ? ++idle : 0);
        } else {
            std::unique_lock<std::mutex> lock(sleeping_);
            wake_.wait(lock, [this] { return stop_ || led_; });
            idle = 0;
        }
    }
}

}  // namespace lvm
