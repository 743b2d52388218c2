// NEON with the dot product of signed bytes: activations are moved by 128 first, which the zero point takes back.
#include "path.h"

#ifdef LVM_NEON_DOT
#include "cpu.h"
#include "target.h"
#if defined(__clang__)
LVM_TARGET("dotprod")
#else
LVM_TARGET("arch=armv8.2-a+dotprod")
#endif
#include "simd_neon.h"

namespace lvm {
namespace {

constexpr int64_t most_rows = 4;  // 16 sums, four weights and a row's sixteen inputs each: 24 of 32 registers

// Four of sixteen inputs with 16 columns: `lane` says which four.
template <int R, int lane>
inline void add_four(int32x4_t (&sums)[R][4], const int8x16_t (&x)[R], const int8_t* columns) {
    int8x16_t weight[4];
    for (int j = 0; j < 4; ++j) weight[j] = vld1q_s8(columns + 16 * j);
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < 4; ++j) sums[r][j] = vdotq_laneq_s32(sums[r][j], weight[j], x[r], lane);
    keep_order();
}

template <int R>
inline void tile_of(const uint8_t* a, int64_t a_step, const int8_t* b, int64_t inputs, const int32_t* start, int32_t* out) {
    for (int part = 0; part < 4; ++part) {  // 16 of the 64 columns
        int32x4_t sums[R][4];
        for (int r = 0; r < R; ++r)
            for (int j = 0; j < 4; ++j) sums[r][j] = vld1q_s32(start + part * 16 + 4 * j);
        const int8_t* columns = b + part * 64;
        for (int64_t k = 0; k < inputs; k += 16, columns += 16 * panel) {
            int8x16_t x[R];
            for (int r = 0; r < R; ++r)
                x[r] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(a + r * a_step + k), vdupq_n_u8(128)));
            add_four<R, 0>(sums, x, columns);
            add_four<R, 1>(sums, x, columns + 4 * panel);
            add_four<R, 2>(sums, x, columns + 8 * panel);
            add_four<R, 3>(sums, x, columns + 12 * panel);
        }
        for (int r = 0; r < R; ++r)
            for (int j = 0; j < 4; ++j) vst1q_s32(out + r * panel + part * 16 + 4 * j, sums[r][j]);
    }
}

inline void tile(int64_t rows, const uint8_t* a, int64_t a_step, const int8_t* b, int64_t inputs, const int32_t* start,
                 int32_t* sums, const Ahead&) {
    switch (rows) {
        case 1: return tile_of<1>(a, a_step, b, inputs, start, sums);
        case 2: return tile_of<2>(a, a_step, b, inputs, start, sums);
        case 3: return tile_of<3>(a, a_step, b, inputs, start, sums);
        default: return tile_of<4>(a, a_step, b, inputs, start, sums);
    }
}

// Sixteen sums in registers, all different, or the compiler would compute equal ones once.
int64_t spin_neon(int64_t rounds) {
    int32x4_t sums[4][4], total = vdupq_n_s32(0);
    int8x16_t x = vdupq_n_s8(1);
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) sums[i][j] = vdupq_n_s32(4 * i + j);
    for (int64_t round = 0; round < rounds; ++round)
        for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 4; ++j) sums[i][j] = vdotq_s32(sums[i][j], x, x);
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) total = vaddq_s32(total, sums[i][j]);
    volatile int32_t sink = vaddvq_s32(total);
    (void)sink;
    return rounds * 16 * 16;
}

}  // namespace
}  // namespace lvm

#include "products.inl"
#include "rows.inl"
#include "floats.inl"
LVM_TARGET_END

namespace lvm {

const Path path_neon_dot = {"neon-dot", "NEON dot product", "NEON", [] { return cpu().neon_dot; }, 128, 4, 4, run_product, pack_rows, run_float_product, run_rows, all_usable, spin_neon};

}  // namespace lvm
#endif
