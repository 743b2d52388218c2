// Row operations over the sixteen floats F of a simd_*.h, the same in every path. Reductions add lane i to lane i of every
// fourth vector, then the four, then halves of the sixteen: the order is fixed, so all paths round alike.

namespace lvm {
namespace {

struct Whole {};
struct Part {
    int64_t n;
};
inline F get(const float* p, Whole) { return load(p); }
inline F get(const float* p, Part part) { return load(p, part.n); }
inline void put(float* p, F a, Whole) { store(p, a); }
inline void put(float* p, F a, Part part) { store(p, a, part.n); }
inline F only(F a, Whole) { return a; }
// The lanes that count, the others 0.
inline F only(F a, Part part) {
    float lanes[16];
    store(lanes, a);
    return load(lanes, part.n);
}

template <class Body>
inline void each(int64_t n, Body body) {
    int64_t k = 0;
    for (; k + 16 <= n; k += 16) body(k, Whole{});
    if (k < n) body(k, Part{n - k});
}

// Joins what `step` makes of each vector, in four chains: in one, each vector would wait for the one before.
template <class Step, class Join>
inline F reduce(int64_t n, Step step, Join join) {
    F a = all(0.0f), b = a, c = a, d = a;
    int64_t k = 0;
    for (; k + 64 <= n; k += 64) {
        a = step(a, k, Whole{});
        b = step(b, k + 16, Whole{});
        c = step(c, k + 32, Whole{});
        d = step(d, k + 48, Whole{});
    }
    for (; k + 16 <= n; k += 16) a = step(a, k, Whole{});
    if (k < n) b = step(b, k, Part{n - k});
    return join(join(a, b), join(c, d));
}

template <class Step>
inline float total(int64_t n, Step step) {
    return sum(reduce(n, step, [](F x, F y) { return x + y; }));
}

// exp(scale · x) for a scale of ±1 or −2 and a product from −87 to 88 is (1 + f · p) / 2^n with n = round(−scale · x log₂ e),
// which `shifted` holds, and a polynomial fitted to 2^f on [−½, ½] with 1 at 0. The relative error is 2.1e-7 at most up to
// |scale · x| = 10, 1.3e-6 up to 87.
struct Power {
    F f, p, shifted;
};
inline Power power(F x, float scale) {
    constexpr float log2_e = 1.44269504f;
    F shifted = fma(x, all(scale * -log2_e), all(rounder));
    F f = fma(x, all(scale * log2_e), shifted - all(rounder));
    F p = fma(all(1.32647273e-3f), f, all(9.67151299e-3f));
    p = fma(p, f, all(5.55073358e-2f));
    p = fma(p, f, all(2.40222424e-1f));
    return {f, fma(p, f, all(6.93147004e-1f)), shifted};
}

inline F exponential(F x, float scale) {
    Power e = power(x, scale);
    return over_power_of_two(fma(e.p, e.f, all(1.0f)), e.shifted);
}

inline F logistic(F x) {
    return all(1.0f) / (all(1.0f) + exponential(smaller(larger(x, all(-88.0f)), all(87.0f)), -1.0f));
}

// By exp(−2|x|) − 1, of which no digit is lost where x is near 0.
inline F tangent(F x) {
    Power e = power(smaller(size(x), all(43.0f)), -2.0f);
    F part = over_power_of_two(all(1.0f), e.shifted);
    F less = fma(part * e.f, e.p, part - all(1.0f));
    return with_sign((all(0.0f) - less) / (all(2.0f) + less), x);
}

// x · Φ(x). erf z = 1 − exp(−z · P(z)), P fitted to −log(erfc z) / z on [0, 4]: off by 1.3e-7 at most.
inline F gaussian(F x) {
    F z = smaller(size(x) * all(0.70710678f), all(4.0f));
    F p = fma(all(3.11649164e-05f), z, all(-3.0654174e-4f));
    p = fma(p, z, all(1.02515181e-3f));
    p = fma(p, z, all(5.48554584e-4f));
    p = fma(p, z, all(-1.95938405e-2f));
    p = fma(p, z, all(1.02923959e-1f));
    p = fma(p, z, all(6.36596859e-1f));
    p = fma(p, z, all(1.1283803f));
    F e = with_sign(all(1.0f) - exponential(z * p, -1.0f), x);
    F half = x * all(0.5f);
    return fma(half, e, half);
}

inline float root(float x) { return sqrtf(x); }

inline float dot(const float* x, const float* y, int64_t n) {
    return total(n, [&](F s, int64_t k, auto lanes) { return fma(get(x + k, lanes), get(y + k, lanes), s); });
}

inline void layer_norm(const RowOp& op, const float* x, float* out) {
    float width = static_cast<float>(op.width);
    F mean = all(total(op.width, [&](F s, int64_t k, auto lanes) { return s + get(x + k, lanes); }) / width);
    float squares = total(op.width, [&](F s, int64_t k, auto lanes) {
        F d = only(get(x + k, lanes) - mean, lanes);
        return fma(d, d, s);
    });
    F factor = all(1.0f / root(squares / width + op.eps));
    each(op.width, [&](int64_t k, auto lanes) {
        F y = (get(x + k, lanes) - mean) * factor;
        put(out + k, fma(y, get(op.weight + k, lanes), get(op.bias + k, lanes)), lanes);
    });
}

// A row that is shorter than 1e-12 is divided by that, as PyTorch does.
inline void normalise(const RowOp& op, const float* x, float* out) {
    float squares = dot(x, x, op.width);
    F factor = all(1.0f / root(squares > 1e-24f ? squares : 1e-24f));
    each(op.width, [&](int64_t k, auto lanes) { put(out + k, get(x + k, lanes) * factor, lanes); });
}

// Turn scores into weights that add up to one.
inline void softmax(float* scores, int64_t n) {
    F most = all(scores[0]);
    for (int64_t t = 1; t < n; ++t) most = larger(most, all(scores[t]));
    F s = all(0.0f);
    each(n, [&](int64_t k, auto lanes) {
        F e = only(exponential(larger(get(scores + k, lanes) - most, all(-87.0f)), 1.0f), lanes);
        put(scores + k, e, lanes);
        s = s + e;
    });
    F factor = all(1.0f / sum(s));
    each(n, [&](int64_t k, auto lanes) { put(scores + k, get(scores + k, lanes) * factor, lanes); });
}

// The sum of `keys` rows of x, `step` apart, under `weights`, `apart` apart: four vectors of columns at a time, lest a
// weight be loaded for each.
template <int vectors, class Lanes>
inline void mix_columns(const float* weights, int64_t apart, const float* x, int64_t step, int64_t keys, float* out, Lanes lanes) {
    F sums[vectors], weight = all(weights[0]);
    LVM_UNROLL for (int j = 0; j < vectors; ++j) sums[j] = weight * get(x + 16 * j, lanes);
    for (int64_t t = 1; t < keys; ++t) {
        weight = all(weights[t * apart]), x += step;
        LVM_UNROLL for (int j = 0; j < vectors; ++j) sums[j] = fma(weight, get(x + 16 * j, lanes), sums[j]);
    }
    LVM_UNROLL for (int j = 0; j < vectors; ++j) put(out + 16 * j, sums[j], lanes);
}

inline void mix(const float* weights, int64_t apart, const float* x, int64_t step, int64_t keys, float* out, int64_t width) {
    int64_t k = 0;
    for (; k + 64 <= width; k += 64) mix_columns<4>(weights, apart, x + k, step, keys, out + k, Whole{});
    for (; k + 16 <= width; k += 16) mix_columns<1>(weights, apart, x + k, step, keys, out + k, Whole{});
    if (k < width) mix_columns<1>(weights, apart, x + k, step, keys, out + k, Part{width - k});
}

inline void mean(const RowOp& op, const float* x, float* out) {
    float shares[64];
    for (int64_t t = 0; t < op.keys; ++t) shares[t] = 1.0f / static_cast<float>(op.keys);
    mix(op.weight ? op.weight : shares, 1, x, op.in[0].step, op.keys, out, op.width);
}

// Scores, `apart` apart: the dot products of a query with up to `most` keys, `step` apart, each in a chain of its own.
template <int most>
inline void score(const float* query, const float* key, int64_t step, int64_t keys, int64_t width, float* scores, int64_t apart) {
    if constexpr (most > 1)
        if (keys < most) return score<most - 1>(query, key, step, keys, width, scores, apart);
    F sums[most];
    LVM_UNROLL for (int t = 0; t < most; ++t) sums[t] = all(0.0f);
    each(width, [&](int64_t k, auto lanes) {
        F q = get(query + k, lanes);
        LVM_UNROLL for (int t = 0; t < most; ++t) sums[t] = fma(q, get(key + t * step + k, lanes), sums[t]);
    });
    LVM_UNROLL for (int t = 0; t < most; ++t) scores[t * apart] = sum(sums[t]);
}

inline void score_all(const float* query, const float* key, int64_t step, int64_t keys, int64_t width, float* scores, int64_t apart) {
    for (int64_t t = 0; t < keys; t += 8) score<8>(query, key + t * step, step, keys - t, width, scores + t * apart, apart);
}

inline void mixture(const RowOp& op, const float* query, const float* x, float* out, float* weights) {
    score_all(query, x, op.in[1].step, op.keys, op.width, weights, 1);
    for (int64_t t = 0; op.bias && t < op.keys; ++t) weights[t] += op.bias[t];
    softmax(weights, op.keys);
    mix(weights, 1, x, op.in[1].step, op.keys, out, op.width);
}

// Sixteen pairs of a query and a head at a time, so that a softmax is over lanes that do not meet.
inline void attention(const RowOp& op, const float* query, const float* key, const float* value, float* out) {
    float weights[64][16];  // of as many keys as a context may be long
    int64_t d = op.width / op.heads, pairs = op.queries * op.heads;
    for (int64_t first = 0; first < pairs; first += 16) {
        auto each_pair = [&](auto body) {
            int64_t stop = first + 16 < pairs ? first + 16 : pairs, s = first / op.heads, head = first % op.heads;
            for (int64_t pair = first; pair < stop; ++pair) {
                body(s, head * d, op.causal ? s + 1 : op.keys, weights[0] + (pair - first));
                if (++head == op.heads) head = 0, ++s;
            }
        };
        for (int64_t t = 0; t < op.keys; ++t) store(weights[t], all(-INFINITY));
        each_pair([&](int64_t s, int64_t column, int64_t keys, float* scores) {
            score_all(query + s * op.in[0].step + column, key + column, op.in[1].step, keys, d, scores, 16);
        });
        F most = load(weights[0]), added = all(0.0f);
        for (int64_t t = 1; t < op.keys; ++t) most = larger(most, load(weights[t]));
        for (int64_t t = 0; t < op.keys; ++t) {
            F e = exponential(larger(load(weights[t]) - most, all(-87.0f)), 1.0f);
            store(weights[t], e);
            added = added + e;
        }
        F factor = all(1.0f) / added;
        for (int64_t t = 0; t < op.keys; ++t) store(weights[t], load(weights[t]) * factor);
        each_pair([&](int64_t s, int64_t column, int64_t keys, const float* shares) {
            mix(shares, 16, value + column, op.in[2].step, keys, out + s * op.out[0].step + column, d);
        });
    }
}

// Scale a row to ±127 around 128, or its positive part to 255, and note the scale that takes it back.
template <class Get>
inline void quantise_by(const RowOp& op, uint8_t* bytes, float* scale, Get value) {
    float top = largest(reduce(
        op.width,
        [&](F most, int64_t k, auto lanes) { return larger(most, op.positive ? value(k, lanes) : size(value(k, lanes))); },
        [](F x, F y) { return larger(x, y); }));
    float steps = op.positive ? 255.0f : 127.0f;
    *scale = top;
    F factor = all(top > 1e-35f ? steps / top : 0.0f);  // a row of zeros, or of nearly nothing, is a row of zeros
    F middle = all(op.positive ? rounder : rounder + 128.0f);  // no value is beyond the top, so none rounds to more than `steps`
    int64_t filled = (op.width + 15) / 16 * 16;
    each(op.width, [&](int64_t k, auto lanes) {
        F v = op.positive ? larger(value(k, lanes), all(0.0f)) : value(k, lanes);
        store_bytes(bytes + k, fma(v, factor, middle));
    });
    for (int64_t k = filled; k < op.bytes_width; k += 16) store_bytes(bytes + k, middle);
}

inline void quantise(const RowOp& op, const float* x, uint8_t* bytes, float* scale) {
    if (op.weight)
        quantise_by(op, bytes, scale, [&](int64_t k, auto lanes) { return get(x + k, lanes) - get(op.weight + k, lanes); });
    else
        quantise_by(op, bytes, scale, [&](int64_t k, auto lanes) { return get(x + k, lanes); });
}

template <class Function>
inline void map(const RowOp& op, const float* x, float* out, Function f) {
    each(op.width, [&](int64_t k, auto lanes) { put(out + k, f(get(x + k, lanes)), lanes); });
}

template <class Function>
inline void map2(const RowOp& op, const float* x, const float* y, float* out, Function f) {
    each(op.width, [&](int64_t k, auto lanes) { put(out + k, f(get(x + k, lanes), get(y + k, lanes)), lanes); });
}

inline float* at(const RowCall& call, const Ref& ref, int64_t b, int64_t r) {
    return call.bases[ref.slot] + b * ref.outer + ref.offset + r * ref.step;
}

void run_row(const RowCall& call, const RowOp& op, int64_t b, int64_t r) {
    const float* x = at(call, op.in[0], b, r);
    float* out = op.kind == RowKind::quantise ? nullptr : at(call, op.out[0], b, r);
    switch (op.kind) {
        case RowKind::relu: return map(op, x, out, [](F a) { return larger(a, all(0.0f)); });
        case RowKind::sigmoid: return map(op, x, out, [](F a) { return logistic(a); });
        case RowKind::tanh: return map(op, x, out, [](F a) { return tangent(a); });
        case RowKind::gelu: return map(op, x, out, [](F a) { return gaussian(a); });
        case RowKind::add: return map2(op, x, at(call, op.in[1], b, r), out, [](F a, F c) { return a + c; });
        case RowKind::sub: return map2(op, x, at(call, op.in[1], b, r), out, [](F a, F c) { return a - c; });
        case RowKind::mul: return map2(op, x, at(call, op.in[1], b, r), out, [](F a, F c) { return a * c; });
        case RowKind::add_weight: return map2(op, x, op.weight, out, [](F a, F c) { return a + c; });
        case RowKind::sub_weight: return map2(op, x, op.weight, out, [](F a, F c) { return a - c; });
        case RowKind::mul_weight: return map2(op, x, op.weight, out, [](F a, F c) { return a * c; });
        case RowKind::layer_norm: return layer_norm(op, x, out);
        case RowKind::normalise: return normalise(op, x, out);
        case RowKind::mean: return mean(op, x, out);
        case RowKind::mixture: return mixture(op, x, at(call, op.in[1], b, r), out, at(call, op.out[1], b, r));
        case RowKind::attention: return attention(op, x, at(call, op.in[1], b, r), at(call, op.in[2], b, r), out);
        case RowKind::quantise: {
            int64_t row = b * op.bytes_rows + op.bytes_row + r;
            uint8_t* bytes = reinterpret_cast<uint8_t*>(call.bases[op.bytes_slot]) + row * op.bytes_width;
            return quantise(op, x, bytes, call.bases[op.scale_slot] + row);
        }
    }
}

bool all_usable(const float* x, int64_t vectors, int64_t width, float most) {
    bool all = true;
    for (int64_t i = 0; i < vectors; ++i) all = dot(x + i * width, x + i * width, width) <= most && all;  // not for NaN
    return all;
}

void run_rows(const RowCall& call) {
    for (int64_t b = call.first; b < call.first + call.windows; ++b)
        for (int64_t r = 0; r < call.rows; ++r)
            for (int64_t i = 0; i < call.count; ++i) run_row(call, call.ops[i], b, r);
}

}  // namespace
}  // namespace lvm
