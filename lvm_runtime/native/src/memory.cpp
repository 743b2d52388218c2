#include <cstring>
#include <new>

#include "path.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace lvm {
namespace {

constexpr size_t line = 64, huge_page = 2 << 20;

size_t alignment(size_t bytes) { return bytes >= huge_page / 2 ? huge_page : line; }

size_t whole(size_t bytes) { return (bytes + alignment(bytes) - 1) / alignment(bytes) * alignment(bytes); }

}  // namespace

void* allocate(size_t bytes) {
    void* memory = ::operator new(whole(bytes), std::align_val_t(alignment(bytes)));
#ifdef __linux__
    // only hints: where the system refuses, pages are small. Pages that were used before are handed back first
    if (alignment(bytes) == huge_page)
        for (int advice : {MADV_DONTNEED, MADV_HUGEPAGE}) madvise(memory, whole(bytes), advice);
#endif
    return std::memset(memory, 0, whole(bytes));
}

void release(void* memory, size_t bytes) { ::operator delete(memory, std::align_val_t(alignment(bytes))); }

}  // namespace lvm
