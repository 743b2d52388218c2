// Sixteen floats in an array, for any CPU.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace lvm {
namespace {

constexpr int64_t tile_rows = 4, tile_vectors = 1, lone_vectors = 2, tile_steps = 1;

struct F {
    float v[16];
};

template <class Make>
inline F make(Make value) {
    F result;
    for (int i = 0; i < 16; ++i) result.v[i] = value(i);
    return result;
}

inline F load(const float* p) { return make([&](int i) { return p[i]; }); }
inline F load(const float* p, int64_t n) { return make([&](int i) { return i < n ? p[i] : 0.0f; }); }
inline void store(float* p, F a) { std::memcpy(p, a.v, sizeof a.v); }
inline void store(float* p, F a, int64_t n) { std::memcpy(p, a.v, static_cast<size_t>(n) * 4); }
inline F all(float x) { return make([&](int) { return x; }); }
inline F from_integers(const int32_t* p) { return make([&](int i) { return static_cast<float>(p[i]); }); }
inline F operator+(F a, F b) { return make([&](int i) { return a.v[i] + b.v[i]; }); }
inline F operator-(F a, F b) { return make([&](int i) { return a.v[i] - b.v[i]; }); }
inline F operator*(F a, F b) { return make([&](int i) { return a.v[i] * b.v[i]; }); }
inline F operator/(F a, F b) { return make([&](int i) { return a.v[i] / b.v[i]; }); }
// a · b + c, rounded once. Where the CPU has no instruction for it, the C library's takes 20 times as long, or rounds
// twice (MinGW). In double the product is exact; the sum is rounded to odd, so that rounding it again, to a float, meets
// no tie that was not there.
inline float fused(float a, float b, float c) {
#if defined(__aarch64__) || defined(_M_ARM64)
    return std::fma(a, b, c);
#else
    double product = static_cast<double>(a) * b, sum = product + c, back = sum - product;
    double lost = (product - (sum - back)) + (c - back);
    uint64_t bits;
    std::memcpy(&bits, &sum, sizeof bits);
    if ((lost > 0 || lost < 0) && !(bits & 1)) bits += (lost > 0) == (sum > 0) ? 1 : -1;
    std::memcpy(&sum, &bits, sizeof bits);
    return static_cast<float>(sum);
#endif
}
inline F fma(F a, F b, F c) { return make([&](int i) { return fused(a.v[i], b.v[i], c.v[i]); }); }
inline F larger(F a, F b) { return make([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
inline F smaller(F a, F b) { return make([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
inline F size(F a) { return make([&](int i) { return std::fabs(a.v[i]); }); }
inline F over_power_of_two(F a, F n) {
    return make([&](int i) { return std::ldexp(a.v[i], -static_cast<int>(n.v[i] - rounder)); });
}
inline F with_sign(F a, F b) { return make([&](int i) { return std::copysign(a.v[i], b.v[i]); }); }
inline float sum(F a) {
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; ++i) a.v[i] = a.v[i] + a.v[i + half];
    return a.v[0];
}
inline float largest(F a) {
    for (int i = 1; i < 16; ++i) a.v[0] = a.v[i] > a.v[0] ? a.v[i] : a.v[0];
    return a.v[0];
}
inline void store_bytes(uint8_t* p, F a) {
    uint32_t bits[16];
    std::memcpy(bits, a.v, sizeof bits);
    for (int i = 0; i < 16; ++i) p[i] = static_cast<uint8_t>(bits[i]);
}
inline void transpose(const float* const* rows, int64_t k, float* out, int64_t step) {
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) out[i * step + j] = rows[j][k + i];
}

}  // namespace
}  // namespace lvm
