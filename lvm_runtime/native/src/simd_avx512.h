// Sixteen floats in one AVX-512 register. Every simd_*.h defines the same operations with the same results, bit by bit.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd_x86.h"

namespace lvm {
namespace {

// A tile of floats: 28 sums, two weights and a value: 31 of 32 registers.
constexpr int64_t tile_rows = 14, tile_vectors = 2, lone_vectors = 8, tile_steps = 1;

struct F {
    __m512 v;
};

inline __mmask16 first(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline F load(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
inline void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }
inline void store(float* p, F a, int64_t n) { _mm512_mask_storeu_ps(p, first(n), a.v); }
inline F all(float x) { return {_mm512_set1_ps(x)}; }
inline F from_integers(const int32_t* p) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(p))}; }
inline F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F larger(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F smaller(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F size(F a) { return {_mm512_abs_ps(a.v)}; }
// a / 2^n for a whole number n, given as `rounder` + n, where neither overflows nor is less than 2^−126.
inline F over_power_of_two(F a, F n) {
    __m512i shifted = _mm512_slli_epi32(_mm512_castps_si512(n.v), 23);
    return {_mm512_castsi512_ps(_mm512_sub_epi32(_mm512_castps_si512(a.v), shifted))};
}
// `a` ≥ 0 with the sign of `b`.
inline F with_sign(F a, F b) {
    __m512i sign = _mm512_and_si512(_mm512_castps_si512(b.v), _mm512_set1_epi32(INT32_MIN));
    return {_mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(a.v), sign))};
}
inline __m256 upper(__m512 a) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1)); }
inline float sum(F a) {
    __m256 s = _mm256_add_ps(_mm512_castps512_ps256(a.v), upper(a.v));
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_add_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_add_ss(t, _mm_shuffle_ps(t, t, 1)));
}
inline float largest(F a) {
    __m256 s = _mm256_max_ps(_mm512_castps512_ps256(a.v), upper(a.v));
    __m128 t = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_max_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_max_ss(t, _mm_shuffle_ps(t, t, 1)));
}
// The lowest byte of each float's bits.
inline void store_bytes(uint8_t* p, F a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_castps_si512(a.v)));
}

}  // namespace
}  // namespace lvm
