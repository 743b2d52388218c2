// What a CPU path is: the functions that compute, in the instructions of one kind of CPU.
#pragma once

#include <math.h>  // what follows a target pragma calls C functions only, see target.h
#include <string.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace lvm {

constexpr int64_t panel = 64;      // columns of a weight that lie together
constexpr int64_t inner = 64;      // the rows of a weight are filled up to a multiple of this with zeros
constexpr int64_t float_panel = 32;  // columns of a weight in floats that lie together
constexpr int64_t float_rows = 112;   // rows that are packed at once
// 1.5 · 2^23: floats near it are whole numbers, so adding it rounds, and leaves the number in the lowest bits.
constexpr float rounder = 12582912.0f;
constexpr int64_t row_block = 32;  // a shadow holds this many rows more than it is read for: tiles may read beyond

// Ask for a line of memory before it is read, or written.
#if defined(__GNUC__)
inline void ask_for(const void* p) { __builtin_prefetch(p); }
inline void ask_for_later(const void* p) { __builtin_prefetch(p, 0, 2); }
inline void ask_to_write(const void* p) { __builtin_prefetch(p, 1); }
#else
inline void ask_for(const void*) {}
inline void ask_for_later(const void*) {}
inline void ask_to_write(const void*) {}
#endif

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Zeros of whole cache lines. What takes at least half a huge page lies in huge pages, where the system has them: from
// beyond its nearest caches a core reads those 1.1 to 1.6 times as fast. Throws std::bad_alloc.
void* allocate(size_t bytes);
void release(void* memory, size_t bytes);

// Memory of whole cache lines, for `count` values.
template <class T>
class Aligned {
  public:
    explicit Aligned(int64_t count = 0)
        : store_(allocate(static_cast<size_t>(count) * sizeof(T)), {static_cast<size_t>(count) * sizeof(T)}) {}
    T* data() const { return static_cast<T*>(store_.get()); }
    T& operator[](int64_t i) const { return data()[i]; }

  private:
    struct Release {
        size_t bytes;
        void operator()(void* memory) const { release(memory, bytes); }
    };
    std::unique_ptr<void, Release> store_;
};

// A weight [K][N] as products read it: panels of 64 columns, in each four rows (or eight: `Path::together`) of all its
// columns at a time; in floats panels of 32 columns, row by row.
struct Packed {
    int64_t inputs = 0, outputs = 0;  // K filled up to a multiple of `inner` (in floats as it is), N as it is
    const int8_t* values = nullptr;   // [N / 64][K / 4][64][4], in the program's memory
    const float* floats = nullptr;    // or [N / 32][K][32], there too
    Aligned<float> scale;             // [N filled up], the steps of an activation divided in
    Aligned<int32_t> start;           // [N filled up], what takes the activations' zero point back out of each sum
    Aligned<float> bias;              // [rows of a window, or 1][N filled up]
    int64_t bias_rows = 1;
};

// Row i: the integers at a + i · a_step times the weight, scaled by scale[i · scale_step], written to out[i].
struct ProductCall {
    const Packed* weight;
    const uint8_t* a;
    int64_t a_step;
    const float* scale;
    int64_t scale_step;
    int64_t rows;
    int64_t panel_start, panel_stop;
    float* const* out;
    const float* const* add;  // or nullptr: what is added to each row
};

// The same in floats: `a` is what `pack` made of the rows, or the row itself if it is one.
struct FloatCall {
    const Packed* weight;
    const float* a;
    int64_t first, rows;  // `first`: the number of the first row, which tells its bias
    int64_t panel_start, panel_stop;
    float* const* out;
    const float* const* add;
};

// What a tile asks for while it is multiplied, lest the next ones wait: the lines that its results will take, what is
// added to them, and its share of the next panel of weights.
struct Ahead {
    float* const* out;
    const float* const* add;  // or nullptr
    int64_t column;
    const int8_t* next;
    int64_t lines;
};

// The largest one up to `most`.
inline int64_t power_of_two(int64_t most) {
    int64_t found = 1;
    for (; found <= most / 2; found *= 2) {}
    return found;
}
// Of the steps k = 0, 4, … below `inputs`, those with k & mask = 0 ask for one line of the next panel each: many lines at
// once would hold up the loads of the tile.
inline int64_t line_mask(const Ahead& ahead, int64_t inputs) {
    return ahead.lines ? 4 * power_of_two(inputs / 4 / ahead.lines) - 1 : -1;
}

enum class RowKind {
    relu, sigmoid, tanh, gelu, add, sub, mul, add_weight, mul_weight, sub_weight, layer_norm, normalise, mean, mixture,
    attention, quantise
};

// Where an operand lies: row r of window b at bases[slot] + b · outer + offset + r · step.
struct Ref {
    int slot = 0;
    int64_t outer = 0, offset = 0, step = 0;
};

struct RowOp {
    RowKind kind{};
    Ref in[3], out[2];
    int64_t width = 0, queries = 1, keys = 1;  // rows that a mean, a mixture and an attention read
    const float* weight = nullptr;  // of quantise: what is taken off first
    const float* bias = nullptr;
    float eps = 0;
    int64_t heads = 1;
    bool causal = false;
    // of quantise: where row r of window b goes, as bytes and with its scale, and how long a row of bytes is
    int bytes_slot = 0, scale_slot = 0;
    int64_t bytes_rows = 0, bytes_row = 0, bytes_width = 0;
    bool positive = false;
};

// Operations that run row by row, so that what one writes is in the nearest cache when the next one reads it.
struct RowCall {
    const RowOp* ops;
    int64_t count;
    float* const* bases;
    int64_t first, windows, rows;  // windows from `first` on
};

struct Path {
    const char* name;
    const char* what;
    const char* what_floats;  // the instructions of a plan in fp32
    bool (*available)();
    int32_t zero_shift;  // what the path takes off every activation before it multiplies
    int64_t together;    // inputs of a column that lie side by side in a weight
    int64_t row_step;    // slices of a multiple of this many windows fill its tiles
    void (*product)(const ProductCall&);
    void (*pack)(const float* const* rows, int64_t count, int64_t width, float* packed);
    void (*float_product)(const FloatCall&);
    void (*rows)(const RowCall&);
    bool (*usable)(const float* x, int64_t vectors, int64_t width, float most);  // whether x·x of each is at most `most`
    int64_t (*spin)(int64_t rounds);  // multiply-adds done in registers alone: what products cannot be faster than
};

extern const Path path_plain;
#if defined(__x86_64__) || defined(_M_X64)
extern const Path path_avx2, path_avx_vnni, path_avx512_vnni;
#endif
#if defined(__x86_64__) && defined(__linux__)  // where the system says how to ask for AMX
extern const Path path_amx;
#endif
// compilers whose arm_neon.h has more instructions for a part of a program than for the rest
#if defined(__aarch64__) && (defined(__clang__) ? __clang_major__ >= 16 : defined(__GNUC__))
#define LVM_I8MM
extern const Path path_i8mm;
#endif
#if defined(LVM_I8MM) || defined(__ARM_FEATURE_DOTPROD) || defined(_M_ARM64)
#define LVM_NEON_DOT
extern const Path path_neon_dot;
#endif

}  // namespace lvm
