// NEON with products of two rows by two columns, of unsigned activations and signed weights.
#include "path.h"

#ifdef LVM_I8MM
#include "cpu.h"
#include "target.h"
#if defined(__clang__)
LVM_TARGET("i8mm")
#else
LVM_TARGET("arch=armv8.2-a+i8mm")
#endif
#include "simd_neon.h"

namespace lvm {
namespace {

constexpr int64_t most_rows = 6;  // 24 sums, three pairs of rows and a few weights: 32 registers

// `P` pairs of rows. An odd last row is multiplied twice, and written once.
template <int P>
inline void tile_of(int64_t rows, const uint8_t* a, int64_t a_step, const int8_t* b, int64_t inputs, const int32_t* start,
                    int32_t* out) {
    const uint8_t* first[P];
    const uint8_t* second[P];
    for (int i = 0; i < P; ++i) {
        first[i] = a + 2 * i * a_step;
        second[i] = 2 * i + 1 < rows ? first[i] + a_step : first[i];
    }
    for (int part = 0; part < 4; ++part) {  // 16 of the 64 columns
        int32x4_t sums[P][8];                // of both rows with columns 2j and 2j + 1
        for (int j = 0; j < 8; ++j) {
            int32x2_t two = vld1_s32(start + 16 * part + 2 * j);
            for (int i = 0; i < P; ++i) sums[i][j] = vcombine_s32(two, two);
        }
        const int8_t* columns = b + 128 * part;
        for (int64_t k = 0; k < inputs; k += 8, columns += 8 * panel) {
            uint8x16_t x[P];
            for (int i = 0; i < P; ++i) x[i] = vcombine_u8(vld1_u8(first[i] + k), vld1_u8(second[i] + k));
            for (int j = 0; j < 8; ++j) {
                int8x16_t weight = vld1q_s8(columns + 16 * j);
                for (int i = 0; i < P; ++i) sums[i][j] = vusmmlaq_s32(sums[i][j], x[i], weight);
                if (j % 2) keep_order();
            }
        }
        for (int i = 0; i < P; ++i)
            for (int j = 0; j < 8; ++j) {
                int32_t* place = out + 2 * i * panel + 16 * part + 2 * j;
                vst1_s32(place, vget_low_s32(sums[i][j]));
                if (2 * i + 1 < rows) vst1_s32(place + panel, vget_high_s32(sums[i][j]));
            }
    }
}

inline void tile(int64_t rows, const uint8_t* a, int64_t a_step, const int8_t* b, int64_t inputs, const int32_t* start,
                 int32_t* sums, const Ahead&) {
    switch ((rows + 1) / 2) {
        case 1: return tile_of<1>(rows, a, a_step, b, inputs, start, sums);
        case 2: return tile_of<2>(rows, a, a_step, b, inputs, start, sums);
        default: return tile_of<3>(rows, a, a_step, b, inputs, start, sums);
    }
}

// Sixteen sums in registers, all different, or the compiler would compute equal ones once.
int64_t spin_i8mm(int64_t rounds) {
    int32x4_t sums[16], total = vdupq_n_s32(0);
    for (int i = 0; i < 16; ++i) sums[i] = vdupq_n_s32(i);
    for (int64_t round = 0; round < rounds; ++round)
        for (int i = 0; i < 16; ++i) sums[i] = vusmmlaq_s32(sums[i], vdupq_n_u8(1), vdupq_n_s8(1));
    for (int i = 0; i < 16; ++i) total = vaddq_s32(total, sums[i]);
    volatile int32_t sink = vaddvq_s32(total);
    (void)sink;
    return rounds * 16 * 32;
}

}  // namespace
}  // namespace lvm

#include "products.inl"
#include "rows.inl"
#include "floats.inl"
LVM_TARGET_END

namespace lvm {

const Path path_i8mm = {"neon-i8mm", "NEON i8mm", "NEON", [] { return cpu().i8mm; }, 0, 8, 6, run_product, pack_rows, run_float_product, run_rows, all_usable, spin_i8mm};

}  // namespace lvm
#endif
