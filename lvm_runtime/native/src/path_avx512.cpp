// AVX-512 VNNI: the dot product of four bytes in 512-bit registers.
#include "path.h"

#if defined(__x86_64__) || defined(_M_X64)
#include "cpu.h"
#include "target.h"
LVM_TARGET("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#include "simd_avx512.h"
#include "tile_avx512.h"

namespace lvm {
namespace {

constexpr int64_t most_rows = 6;

inline void tile(int64_t rows, const uint8_t* a, int64_t a_step, const int8_t* b, int64_t inputs, const int32_t* start,
                 int32_t* sums, const Ahead& ahead) {
    tile_avx512(rows, a, a_step, b, inputs, start, sums, ahead);
}

}  // namespace
}  // namespace lvm

#include "products.inl"
#include "rows.inl"
#include "floats.inl"
LVM_TARGET_END

namespace lvm {

const Path path_avx512_vnni = {"avx512-vnni", "AVX-512 VNNI", "AVX-512", [] { return cpu().avx512_vnni; },
                               0, 4, 6, run_product, pack_rows, run_float_product, run_rows, all_usable, spin_avx512};

}  // namespace lvm
#endif
