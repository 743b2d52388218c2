#include "cpu.h"

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif
#endif

namespace lvm {
namespace {

#if defined(__x86_64__) || defined(_M_X64)

struct Registers {
    uint32_t a, b, c, d;
};

Registers identify(uint32_t leaf, uint32_t sub) {
    Registers r{};
#if defined(_MSC_VER)
    int values[4];
    __cpuidex(values, static_cast<int>(leaf), static_cast<int>(sub));
    r = {uint32_t(values[0]), uint32_t(values[1]), uint32_t(values[2]), uint32_t(values[3])};
#else
    __cpuid_count(leaf, sub, r.a, r.b, r.c, r.d);
#endif
    return r;
}

// The registers that the system saves for a program when it switches to another.
uint64_t saved_registers() {
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return uint64_t{high} << 32 | low;
#endif
}

// AMX needs the kernel's leave, once per process.
bool may_use_tiles() {
#if defined(__linux__)
    constexpr long request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}

Cpu look() {
    Cpu found;
    if (identify(0, 0).a < 7) return found;
    Registers one = identify(1, 0), seven = identify(7, 0), more = seven.a >= 1 ? identify(7, 1) : Registers{};
    auto bit = [](uint32_t value, int n) { return (value >> n & 1) != 0; };
    if (!bit(one.c, 27)) return found;
    uint64_t saved = saved_registers();
    constexpr uint64_t avx = 0x6, avx512 = 0xe6, tiles = 0x60000;
    found.avx2 = (saved & avx) == avx && bit(seven.b, 5) && bit(one.c, 12);
    found.avx_vnni = found.avx2 && bit(more.a, 4);
    bool wide = bit(seven.b, 16) && bit(seven.b, 17) && bit(seven.b, 30) && bit(seven.b, 31);  // F, DQ, BW, VL
    found.avx512_vnni = found.avx2 && (saved & avx512) == avx512 && wide && bit(seven.c, 11);
    found.amx = found.avx512_vnni && (saved & tiles) == tiles && bit(seven.d, 24) && bit(seven.d, 25) && may_use_tiles();
    return found;
}

#else

Cpu look() {
    Cpu found;
#if defined(__aarch64__) && defined(__APPLE__)
    found.neon_dot = true;  // every Mac has had it since the M1
    int has = 0;
    size_t size = sizeof has;
    found.i8mm = sysctlbyname("hw.optional.arm.FEAT_I8MM", &has, &size, nullptr, 0) == 0 && has;
#elif defined(__aarch64__) && defined(__linux__)
    constexpr unsigned long dot_product = 1ul << 20, i8mm = 1ul << 13;
    found.neon_dot = (getauxval(AT_HWCAP) & dot_product) != 0;
    found.i8mm = found.neon_dot && (getauxval(AT_HWCAP2) & i8mm) != 0;
#endif
    return found;
}

#endif

}  // namespace

const Cpu& cpu() {
    static const Cpu found = look();
    return found;
}

}  // namespace lvm
