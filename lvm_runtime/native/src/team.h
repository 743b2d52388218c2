// A caller and its helper threads, which take the parts of one task together.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace lvm {

// One of `size` threads is the caller's. Helpers sleep while there is nothing to do, and no more are woken than a caller
// has work for; one that comes late finds no part left, so nobody waits for it. A thread takes its own parts first, the
// same ones of each task: weights that it reads again lie in its core's cache. Who calls while the helpers are taken works
// alone.
class Team {
  public:
    explicit Team(int size);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    // Try to lead until `release`, with `size` threads at most; wake the others of them.
    bool lead(int size);
    void release();

    // Call work(context, part) for each part below `parts` (at most 65535), and return when all are done. With the
    // helpers if this thread leads.
    template <class Work>
    void share(int64_t parts, bool leads, Work&& work) {
        auto call = [](void* context, int64_t part) { (*static_cast<std::remove_reference_t<Work>*>(context))(part); };
        if (leads)
            share_out(parts, call, &work);
        else
            for (int64_t part = 0; part < parts; ++part) work(part);
    }

  private:
    using Call = void (*)(void*, int64_t);
    // The parts that one thread takes first, and what tells it to start. That lies in one line of memory, apart from what
    // others write: a line takes 0.14 µs from core to core, a product of a lone query 1 to 20.
    struct alignas(128) Share {
        std::atomic<uint64_t> ticket{0};  // number of the task, end of the parts, next part: 32, 16 and 16 bits
        std::atomic<Call> call{nullptr};
        std::atomic<void*> context{nullptr};
        std::atomic<bool> led{false}, asleep{false};
        std::mutex sleeping;
        std::condition_variable wake;
    };
    void wake(Share& share);
    void share_out(int64_t parts, Call call, void* context);
    int64_t take(Share& share);
    void help(size_t thread);

    std::vector<Share> shares_;
    size_t led_ = 1;  // threads that the caller leads, itself included
    uint64_t number_ = 0;
    alignas(128) std::atomic<int64_t> done_{0};  // parts that helpers did
    alignas(128) std::atomic<bool> stop_{false};
    std::mutex leading_;
    std::vector<std::thread> helpers_;
};

// A number that changes in a child process: threads and locks of the parent are of no use there.
uint64_t process_generation();

}  // namespace lvm
