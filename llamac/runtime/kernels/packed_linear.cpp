// y = x @ weight.T + bias in float32 for x86 CPUs, with the weight in panels.
//
// A panel holds the weights of PANEL outputs: for each input, those of all its outputs side by side,
// so that a step with few rows reads every weight once, in order, and ROWS rows share what is read.
// The last panel holds the whole vectors that are left, and after it the weights of the remaining
// outputs, fewer than a vector, are as in a plain matrix. The order in which a result is summed depends
// on the number of inputs alone, not on the number of rows or threads.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8;  // with three vectors of outputs, 24 of 32 registers hold sums
#else
constexpr int LANES = 8, ROWS = 4;  // 12 of 16
#endif
constexpr int64_t PANEL = 3 * LANES;
constexpr int64_t DEPTH = 512;  // inputs at a time; further rows find their weights in the cache

typedef float Vec __attribute__((vector_size(LANES * sizeof(float))));

static inline Vec load(const float* from) {
    Vec v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
static inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }

// y[R, C vectors] += x[R, depth] @ panel[depth, C vectors]
template <int R, int C>
static void tile(const float* x, int64_t x_row, const float* panel, float* y, int64_t y_row,
                 int64_t depth) {
    Vec sums[R][C] = {};
    for (int64_t p = 0; p < depth; ++p) {
        Vec columns[C];
#pragma GCC unroll 8
        for (int j = 0; j < C; ++j) columns[j] = load(panel + (p * C + j) * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i) {
            const Vec value = Vec{} + x[i * x_row + p];
#pragma GCC unroll 8
            for (int j = 0; j < C; ++j) sums[i][j] += value * columns[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < C; ++j) {
            float* to = y + i * y_row + j * LANES;
            store(to, load(to) + sums[i][j]);
        }
}

template <int C>
static void tile_of_rows(int64_t rows, const float* x, int64_t x_row, const float* panel, float* y,
                         int64_t y_row, int64_t depth) {
    switch (rows) {
#if defined(__AVX512F__)
        case 8: return tile<8, C>(x, x_row, panel, y, y_row, depth);
        case 7: return tile<7, C>(x, x_row, panel, y, y_row, depth);
        case 6: return tile<6, C>(x, x_row, panel, y, y_row, depth);
        case 5: return tile<5, C>(x, x_row, panel, y, y_row, depth);
#endif
        case 4: return tile<4, C>(x, x_row, panel, y, y_row, depth);
        case 3: return tile<3, C>(x, x_row, panel, y, y_row, depth);
        case 2: return tile<2, C>(x, x_row, panel, y, y_row, depth);
        default: return tile<1, C>(x, x_row, panel, y, y_row, depth);
    }
}

static float dot(const float* a, const float* b, int64_t length) {
    Vec sums = {};
    int64_t p = 0;
    for (; p + LANES <= length; p += LANES) sums += load(a + p) * load(b + p);
    float total = 0;
    for (int i = 0; i < LANES; ++i) total += sums[i];
    for (; p < length; ++p) total += a[p] * b[p];
    return total;
}

// x [rows, inputs]; weight [outputs * inputs]; bias [outputs] or null; y [rows, outputs]
extern "C" void packed_linear(const float* x, const float* weight, const float* bias, float* y,
                              int64_t rows, int64_t inputs, int64_t outputs, int64_t threads) {
    const int64_t whole = outputs / LANES * LANES;
#pragma omp parallel for num_threads(threads)
    for (int64_t first = 0; first < outputs; first += PANEL) {
        const int64_t end = std::min(first + PANEL, outputs), vectors = (std::min(end, whole) - first) / LANES;
        for (int64_t row = 0; row < rows; ++row)
            for (int64_t o = first; o < end; ++o) y[row * outputs + o] = bias ? bias[o] : 0;
        const auto add = vectors == 3 ? tile_of_rows<3> : vectors == 2 ? tile_of_rows<2> : tile_of_rows<1>;
        for (int64_t p = 0; vectors && p < inputs; p += DEPTH)
            for (int64_t row = 0; row < rows; row += ROWS)
                add(std::min<int64_t>(ROWS, rows - row), x + row * inputs + p, inputs,
                    weight + first * inputs + p * vectors * LANES, y + row * outputs + first, outputs,
                    std::min(DEPTH, inputs - p));
        for (int64_t o = std::max(first, whole); o < end; ++o)
            for (int64_t row = 0; row < rows; ++row)
                y[row * outputs + o] += dot(x + row * inputs, weight + o * inputs, inputs);
    }
}
