// Tiles of 1 to 6 rows and 64 columns. gcc 12 spills the sums of the intrinsic to memory in every step, which halves the
// rate; as an operand of inline assembly each stays in its register (24 of the 32 at six rows).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace lvm {
namespace {

inline __m512i multiply_add(__m512i sums, __m512i a, __m512i b) {
#if defined(__GNUC__)
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
    return sums;
#else
    return _mm512_dpbusd_epi32(sums, a, b);
#endif
}

inline __m512i four_bytes(const uint8_t* p) {
    int32_t four;
    memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
}

// Bytes of weights to ask for before they are needed: a panel fills the nearest cache, so they come from the second.
constexpr int64_t near_bytes = 4096, far_bytes = 8192;

template <int R>
inline void tile_of(const uint8_t* a, int64_t a_step, const int8_t* b, int64_t inputs, const int32_t* start, int32_t* out,
                    Ahead ahead) {
    __m512i sums[R][4];
    int64_t next_mask = line_mask(ahead, inputs);
    int64_t row_mask = power_of_two(inputs / 8) - 1, row = 0;  // eight steps or more, each for one of the R rows
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < 4; ++j) sums[r][j] = _mm512_load_si512(start + 16 * j);
    for (int64_t k = 0; k < inputs; k += 4, b += 4 * panel) {
        if (!(k & next_mask)) ask_for_later(ahead.next), ahead.next += 64;
        if (!(k & row_mask) && row < R) {
            for (int j = 0; j < 4; ++j) ask_to_write(ahead.out[row] + ahead.column + 16 * j);
            for (int j = 0; ahead.add && j < 4; ++j) ask_for(ahead.add[row] + ahead.column + 16 * j);
            ++row;
        }
        __m512i weight[4];
        for (int j = 0; j < 4; ++j) weight[j] = _mm512_load_si512(b + 64 * j);
        for (int j = 0; j < 4; ++j) _mm_prefetch(reinterpret_cast<const char*>(b + near_bytes + 64 * j), _MM_HINT_T0);
        for (int r = 0; r < R; ++r) {
            __m512i x = four_bytes(a + r * a_step + k);
            for (int j = 0; j < 4; ++j) sums[r][j] = multiply_add(sums[r][j], x, weight[j]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < 4; ++j) _mm512_store_si512(out + r * panel + 16 * j, sums[r][j]);
}

// One row waits for its weights: two sets of sums hide the time that a dot product takes.
template <>
inline void tile_of<1>(const uint8_t* a, int64_t, const int8_t* b, int64_t inputs, const int32_t* start, int32_t* out, Ahead) {
    __m512i even[4], odd[4];
    for (int j = 0; j < 4; ++j) even[j] = _mm512_load_si512(start + 16 * j), odd[j] = _mm512_setzero_si512();
    for (int64_t k = 0; k < inputs; k += 8, b += 8 * panel) {
        __m512i x = four_bytes(a + k), y = four_bytes(a + k + 4);
        for (int j = 0; j < 4; ++j) {
            _mm_prefetch(reinterpret_cast<const char*>(b + far_bytes + 64 * j), _MM_HINT_T0);
            _mm_prefetch(reinterpret_cast<const char*>(b + far_bytes + 4 * panel + 64 * j), _MM_HINT_T0);
            even[j] = multiply_add(even[j], x, _mm512_load_si512(b + 64 * j));
            odd[j] = multiply_add(odd[j], y, _mm512_load_si512(b + 4 * panel + 64 * j));
        }
    }
    for (int j = 0; j < 4; ++j) _mm512_store_si512(out + 16 * j, _mm512_add_epi32(even[j], odd[j]));
}

inline void tile_avx512(int64_t rows, const uint8_t* a, int64_t a_step, const int8_t* b, int64_t inputs,
                        const int32_t* start, int32_t* sums, const Ahead& ahead) {
    switch (rows) {
        case 1: return tile_of<1>(a, a_step, b, inputs, start, sums, ahead);
        case 2: return tile_of<2>(a, a_step, b, inputs, start, sums, ahead);
        case 3: return tile_of<3>(a, a_step, b, inputs, start, sums, ahead);
        case 4: return tile_of<4>(a, a_step, b, inputs, start, sums, ahead);
        case 5: return tile_of<5>(a, a_step, b, inputs, start, sums, ahead);
        default: return tile_of<6>(a, a_step, b, inputs, start, sums, ahead);
    }
}

// Twelve sums in registers, all different, or the compiler would compute equal ones once.
inline int64_t spin_avx512(int64_t rounds) {
    __m512i sums[3][4], x = _mm512_set1_epi8(1);
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 4; ++j) sums[i][j] = _mm512_set1_epi32(4 * i + j);
    for (int64_t round = 0; round < rounds; ++round)
        for (int i = 0; i < 3; ++i)
            for (int j = 0; j < 4; ++j) sums[i][j] = multiply_add(sums[i][j], x, x);
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 4; ++j) x = _mm512_add_epi32(x, sums[i][j]);
    volatile int32_t sink = _mm512_cvtsi512_si32(x);
    (void)sink;
    return rounds * 12 * 64;
}

}  // namespace
}  // namespace lvm
