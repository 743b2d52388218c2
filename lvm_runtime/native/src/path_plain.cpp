// Plain C++: any CPU, and the reference for the other paths.
#include "path.h"
#include "target.h"
#include "simd_plain.h"

namespace lvm {
namespace {

constexpr int64_t most_rows = 4;

void tile(int64_t rows, const uint8_t* a, int64_t a_step, const int8_t* b, int64_t inputs, const int32_t* start,
          int32_t* sums, const Ahead& = {}) {
    for (int64_t i = 0; i < rows * panel; ++i) sums[i] = start[i % panel];
    for (int64_t k = 0; k < inputs; k += 4, b += 4 * panel)
        for (int64_t r = 0; r < rows; ++r) {
            const uint8_t* x = a + r * a_step + k;
            for (int64_t n = 0; n < panel; ++n)
                sums[r * panel + n] += x[0] * b[4 * n] + x[1] * b[4 * n + 1] + x[2] * b[4 * n + 2] + x[3] * b[4 * n + 3];
        }
}

// Plain C++ cannot name registers; a tile's operands lie in the nearest cache.
int64_t spin_plain(int64_t rounds) {
    constexpr int64_t inputs = 64;
    static const uint8_t a[most_rows * inputs] = {};
    static const int8_t b[inputs * panel] = {};
    static const int32_t start[panel] = {};
    int32_t sums[most_rows * panel];
    volatile int32_t sink = 0;
    for (int64_t i = 0; i < rounds; ++i) {
        tile(most_rows, a, inputs, b, inputs, start, sums);
        sink = sums[i % panel];
    }
    (void)sink;
    return rounds * most_rows * inputs * panel;
}

}  // namespace
}  // namespace lvm

#include "products.inl"
#include "rows.inl"
#include "floats.inl"

namespace lvm {

const Path path_plain = {"plain", "plain C++", "plain C++", [] { return true; }, 0, 4, 4, run_product, pack_rows, run_float_product, run_rows, all_usable, spin_plain};

}  // namespace lvm
