// AMX: tiles of 16 rows × 64 bytes times 16 × 64 bytes, for 13 rows and more; below that, AVX-512 VNNI.
#include "path.h"

#if defined(__x86_64__) && defined(__linux__)
#include "cpu.h"
#include "target.h"
LVM_TARGET("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,amx-tile,amx-int8,prfchw")
#include "simd_avx512.h"
#include "tile_avx512.h"

namespace lvm {
namespace {

constexpr int64_t most_rows = 32, fewest_rows = 13, most_rows_avx512 = 6;

struct alignas(64) TileSizes {
    uint8_t palette = 1, start = 0, unused[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Sums of 16 or 32 rows and the 32 columns from `c` on in tiles 0 to 3, rows in 4 and 5, weights in 6 and 7. Some of the
// lines that take the results, and of the next panel, are asked for in each step, while tiles are multiplied.
template <bool two>
inline void columns(int64_t rows, const uint8_t* a, int64_t a_step, const int8_t* b, int64_t inputs,
                    const int32_t* start, int32_t* sums, const Ahead& ahead, int64_t c) {
    constexpr int64_t b_step = 4 * panel;
    int64_t column = ahead.column + c, lines = ahead.lines * 32 / inputs;  // in each step
    const int8_t* next = ahead.next + c / 32 * lines * inputs;
    int64_t row = 0, share = (rows * 64 + inputs - 1) / inputs;
    _tile_loadd(0, start, 0);  // the same row 16 times
    _tile_loadd(1, start + 16, 0);
    if (two) {
        _tile_loadd(2, start, 0);
        _tile_loadd(3, start + 16, 0);
    }
    for (int64_t k = 0; k < inputs; k += 64, b += 16 * b_step) {
        for (int64_t stop = row + share < rows ? row + share : rows; row < stop; ++row) {
            __builtin_prefetch(ahead.out[row] + column, 1);
            __builtin_prefetch(ahead.out[row] + column + 16, 1);
        }
        for (int64_t i = 0; i < lines; ++i, next += 64) ask_for_later(next);
        _tile_loadd(4, a + k, a_step);
        _tile_loadd(6, b, b_step);
        _tile_dpbusd(0, 4, 6);
        _tile_loadd(7, b + 64, b_step);
        _tile_dpbusd(1, 4, 7);
        if (two) {
            _tile_loadd(5, a + 16 * a_step + k, a_step);
            _tile_dpbusd(2, 5, 6);
            _tile_dpbusd(3, 5, 7);
        }
    }
    _tile_stored(0, sums, panel * 4);
    _tile_stored(1, sums + 16, panel * 4);
    if (two) {
        _tile_stored(2, sums + 16 * panel, panel * 4);
        _tile_stored(3, sums + 16 * panel + 16, panel * 4);
    }
}

inline void tile(int64_t rows, const uint8_t* a, int64_t a_step, const int8_t* b, int64_t inputs, const int32_t* start,
                 int32_t* sums, const Ahead& ahead) {
    if (rows <= most_rows_avx512) return tile_avx512(rows, a, a_step, b, inputs, start, sums, ahead);
    auto run = rows > 16 ? columns<true> : columns<false>;
    for (int64_t c = 0; c < panel; c += 32) run(rows, a, a_step, b + 4 * c, inputs, start + c, sums + c, ahead, c);
}

}  // namespace
}  // namespace lvm

#include "products.inl"
#include "rows.inl"
#include "floats.inl"

namespace lvm {
namespace {

void run_product_in_tiles(const ProductCall& call) {
    if (call.rows < fewest_rows) return run_tiles(call, most_rows_avx512);
    static const TileSizes sizes;
    _tile_loadconfig(&sizes);
    run_product(call);
    _tile_release();
}

int64_t spin_in_tiles(int64_t rounds) {
    static const TileSizes sizes;
    _tile_loadconfig(&sizes);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (int64_t i = 0; i < rounds; ++i) {
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
    }
    _tile_release();
    return rounds * 4 * 16 * 16 * 64;
}

}  // namespace
}  // namespace lvm
LVM_TARGET_END

namespace lvm {

const Path path_amx = {"amx", "AMX int8", "AVX-512", [] { return cpu().amx; }, 0, 4, 32, run_product_in_tiles, pack_rows, run_float_product, run_rows, all_usable, spin_in_tiles};

}  // namespace lvm
#endif
