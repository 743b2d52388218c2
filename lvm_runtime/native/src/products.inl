// Products of integers, panel by panel, over a path's `tile`, which adds the products of up to `most_rows` rows and 64
// columns to `start` [64], and may ask for memory ahead. What makes floats of the sums is the same in every path.

namespace lvm {
namespace {

// Write a row at a time: rows lie a power of two apart, and columns first would send all of them to a few cache lines.
// A bias is rounded on its own, not fused: a document adds what a position makes of it after the product, with equal bits.
inline void write_rows(const ProductCall& call, int64_t row, int64_t rows, int64_t p, const int32_t* sums) {
    const Packed& weight = *call.weight;
    int64_t column = p * panel, left = weight.outputs - column, filled = round_up(weight.outputs, panel);
    F scales[4], biases[4];
    for (int j = 0; j < 4; ++j) scales[j] = load(weight.scale.data() + column + 16 * j);
    for (int j = 0; j < 4; ++j) biases[j] = load(weight.bias.data() + column + 16 * j);
    for (int64_t i = row; i < row + rows; ++i, sums += panel) {
        if (weight.bias_rows > 1)
            for (int j = 0; j < 4; ++j)
                biases[j] = load(weight.bias.data() + i % weight.bias_rows * filled + column + 16 * j);
        F scale = all(call.scale[i * call.scale_step]), v[4];
        for (int j = 0; j < 4; ++j) v[j] = from_integers(sums + 16 * j) * scales[j] * scale + biases[j];
        float* out = call.out[i] + column;
        const float* add = call.add ? call.add[i] + column : nullptr;
        if (left >= panel) {
            for (int j = 0; j < 4; ++j) store(out + 16 * j, add ? v[j] + load(add + 16 * j) : v[j]);
            continue;
        }
        for (int j = 0; j < 4 && 16 * j < left; ++j) {
            int64_t n = left - 16 * j < 16 ? left - 16 * j : 16;
            store(out + 16 * j, add ? v[j] + load(add + 16 * j, n) : v[j], n);
        }
    }
}

// In tiles of at most `most` rows.
void run_tiles(const ProductCall& call, int64_t most) {
    const Packed& weight = *call.weight;
    int64_t inputs = weight.inputs, tiles = (call.rows + most - 1) / most;
    int64_t lines = tiles > 1 ? (inputs + tiles - 1) / tiles : 0;  // a panel is as many as the weight has inputs
    alignas(64) int32_t sums[most_rows * panel];
    for (int64_t p = call.panel_start; p < call.panel_stop; ++p) {
        const int8_t* b = weight.values + p * panel * inputs;
        const int8_t* next = b + panel * inputs;
        for (int64_t row = 0; row < call.rows; row += most, next += 64 * lines) {
            int64_t rows = call.rows - row < most ? call.rows - row : most;
            tile(rows, call.a + row * call.a_step, call.a_step, b, inputs, weight.start.data() + p * panel, sums,
                 {call.out + row, call.add ? call.add + row : nullptr, p * panel, next, lines});
            write_rows(call, row, rows, p, sums);
        }
    }
}

void run_product(const ProductCall& call) { run_tiles(call, most_rows); }

}  // namespace
}  // namespace lvm
