/* The two products of attention in registers, and the softmax between them, over one chunk of keys.
 *
 * Every score and every output is one accumulator: a score is summed over the head's dimensions in rising order, an
 * output over the keys in rising order, whatever rows and columns a tile holds. So a row's bits do not depend on the
 * rows it shares a tile with.
 */
#ifndef PENSTOCK_ATTENTION_TILES_H
#define PENSTOCK_ATTENTION_TILES_H

#include "numbers.h"

enum {
    CHUNK = 64,           /* keys of one round of the softmax, at multiples of CHUNK in the sequence */
    LANES = 16,           /* keys of a group, which lie side by side in each dimension; columns of a unit of values */
    GROUPS = CHUNK / LANES,
    VECTORS = LANES / W,
    ROWS = W == 4 ? 4 : 6, /* most rows of a register tile */
    MOST = 4 * VECTORS     /* and most vectors of a row. Arrays are of these sizes: one of a size that is constant only
                            * once its function is inlined would stay in memory. */
};

/* Groups of keys and units of values that a tile of so many rows holds: its accumulators just fit the registers, and
 * are enough of them to hide the latency of an addition. */
#define GROUPS_OF(rows) (W == 16 ? 4 : W == 8 ? ((rows) == 1 ? 4 : (rows) <= 3 ? 2 : 1) : (rows) == 1 ? 2 : 1)
#define UNITS_OF(rows) (W == 16 ? 4 : W == 8 ? ((rows) == 1 ? 4 : (rows) <= 3 ? 2 : 1) : (rows) == 1 ? 2 : 1)

/* One chunk of one head's keys and values, by groups: element (d, i) of a group of keys lies at d * key_stride + i,
 * element (i, c) of a group of values at i * value_stride + c. Each has a scale where the cache is of INT8. */
struct chunk {
    const char *keys[GROUPS], *values[GROUPS];
    const float *key_scales[GROUPS], *value_scales[GROUPS];
    int64_t key_stride, value_stride;
    int dtype;
};

/* scores[r][key] = q[r] . key for the groups [from, to); q is [dim][rows]. `next` is prefetched. */
INLINE void score_tile(const int rows, const int groups, const int dtype, const float *q, int dim,
                       const struct chunk *chunk, const struct chunk *next, int from, float *scores)
{
    const int size = dtype_size(dtype);
    vf acc[ROWS][MOST];
    const char *keys[GROUPS], *ahead[GROUPS];
    const int64_t step = chunk->key_stride * size;
#pragma GCC unroll 8
    for (int g = 0; g < groups; g++) {
        keys[g] = chunk->keys[from + g];
        ahead[g] = next->keys[from + g];
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int v = 0; v < groups * VECTORS; v++)
            acc[r][v] = vf_set(0.0f);
    for (const float *end = q + dim * rows; q < end; q += rows) {
        vf k[MOST];
#pragma GCC unroll 8
        for (int g = 0; g < groups; g++) {
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++)
                k[g * VECTORS + v] = vf_load_as(dtype, keys[g], v * W);
            __builtin_prefetch(ahead[g], 0, 3);
            keys[g] += step;
            ahead[g] += step;
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            vf value = vf_set(q[r]);
#pragma GCC unroll 16
            for (int v = 0; v < groups * VECTORS; v++)
                acc[r][v] = vf_fma(value, k[v], acc[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int v = 0; v < groups * VECTORS; v++)
            vf_store(scores + r * CHUNK + from * LANES + v * W, acc[r][v]);
}

/* out[r][column] += p[r][key] * value[key][column] for the keys [from, to), in `units` units of columns. */
INLINE void value_tile(const int rows, const int units, const int dtype, const float *p, const struct chunk *chunk,
                       const struct chunk *next, int from, int to, int column, float *out, int64_t out_stride)
{
    const int size = dtype_size(dtype);
    const int64_t step = chunk->value_stride * size;
    vf acc[ROWS][MOST];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int v = 0; v < units * VECTORS; v++)
            acc[r][v] = vf_load(out + r * out_stride + column + v * W);
    for (int key = from; key < to;) {
        int group = key / LANES, end = (group + 1) * LANES < to ? (group + 1) * LANES : to;
        const char *values = chunk->values[group] + (key % LANES) * step + column * size;
        const char *ahead = next->values[group] + (key % LANES) * step + column * size;
        const float *weights = p + key;
        for (; key < end; key++, weights++, values += step, ahead += step) {
            vf value[MOST];
#pragma GCC unroll 16
            for (int v = 0; v < units * VECTORS; v++)
                value[v] = vf_load_as(dtype, values, v * W);
#pragma GCC unroll 8
            for (int u = 0; u < units; u++)
                __builtin_prefetch(ahead + u * LANES * size, 0, 3);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                vf weight = vf_set(weights[r * CHUNK]);
#pragma GCC unroll 16
                for (int v = 0; v < units * VECTORS; v++)
                    acc[r][v] = vf_fma(weight, value[v], acc[r][v]);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int v = 0; v < units * VECTORS; v++)
            vf_store(out + r * out_stride + column + v * W, acc[r][v]);
}

/* All groups of [from, to). */
INLINE void score_rows(const int rows, const int dtype, const float *q, int dim, const struct chunk *chunk,
                       const struct chunk *next, int from, int to, float *scores)
{
    const int groups = GROUPS_OF(rows);
    for (int group = from / groups * groups; group < to; group += groups)
        score_tile(rows, groups, dtype, q, dim, chunk, next, group, scores);
}

/* All columns, in tiles of about equal width. */
INLINE void value_rows(const int rows, const int dtype, const float *p, const struct chunk *chunk,
                       const struct chunk *next, int from, int to, int columns, float *out, int64_t out_stride)
{
    const int widest = UNITS_OF(rows);
    for (int done = 0, units = columns / LANES; done < units;) {
        int tiles = (units - done + widest - 1) / widest, width = (units - done + tiles - 1) / tiles;
        int column = done * LANES;
        if (widest >= 4 && width == 4)
            value_tile(rows, 4, dtype, p, chunk, next, from, to, column, out, out_stride);
        else if (widest >= 3 && width == 3)
            value_tile(rows, 3, dtype, p, chunk, next, from, to, column, out, out_stride);
        else if (widest >= 2 && width == 2)
            value_tile(rows, 2, dtype, p, chunk, next, from, to, column, out, out_stride);
        else
            value_tile(rows, 1, dtype, p, chunk, next, from, to, column, out, out_stride);
        done += width;
    }
}

typedef void score_function(const float *q, int dim, const struct chunk *chunk, const struct chunk *next, int from,
                            int to, float *scores);
typedef void value_function(const float *p, const struct chunk *chunk, const struct chunk *next, int from, int to,
                            int columns, float *out, int64_t out_stride);

#define TILE(rows, dtype)                                                                                             \
    static void score_##rows##_##dtype(const float *q, int dim, const struct chunk *chunk, const struct chunk *next,  \
                                       int from, int to, float *scores)                                               \
    {                                                                                                                 \
        score_rows(rows, dtype, q, dim, chunk, next, from, to, scores);                                               \
    }                                                                                                                 \
    static void value_##rows##_##dtype(const float *p, const struct chunk *chunk, const struct chunk *next, int from, \
                                       int to, int columns, float *out, int64_t out_stride)                           \
    {                                                                                                                 \
        value_rows(rows, dtype, p, chunk, next, from, to, columns, out, out_stride);                                  \
    }
#if W == 4
#define TILES(dtype) TILE(1, dtype) TILE(2, dtype) TILE(3, dtype) TILE(4, dtype)
#define NAMES(what, dtype) {what##_1_##dtype, what##_2_##dtype, what##_3_##dtype, what##_4_##dtype}
#else
#define TILES(dtype) TILE(1, dtype) TILE(2, dtype) TILE(3, dtype) TILE(4, dtype) TILE(5, dtype) TILE(6, dtype)
#define NAMES(what, dtype)                                                                                            \
    {what##_1_##dtype, what##_2_##dtype, what##_3_##dtype, what##_4_##dtype, what##_5_##dtype, what##_6_##dtype}
#endif
TILES(F32) TILES(BF16) TILES(F16) TILES(INT8) TILES(E4M3)

#define OF_EACH(what)                                                                        \
    {[F32] = NAMES(what, F32), [BF16] = NAMES(what, BF16), [F16] = NAMES(what, F16),         \
     [INT8] = NAMES(what, INT8), [E4M3] = NAMES(what, E4M3)}
static score_function *const SCORE[][ROWS] = OF_EACH(score);
static value_function *const VALUE[][ROWS] = OF_EACH(value);

#endif
