// AVX2: bytes are multiplied in pairs that add up in 16 bits. They do not saturate, because no two neighbouring weights
// add up to more than 128 (the plan's reader refuses others).
#include "path.h"

#if defined(__x86_64__) || defined(_M_X64)
#include "cpu.h"
#include "target.h"
LVM_TARGET("avx2,fma")
#include "simd_avx2.h"

namespace lvm {
namespace {

constexpr int64_t most_rows = 3;

inline __m256i multiply_add(__m256i sums, __m256i a, __m256i b) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
}

#include "tile_avx2.inl"

}  // namespace
}  // namespace lvm

#include "products.inl"
#include "rows.inl"
#include "floats.inl"
LVM_TARGET_END

namespace lvm {

const Path path_avx2 = {"avx2", "AVX2", "AVX2", [] { return cpu().avx2; }, 0, 4, 6, run_product, pack_rows, run_float_product, run_rows, all_usable, spin_avx2};

}  // namespace lvm
#endif
