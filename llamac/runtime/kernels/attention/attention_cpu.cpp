// Causal flash attention in float32 for x86 CPUs, forward and backward (Dao 2023).
//
// A task is one sequence and one head; in the backward pass, one sequence and the query heads that
// share a key head. Keys are taken in blocks that fit the second-level cache. Matrix products run
// in tiles of ROWS x COLUMNS vectors, whose sums stay in registers; tiles above the causal diagonal
// are left out. The order of sums depends on the sizes alone, not on the number of threads.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 6, COLUMNS = 4;  // 24 of 32 registers hold sums
#else
constexpr int LANES = 8, ROWS = 6, COLUMNS = 2;  // 12 of 16
#endif
constexpr int64_t PANEL = COLUMNS * LANES;  // columns of a tile
constexpr int64_t KEYS = 256, QUERIES = 64;  // per block
constexpr int64_t WIDTH = KEYS + 16;  // of a row of scores: no power of two, which would share few sets

typedef float Vec __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t Ints __attribute__((vector_size(LANES * sizeof(float))));

static inline Vec load(const float* from) {
    Vec v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
static inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }

template <typename Combine>
static inline float reduce(Vec v, Combine combine) {
    float x[LANES];
    store(x, v);
#pragma GCC unroll 8
    for (int half = LANES / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; ++i) x[i] = combine(x[i], x[i + half]);
    return x[0];
}
static inline float sum_of(Vec v) {
    return reduce(v, [](float a, float b) { return a + b; });
}
static inline float largest_of(Vec v) {
    return reduce(v, [](float a, float b) { return a > b ? a : b; });
}

// exp(x) for x <= 0, to about 1 ulp (Cephes' expf); 0 below -87.
static inline Vec exp_negative(Vec x) {
    const Vec low = Vec{} - 87.0f, safe = x < low ? low : x;
    const Vec magic = Vec{} + 12582912.0f;
    const Vec n = (safe * 1.44269504f + magic) - magic;
    const Vec r = (safe - n * 0.693359375f) + n * 2.12194440e-4f;
    Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
    Vec scale;
    std::memcpy(&scale, &power, sizeof scale);
    return x < low ? Vec{} : p * scale;
}

// c[R, C vectors] (+)= a[R, depth] @ b[depth, C vectors]
template <int R, int C>
static inline void tile(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_step,
                        float* c, int64_t c_row, int64_t depth, bool add) {
    Vec sums[R][C];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < C; ++j) sums[i][j] = add ? load(c + i * c_row + j * LANES) : Vec{};
    for (int64_t p = 0; p < depth; ++p) {
        Vec columns[C];
#pragma GCC unroll 8
        for (int j = 0; j < C; ++j) columns[j] = load(b + p * b_step + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i) {
            const Vec value = Vec{} + a[i * a_row + p * a_step];
#pragma GCC unroll 8
            for (int j = 0; j < C; ++j) sums[i][j] += value * columns[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < C; ++j) store(c + i * c_row + j * LANES, sums[i][j]);
}

template <int C>
static void tile_of_rows(int64_t rows, const float* a, int64_t a_row, int64_t a_step, const float* b,
                         int64_t b_step, float* c, int64_t c_row, int64_t depth, bool add) {
    switch (rows) {
        case 6: return tile<6, C>(a, a_row, a_step, b, b_step, c, c_row, depth, add);
        case 5: return tile<5, C>(a, a_row, a_step, b, b_step, c, c_row, depth, add);
        case 4: return tile<4, C>(a, a_row, a_step, b, b_step, c, c_row, depth, add);
        case 3: return tile<3, C>(a, a_row, a_step, b, b_step, c, c_row, depth, add);
        case 2: return tile<2, C>(a, a_row, a_step, b, b_step, c, c_row, depth, add);
        default: return tile<1, C>(a, a_row, a_step, b, b_step, c, c_row, depth, add);
    }
}

// c[rows <= ROWS, width] (+)= a[rows, depth] @ b[depth, width]; width is a multiple of LANES.
static void multiply(int64_t rows, const float* a, int64_t a_row, int64_t a_step, const float* b,
                     int64_t b_step, float* c, int64_t c_row, int64_t width, int64_t depth, bool add) {
    int64_t j = 0;
    for (; j + PANEL <= width; j += PANEL)
        tile_of_rows<COLUMNS>(rows, a, a_row, a_step, b + j, b_step, c + j, c_row, depth, add);
    if constexpr (COLUMNS > 2)
        for (; j + 2 * LANES <= width; j += 2 * LANES)
            tile_of_rows<2>(rows, a, a_row, a_step, b + j, b_step, c + j, c_row, depth, add);
    for (; j < width; j += LANES)
        tile_of_rows<1>(rows, a, a_row, a_step, b + j, b_step, c + j, c_row, depth, add);
}

// A tensor [batch, position, head, dim] whose last stride is 1.
struct Tensor {
    float* data;
    int64_t batch, position, head;
    float* at(int64_t b, int64_t s, int64_t h) const { return data + b * batch + s * position + h * head; }
};
struct Sizes {
    int64_t batch, length, heads, groups, dim;
};

// rows of x, times a factor, without gaps
static void copy_rows(const float* x, int64_t step, int64_t rows, int64_t dim, float factor, float* to) {
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t d = 0; d < dim; ++d) to[i * dim + d] = x[i * step + d] * factor;
}

// x[keys, dim] transposed in panels of PANEL columns: [panel, dim, PANEL]; zero beyond the keys
static void transpose(const float* x, int64_t step, int64_t keys, int64_t dim, float* to) {
    for (int64_t first = 0; first < keys; first += PANEL, to += dim * PANEL)
        for (int64_t j = 0; j < PANEL; ++j)
            for (int64_t d = 0; d < dim; ++d)
                to[d * PANEL + j] = first + j < keys ? x[(first + j) * step + d] : 0.0f;
}

// scores[rows, width] = a[rows, dim] @ panels
static void against_keys(int64_t rows, const float* a, int64_t a_row, const float* panels, int64_t dim,
                         float* scores, int64_t width) {
    for (int64_t j = 0; j < width; j += PANEL, panels += dim * PANEL)
        tile_of_rows<COLUMNS>(rows, a, a_row, 1, panels, PANEL, scores + j, WIDTH, dim, false);
}

static inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

static float* workspace(int64_t size) {
    static thread_local std::vector<float> memory;
    if (static_cast<int64_t>(memory.size()) < size) memory.resize(size);
    return memory.data();
}

static void forward_head(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                         float* logsumexp, const Sizes& n, float scale, int64_t b, int64_t h) {
    const int64_t dim = n.dim, group = h / (n.heads / n.groups);
    float* key_panels = workspace((2 * KEYS + ROWS) * dim + ROWS * WIDTH + 2 * n.length);
    float* values = key_panels + KEYS * dim;
    float* queries = values + KEYS * dim;
    float* scores = queries + ROWS * dim;
    float* highest = scores + ROWS * WIDTH;
    float* total = highest + n.length;
    for (int64_t first = 0; first < n.length; first += KEYS) {
        const int64_t keys = std::min(KEYS, n.length - first);
        transpose(k.at(b, first, group), k.position, keys, dim, key_panels);
        copy_rows(v.at(b, first, group), v.position, keys, dim, 1.0f, values);
        for (int64_t row = first; row < n.length; row += ROWS) {
            const int64_t rows = std::min<int64_t>(ROWS, n.length - row);
            const int64_t seen = std::min(keys, row + rows - first);  // by the last row
            const int64_t width = round_up(seen, PANEL);
            copy_rows(q.at(b, row, h), q.position, rows, dim, scale, queries);
            against_keys(rows, queries, dim, key_panels, dim, scores, width);
            for (int64_t i = 0; i < rows; ++i) {
                float* line = scores + i * WIDTH;
                float* o = out.at(b, row + i, h);
                const int64_t visible = std::min(keys, row + i + 1 - first);
                const int64_t end = round_up(seen, LANES);
                std::fill(line + visible, line + end, -INFINITY);
                Vec most = load(line);
                for (int64_t j = LANES; j < end; j += LANES) {
                    const Vec x = load(line + j);
                    most = x > most ? x : most;
                }
                float top = largest_of(most);
                if (first) top = std::max(top, highest[row + i]);
                Vec sum{};
                for (int64_t j = 0; j < end; j += LANES) {
                    const Vec p = exp_negative(load(line + j) - top);
                    store(line + j, p);
                    sum += p;
                }
                float added = sum_of(sum);
                if (first) {
                    const float shrink = std::exp(highest[row + i] - top);
                    added += total[row + i] * shrink;
                    for (int64_t d = 0; d < dim; ++d) o[d] *= shrink;
                }
                highest[row + i] = top;
                total[row + i] = added;
            }
            multiply(rows, scores, WIDTH, 1, values, dim, out.at(b, row, h), out.position, dim,
                     seen, first > 0);
        }
    }
    for (int64_t i = 0; i < n.length; ++i) {
        float* o = out.at(b, i, h);
        for (int64_t d = 0; d < dim; ++d) o[d] /= total[i];
        logsumexp[i] = highest[i] + std::log(total[i]);
    }
}

static void backward_group(const Tensor& d_out, const Tensor& q, const Tensor& k, const Tensor& v,
                           const Tensor& out, const float* logsumexp, const Tensor& d_q,
                           const Tensor& d_k, const Tensor& d_v, const Sizes& n, float scale,
                           int64_t b, int64_t group) {
    const int64_t dim = n.dim, share = n.heads / n.groups;
    float* key_panels = workspace((3 * KEYS + 2 * QUERIES) * dim + 2 * QUERIES * WIDTH +
                                  share * n.length);
    float* value_panels = key_panels + KEYS * dim;
    float* keys_scaled = value_panels + KEYS * dim;
    float* queries = keys_scaled + KEYS * dim;
    float* d_outs = queries + QUERIES * dim;
    float* weights = d_outs + QUERIES * dim;
    float* d_scores = weights + QUERIES * WIDTH;
    float* along = d_scores + QUERIES * WIDTH;  // sum(d_out * out) of each query
    for (int64_t g = 0; g < share; ++g)
        for (int64_t i = 0; i < n.length; ++i) {
            const float* o = out.at(b, i, group * share + g);
            const float* d = d_out.at(b, i, group * share + g);
            Vec sum{};
            for (int64_t j = 0; j < dim; j += LANES) sum += load(o + j) * load(d + j);
            along[g * n.length + i] = sum_of(sum);
        }
    for (int64_t first = 0; first < n.length; first += KEYS) {
        const int64_t keys = std::min(KEYS, n.length - first);
        transpose(k.at(b, first, group), k.position, keys, dim, key_panels);
        transpose(v.at(b, first, group), v.position, keys, dim, value_panels);
        copy_rows(k.at(b, first, group), k.position, keys, dim, scale, keys_scaled);
        for (int64_t j = 0; j < keys; ++j) {
            std::memset(d_k.at(b, first + j, group), 0, dim * sizeof(float));
            std::memset(d_v.at(b, first + j, group), 0, dim * sizeof(float));
        }
        for (int64_t g = 0; g < share; ++g) {
            const int64_t h = group * share + g;
            for (int64_t begin = first; begin < n.length; begin += QUERIES) {
                const int64_t count = std::min(QUERIES, n.length - begin);
                copy_rows(q.at(b, begin, h), q.position, count, dim, scale, queries);
                copy_rows(d_out.at(b, begin, h), d_out.position, count, dim, 1.0f, d_outs);
                for (int64_t row = 0; row < count; row += ROWS) {
                    const int64_t rows = std::min<int64_t>(ROWS, count - row);
                    const int64_t seen = std::min(keys, begin + row + rows - first);
                    const int64_t width = round_up(seen, PANEL);
                    float *p = weights + row * WIDTH, *d_s = d_scores + row * WIDTH;
                    against_keys(rows, queries + row * dim, dim, key_panels, dim, p, width);
                    against_keys(rows, d_outs + row * dim, dim, value_panels, dim, d_s, width);
                    for (int64_t i = 0; i < rows; ++i) {
                        const int64_t at = begin + row + i, visible = std::min(keys, at + 1 - first);
                        const float total = logsumexp[h * n.length + at];
                        const float mean = along[g * n.length + at];
                        float *line = p + i * WIDTH, *d_line = d_s + i * WIDTH;
                        const int64_t end = round_up(seen, LANES);
                        std::fill(line + visible, line + end, -INFINITY);
                        for (int64_t j = 0; j < end; j += LANES) {
                            const Vec weight = exp_negative(load(line + j) - total);
                            store(line + j, weight);
                            store(d_line + j, weight * (load(d_line + j) - mean));
                        }
                        // keys of the last tile that this row does not see
                        const int64_t beyond = std::min(end + LANES, WIDTH);
                        std::fill(line + end, line + beyond, 0.0f);
                        std::fill(d_line + end, d_line + beyond, 0.0f);
                    }
                    multiply(rows, d_s, WIDTH, 1, keys_scaled, dim, d_q.at(b, begin + row, h),
                             d_q.position, dim, seen, first > 0);
                }
                const int64_t seen = std::min(keys, begin + count - first);
                for (int64_t j = 0; j < seen; j += ROWS) {
                    const int64_t rows = std::min<int64_t>(ROWS, seen - j);
                    const int64_t from = std::max(int64_t{0}, first + j - begin);  // the first that sees key j
                    multiply(rows, weights + from * WIDTH + j, 1, WIDTH, d_outs + from * dim, dim,
                             d_v.at(b, first + j, group), d_v.position, dim, count - from, true);
                    multiply(rows, d_scores + from * WIDTH + j, 1, WIDTH, queries + from * dim, dim,
                             d_k.at(b, first + j, group), d_k.position, dim, count - from, true);
                }
            }
        }
    }
}

static Tensor tensor(float* data, const int64_t* strides) {
    return {data, strides[0], strides[1], strides[2]};
}

// sizes: batch, length, heads, groups, dim, threads. strides: three for each tensor, in order.
extern "C" void attention_forward(float* q, float* k, float* v, float* out, float* logsumexp,
                                  const int64_t* sizes, const int64_t* strides, float scale) {
    const Sizes n{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
    const Tensor tq = tensor(q, strides), tk = tensor(k, strides + 3), tv = tensor(v, strides + 6),
                 to = tensor(out, strides + 9);
#pragma omp parallel for num_threads(sizes[5])
    for (int64_t task = 0; task < n.batch * n.heads; ++task)
        forward_head(tq, tk, tv, to, logsumexp + task * n.length, n, scale, task / n.heads,
                     task % n.heads);
}

extern "C" void attention_backward(float* d_out, float* q, float* k, float* v, float* out,
                                   float* logsumexp, float* d_q, float* d_k, float* d_v,
                                   const int64_t* sizes, const int64_t* strides, float scale) {
    const Sizes n{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
    const Tensor td = tensor(d_out, strides), tq = tensor(q, strides + 3),
                 tk = tensor(k, strides + 6), tv = tensor(v, strides + 9),
                 to = tensor(out, strides + 12), tdq = tensor(d_q, strides + 15),
                 tdk = tensor(d_k, strides + 18), tdv = tensor(d_v, strides + 21);
#pragma omp parallel for num_threads(sizes[5])
    for (int64_t task = 0; task < n.batch * n.groups; ++task) {
        const int64_t b = task / n.groups;
        backward_group(td, tq, tk, tv, to, logsumexp + b * n.heads * n.length, tdq, tdk, tdv, n,
                       scale, b, task % n.groups);
    }
}
