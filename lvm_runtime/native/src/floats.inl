// Products of floats, tile by tile: up to `tile_rows` rows and `tile_vectors` · 16 columns, whose sums stay in registers.
// Each sum takes its terms one after another, so its bits depend on nothing but its row and its column. Weights come from
// beyond the second cache: while one panel is multiplied, the next one is asked for, a line at a time.

namespace lvm {
namespace {

constexpr int64_t floats_ahead = 512;  // of a weight, asked for before they are read

// Rows of a tile: as many as fit, but `count` rows are shared out evenly.
inline int64_t height(int64_t count) {
    int64_t tiles = (count + tile_rows - 1) / tile_rows;
    return (count + tiles - 1) / tiles;
}

// `rows` [R][width] become [width][R], so that a tile reads them from one place: so many columns at a time that what is
// written stays in the nearest cache.
inline void pack_tile(const float* const* rows, int64_t count, int64_t width, float* packed) {
    for (int64_t start = 0; start < width; start += 64) {
        int64_t stop = width - start < 64 ? width : start + 64;
        for (int64_t r = 0, n; r < count; r += n) {
            int64_t k = start;
            n = r + 4 <= count ? 4 : 1;
            for (; n == 4 && k + 4 <= stop; k += 4) transpose(rows + r, k, packed + k * count + r, count);
            for (; k < stop; ++k)
                for (int64_t i = r; i < r + n; ++i) packed[k * count + i] = rows[i][k];
        }
    }
}

void pack_rows(const float* const* rows, int64_t count, int64_t width, float* packed) {
    int64_t step = height(count);
    for (int64_t row = 0; row < count; row += step)
        pack_tile(rows + row, count - row < step ? count - row : step, width, packed + row * width);
}

// What one input adds to the sums of a tile.
template <int R, int V>
inline void float_step(const float* a, const float* b, int64_t panel_step, F (&sums)[R][V]) {
    F weight[V];
    LVM_UNROLL for (int j = 0; j < V; ++j) {
        const float* p = b + j / 2 * panel_step + j % 2 * 16;
        ask_for(p + floats_ahead);
        weight[j] = load(p);
    }
    LVM_UNROLL for (int r = 0; r < R; ++r) {
        F x = all(a[r]);
        LVM_UNROLL for (int j = 0; j < V; ++j) sums[r][j] = fma(x, weight[j], sums[r][j]);
    }
}

// Sums [R][V · 16] of the products of rows with V vectors of columns at `b`; those of another panel lie `panel_step`
// floats further. In every step k with k & mask = 0 it asks for `tile_steps` cache lines of what is multiplied next.
template <int R, int V>
inline void float_tile(const float* a, const float* b, int64_t panel_step, int64_t inputs, const float* next, int64_t mask,
                       float* out) {
    F sums[R][V];
    int64_t k = 0;
    LVM_UNROLL for (int r = 0; r < R; ++r) LVM_UNROLL for (int j = 0; j < V; ++j) sums[r][j] = all(0.0f);
    for (; k + tile_steps <= inputs; k += tile_steps, a += tile_steps * R, b += tile_steps * float_panel) {
        if (!(k & mask)) {
            LVM_UNROLL for (int i = 0; i < tile_steps; ++i) ask_for_later(next + 16 * i);
            next += 16 * tile_steps;
        }
        LVM_UNROLL for (int i = 0; i < tile_steps; ++i) float_step(a + i * R, b + i * float_panel, panel_step, sums);
    }
    for (; k < inputs; ++k, a += R, b += float_panel) float_step(a, b, panel_step, sums);
    LVM_UNROLL for (int r = 0; r < R; ++r) LVM_UNROLL for (int j = 0; j < V; ++j) store(out + (r * V + j) * 16, sums[r][j]);
}

template <int R>
inline void tile_of_rows(int64_t rows, const float* a, const float* b, int64_t inputs, const float* next, int64_t mask,
                         float* sums) {
    if constexpr (R > 1)
        if (rows < R) return tile_of_rows<R - 1>(rows, a, b, inputs, next, mask, sums);
    float_tile<R, tile_vectors>(a, b, 0, inputs, next, mask, sums);
}

// Ask for the lines that a tile's results will take, while it is multiplied.
inline void ask_for_results(const FloatCall& call, int64_t row, int64_t rows, int64_t column) {
    for (int64_t i = row; i < row + rows; ++i)
        for (int64_t j = 0; j < tile_vectors; ++j) {
            ask_to_write(call.out[i] + column + 16 * j);
            if (call.add) ask_for(call.add[i] + column + 16 * j);
        }
}

// Write `columns` columns from `column` on, as far as the weight has them: their sums and a bias, rounded on its own.
inline void write_floats(const FloatCall& call, int64_t row, int64_t rows, int64_t column, int64_t columns, const float* sums) {
    const Packed& weight = *call.weight;
    int64_t filled = round_up(weight.outputs, float_panel), left = weight.outputs - column;
    for (int64_t i = row; i < row + rows; ++i, sums += columns) {
        const float* bias = weight.bias.data() + (call.first + i) % weight.bias_rows * filled + column;
        const float* add = call.add ? call.add[i] + column : nullptr;
        float* out = call.out[i] + column;
        each(columns < left ? columns : left, [&](int64_t k, auto lanes) {
            F v = get(sums + k, lanes) + get(bias + k, lanes);
            put(out + k, add ? v + get(add + k, lanes) : v, lanes);
        });
    }
}

void run_float_product(const FloatCall& call) {
    static_assert(tile_rows * tile_vectors >= lone_vectors, "the sums of a lone row lie where those of a tile do");
    alignas(64) float sums[tile_rows * tile_vectors * 16];
    constexpr int64_t columns = tile_vectors * 16, lone_panels = lone_vectors * 16 / float_panel, never = -1;
    int64_t inputs = call.weight->inputs, p = call.panel_start, step = height(call.rows);
    const float* b = call.weight->floats + p * float_panel * inputs;
    int64_t every = 1;  // steps: all tiles together ask for the next panel, two lines for each input
    while (call.rows >= 4 * every * step) every *= 2;
    if (call.rows == 1)  // more sums, because each waits for the one before
        for (; p + lone_panels <= call.panel_stop; p += lone_panels, b += lone_panels * float_panel * inputs) {
            float_tile<1, lone_vectors>(call.a, b, inputs * float_panel, inputs, b, never, sums);
            write_floats(call, 0, 1, p * float_panel, lone_vectors * 16, sums);
        }
    for (; p < call.panel_stop; ++p, b += float_panel * inputs)
        for (int64_t part = 0; part < float_panel; part += columns)
            for (int64_t row = 0, column = p * float_panel + part; row < call.rows; row += step) {
                int64_t rows = call.rows - row < step ? call.rows - row : step;
                if (column >= call.weight->outputs) break;
                ask_for_results(call, row, rows, column);
                const float* next = b + float_panel * inputs + row / step * (inputs / every) * 16;
                int64_t mask = part ? never : every * tile_steps - 1;
                tile_of_rows<tile_rows>(rows, call.a + row * inputs, b + part, inputs, next, mask, sums);
                write_floats(call, row, rows, column, columns, sums);
            }
}

}  // namespace
}  // namespace lvm
