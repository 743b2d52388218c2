// AVX-VNNI: the dot product of four bytes in 256-bit registers, on CPUs without AVX-512.
#include "path.h"

#if defined(__x86_64__) || defined(_M_X64)
#include "cpu.h"
#include "target.h"
LVM_TARGET("avx2,fma,avxvnni")
#include "simd_avx2.h"

namespace lvm {
namespace {

constexpr int64_t most_rows = 3;

// As inline assembly for the reason that tile_avx512.h gives.
inline __m256i multiply_add(__m256i sums, __m256i a, __m256i b) {
#if defined(__GNUC__)
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(a), "x"(b));
    return sums;
#else
    return _mm256_dpbusd_avx_epi32(sums, a, b);
#endif
}

#include "tile_avx2.inl"

}  // namespace
}  // namespace lvm

#include "products.inl"
#include "rows.inl"
#include "floats.inl"
LVM_TARGET_END

namespace lvm {

const Path path_avx_vnni = {"avx-vnni", "AVX-VNNI", "AVX2", [] { return cpu().avx_vnni; }, 0, 4, 6, run_product, pack_rows, run_float_product, run_rows, all_usable, spin_avx2};

}  // namespace lvm
#endif
