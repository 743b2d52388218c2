// Sixteen floats in four NEON registers.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace lvm {
namespace {

// A tile of floats: 24 sums, four weights and a value: 29 of 32 registers.
constexpr int64_t tile_rows = 6, tile_vectors = 1, lone_vectors = 4, tile_steps = 1;

// No load moves past this: GCC would ask for many weights at once, and then have no registers for the sums.
inline void keep_order() {
#if defined(__GNUC__)
    asm volatile("" ::: "memory");
#endif
}

struct F {
    float32x4_t v[4];
};

#define LVM_EACH(value) \
    F r;                \
    for (int i = 0; i < 4; ++i) r.v[i] = value; \
    return r

inline F load(const float* p) { LVM_EACH(vld1q_f32(p + 4 * i)); }
inline F load(const float* p, int64_t n) {
    float part[16] = {};
    std::memcpy(part, p, static_cast<size_t>(n) * 4);
    return load(part);
}
inline void store(float* p, F a) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
}
inline void store(float* p, F a, int64_t n) {
    float part[16];
    store(part, a);
    std::memcpy(p, part, static_cast<size_t>(n) * 4);
}
inline F all(float x) { LVM_EACH(vdupq_n_f32(x)); }
inline F from_integers(const int32_t* p) { LVM_EACH(vcvtq_f32_s32(vld1q_s32(p + 4 * i))); }
inline F operator+(F a, F b) { LVM_EACH(vaddq_f32(a.v[i], b.v[i])); }
inline F operator-(F a, F b) { LVM_EACH(vsubq_f32(a.v[i], b.v[i])); }
inline F operator*(F a, F b) { LVM_EACH(vmulq_f32(a.v[i], b.v[i])); }
inline F operator/(F a, F b) { LVM_EACH(vdivq_f32(a.v[i], b.v[i])); }
inline F fma(F a, F b, F c) { LVM_EACH(vfmaq_f32(c.v[i], a.v[i], b.v[i])); }
inline F larger(F a, F b) { LVM_EACH(vmaxq_f32(a.v[i], b.v[i])); }
inline F smaller(F a, F b) { LVM_EACH(vminq_f32(a.v[i], b.v[i])); }
inline F size(F a) { LVM_EACH(vabsq_f32(a.v[i])); }
inline F over_power_of_two(F a, F n) {
    LVM_EACH(vreinterpretq_f32_s32(vsubq_s32(vreinterpretq_s32_f32(a.v[i]), vshlq_n_s32(vreinterpretq_s32_f32(n.v[i]), 23))));
}
inline F with_sign(F a, F b) { LVM_EACH(vbslq_f32(vdupq_n_u32(0x80000000u), b.v[i], a.v[i])); }
inline float sum(F a) {
    float32x4_t s = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    float32x2_t t = vadd_f32(vget_low_f32(s), vget_high_f32(s));
    return vget_lane_f32(t, 0) + vget_lane_f32(t, 1);
}
inline float largest(F a) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3]))); }
inline void store_bytes(uint8_t* p, F a) {
    uint16x4_t words[4];
    for (int i = 0; i < 4; ++i) words[i] = vmovn_u32(vreinterpretq_u32_f32(a.v[i]));
    vst1_u8(p, vmovn_u16(vcombine_u16(words[0], words[1])));
    vst1_u8(p + 8, vmovn_u16(vcombine_u16(words[2], words[3])));
}
inline void transpose(const float* const* rows, int64_t k, float* out, int64_t step) {
    float32x4x2_t ab = vtrnq_f32(vld1q_f32(rows[0] + k), vld1q_f32(rows[1] + k));
    float32x4x2_t cd = vtrnq_f32(vld1q_f32(rows[2] + k), vld1q_f32(rows[3] + k));
    for (int i = 0; i < 2; ++i) {
        vst1q_f32(out + i * step, vcombine_f32(vget_low_f32(ab.val[i]), vget_low_f32(cd.val[i])));
        vst1q_f32(out + (i + 2) * step, vcombine_f32(vget_high_f32(ab.val[i]), vget_high_f32(cd.val[i])));
    }
}

#undef LVM_EACH

}  // namespace
}  // namespace lvm
