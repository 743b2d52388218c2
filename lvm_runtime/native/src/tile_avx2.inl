// Tiles of R rows and 64 columns, 32 columns at a time, over `multiply_add` of a path with 256-bit registers.

template <int R>
inline void tile_of(const uint8_t* a, int64_t a_step, const int8_t* b, int64_t inputs, const int32_t* start, int32_t* out,
                    const Ahead& ahead) {
    int64_t next_mask = line_mask(ahead, 2 * inputs);
    const int8_t* next = ahead.next;
    for (int half = 0; half < 2; ++half) {
        __m256i sums[R][4];
        int64_t column = ahead.column + 32 * half;
        for (int r = 0; r < R; ++r)  // rows of results lie a power of two apart, so they fall out of the nearest cache
            for (int j = 0; j < 2; ++j) {
                ask_to_write(ahead.out[r] + column + 16 * j);
                if (ahead.add) ask_for(ahead.add[r] + column + 16 * j);
            }
        for (int j = 0; j < 4; ++j)
            for (int r = 0; r < R; ++r) sums[r][j] = eight(start + half * 32 + 8 * j);
        const int8_t* columns = b + half * 128;
        for (int64_t k = 0; k < inputs; k += 4, columns += 4 * panel) {
            if (!(k & next_mask)) ask_for_later(next), next += 64;
            __m256i x[R];
            for (int r = 0; r < R; ++r) {
                int32_t four;
                memcpy(&four, a + r * a_step + k, 4);
                x[r] = _mm256_set1_epi32(four);
            }
            for (int j = 0; j < 4; ++j) {
                __m256i weight = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(columns + 32 * j));
                for (int r = 0; r < R; ++r) sums[r][j] = multiply_add(sums[r][j], x[r], weight);
            }
        }
        for (int r = 0; r < R; ++r)
            for (int j = 0; j < 4; ++j)
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + r * panel + half * 32 + 8 * j), sums[r][j]);
    }
}

// One row takes all columns in one pass, so that its weights are read in the order in which they lie.
template <>
inline void tile_of<1>(const uint8_t* a, int64_t, const int8_t* b, int64_t inputs, const int32_t* start, int32_t* out, const Ahead&) {
    __m256i sums[8];
    for (int j = 0; j < 8; ++j) sums[j] = eight(start + 8 * j);
    for (int64_t k = 0; k < inputs; k += 4, b += 4 * panel) {
        int32_t four;
        memcpy(&four, a + k, 4);
        __m256i x = _mm256_set1_epi32(four);
        for (int j = 0; j < 8; ++j)
            sums[j] = multiply_add(sums[j], x, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + 32 * j)));
    }
    for (int j = 0; j < 8; ++j) _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8 * j), sums[j]);
}

inline void tile(int64_t rows, const uint8_t* a, int64_t a_step, const int8_t* b, int64_t inputs, const int32_t* start,
                 int32_t* sums, const Ahead& ahead) {
    switch (rows) {
        case 1: return tile_of<1>(a, a_step, b, inputs, start, sums, ahead);
        case 2: return tile_of<2>(a, a_step, b, inputs, start, sums, ahead);
        default: return tile_of<3>(a, a_step, b, inputs, start, sums, ahead);
    }
}

// Twelve sums in registers, all different, or the compiler would compute equal ones once.
inline int64_t spin_avx2(int64_t rounds) {
    __m256i sums[3][4], x = _mm256_set1_epi8(1);
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 4; ++j) sums[i][j] = _mm256_set1_epi32(4 * i + j);
    for (int64_t round = 0; round < rounds; ++round)
        for (int i = 0; i < 3; ++i)
            for (int j = 0; j < 4; ++j) {
                __m256i sum = multiply_add(sums[i][j], x, x);
#if defined(__GNUC__)
                // `x`: or the product, always the same, would leave the loop. `sum`: one after another, or not all stay in
                // registers.
                __asm__("" : "+x"(x), "+x"(sum));
#endif
                sums[i][j] = sum;
            }
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 4; ++j) x = _mm256_add_epi32(x, sums[i][j]);
    volatile int32_t sink = _mm_cvtsi128_si32(_mm256_castsi256_si128(x));
    (void)sink;
    return rounds * 12 * 32;
}
