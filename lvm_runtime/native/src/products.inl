// Products of integers, panel by panel, over a path's tiles: `tile(rows)(…)` writes the sums of up to `most_rows` rows
// and 64 columns. What makes floats of the sums is the same in every path.

namespace lvm {
namespace {

inline void write_rows(const ProductCall& call, int64_t row, int64_t rows, int64_t p, const int32_t* sums) {
    const Packed& weight = *call.weight;
    int64_t column = p * panel, left = weight.outputs - column, filled = round_up(weight.outputs, panel);
    for (int64_t i = row; i < row + rows; ++i, sums += panel) {
        F scale = all(call.scale[i * call.scale_step]);
        const float* bias = weight.bias.data() + (weight.bias_rows > 1 ? i % weight.bias_rows * filled : 0) + column;
        float* out = call.out[i] + column;
        const float* add = call.add ? call.add[i] + column : nullptr;
        for (int64_t j = 0; j < panel && j < left; j += 16) {
            F v = from_integers(sums + j, weight.zero.data() + column + j) * load(weight.scale.data() + column + j);
            v = fma(v, scale, load(bias + j));
            if (left - j >= 16)
                store(out + j, add ? v + load(add + j) : v);
            else
                store(out + j, add ? v + load(add + j, left - j) : v, left - j);
        }
    }
}

void run_product(const ProductCall& call) {
    const Packed& weight = *call.weight;
    alignas(64) int32_t sums[most_rows * panel];
    for (int64_t p = call.panel_start; p < call.panel_stop; ++p) {
        const int8_t* b = weight.values.data() + p * panel * weight.inputs;
        for (int64_t row = 0; row < call.rows;) {
            int64_t rows = call.rows - row < most_rows ? call.rows - row : most_rows;
            tile(rows, call.a + row * call.a_step, call.a_step, b, weight.inputs, sums);
            write_rows(call, row, rows, p, sums);
            row += rows;
        }
    }
}

}  // namespace
}  // namespace lvm
