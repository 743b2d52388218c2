// What AVX2 and AVX-512 do alike.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace lvm {
namespace {

// Four values of four rows each, from column `k` on, as columns that lie `step` floats apart.
inline void transpose(const float* const* rows, int64_t k, float* out, int64_t step) {
    __m128 a = _mm_loadu_ps(rows[0] + k), b = _mm_loadu_ps(rows[1] + k);
    __m128 c = _mm_loadu_ps(rows[2] + k), d = _mm_loadu_ps(rows[3] + k);
    __m128 low = _mm_unpacklo_ps(a, b), high = _mm_unpackhi_ps(a, b);
    __m128 low2 = _mm_unpacklo_ps(c, d), high2 = _mm_unpackhi_ps(c, d);
    _mm_storeu_ps(out, _mm_movelh_ps(low, low2));
    _mm_storeu_ps(out + step, _mm_movehl_ps(low2, low));
    _mm_storeu_ps(out + 2 * step, _mm_movelh_ps(high, high2));
    _mm_storeu_ps(out + 3 * step, _mm_movehl_ps(high2, high));
}

}  // namespace
}  // namespace lvm
