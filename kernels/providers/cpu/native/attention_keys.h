/* What paged attention is told and works on, and where the keys and values of a chunk are: in the cache, in the order
 * that the tiles want them in, or in a piece's own memory, in float32.
 */
#ifndef PENSTOCK_ATTENTION_KEYS_H
#define PENSTOCK_ATTENTION_KEYS_H

#include "attention_tiles.h"

struct cache {
    const char *memory;
    int64_t block, offset, head, dim; /* strides in elements */
};

struct scales { /* of a cache of INT8 */
    const float *memory;
    int64_t block, offset, head; /* strides in elements */
};

struct attention {
    const float *q;
    struct cache keys, values;
    struct scales key_scales, value_scales;
    const int32_t *tables, *starts, *lengths; /* [S][table_stride], [S + 1], [S] */
    const float *slopes;                      /* [heads], or NULL */
    float *out;                               /* [T][heads][head_dim] */
    float *partials;                          /* [partial_rows][columns + 2]: outputs, greatest score, sum */
    int64_t q_token, q_head, table_stride, partial_rows;
    int32_t heads, kv_heads, head_dim, block_size, cache_dtype;
    int32_t window;        /* 0: none */
    float scale, soft_cap; /* 0: none */
};

enum {
    SPLIT = 512,
    TILE_ROWS = 48 /* most rows of a piece, over all its heads */
};

/* What one row has come to. */
struct row {
    float top, total;     /* greatest score and sum of weights, of the splits merged so far */
    float split_top;      /* of the running split */
    int merged;           /* splits */
    float split_lanes[W]; /* of the running split's sum */
};

struct piece {
    const struct attention *a;
    const int32_t *table;
    int head, heads;              /* the first key head, and how many */
    int group, columns;           /* query heads of a key head; head_dim in whole units */
    int first_query, context;     /* the sequence's first query in the step, and the keys before it */
    int first_row, rows;          /* of each head */
    float *q;                     /* [heads], [head_dim][rows] of each register tile, scaled */
    float *sums, *merged;         /* [heads][rows][columns], of the running split and of those before it */
    float *wide_keys, *wide_values;
    float scales[2][CHUNK];       /* of the wide keys, and of their values */
    float *scores;                /* [ROWS][CHUNK] */
    struct row state[TILE_ROWS];  /* [heads][rows] */
};

INLINE int least(int a, int b) { return a < b ? a : b; }
INLINE int most(int a, int b) { return a > b ? a : b; }
INLINE int up(int a, int b) { return (a + b - 1) / b; }

/* Whether groups lie in the cache in the tiles' order. */
static int in_groups(const struct attention *a)
{
    return a->keys.offset == 1 && a->values.dim == 1 && a->block_size % LANES == 0 && a->head_dim % LANES == 0 &&
           (a->cache_dtype != INT8 || (a->key_scales.offset == 1 && a->value_scales.offset == 1));
}

/* Whether tiles read them there. Numbers of 8 bits are made wide before where more than two tiles read them; they are the
 * same numbers either way. */
static int in_place(const struct piece *p)
{
    return in_groups(p->a) && (dtype_size(p->a->cache_dtype) > 1 || p->rows <= 2 * ROWS);
}

INLINE const float *scale_of(const struct piece *p, const struct scales *scales, int head, int position)
{
    int block_size = p->a->block_size;
    int64_t at = p->table[position / block_size] * scales->block + position % block_size * scales->offset;
    return scales->memory + at + head * scales->head;
}

/* The chunk at `start` of the first head as it lies in the cache. Groups without a key of [low, high) are never read for a result, and
 * stand for ones that have. */
static void locate(const struct piece *p, int start, int low, int high, struct chunk *chunk)
{
    const struct attention *a = p->a;
    const int size = dtype_size(a->cache_dtype);
    int first = most(low - start, 0) / LANES, last = (least(high - start, CHUNK) - 1) / LANES;
    for (int g = 0; g < GROUPS; g++) {
        int position = start + least(most(g, first), last) * LANES, offset = position % a->block_size;
        int64_t block = p->table[position / a->block_size];
        chunk->keys[g] =
            a->keys.memory + (block * a->keys.block + offset * a->keys.offset + p->head * a->keys.head) * size;
        chunk->values[g] =
            a->values.memory + (block * a->values.block + offset * a->values.offset + p->head * a->values.head) * size;
        if (a->cache_dtype == INT8) {
            chunk->key_scales[g] = scale_of(p, &a->key_scales, p->head, position);
            chunk->value_scales[g] = scale_of(p, &a->value_scales, p->head, position);
        }
    }
    chunk->key_stride = a->keys.dim;
    chunk->value_stride = a->values.offset;
    chunk->dtype = a->cache_dtype;
}

/* The same chunk of the next head. */
static void next_head(const struct attention *a, struct chunk *chunk)
{
    const int size = dtype_size(a->cache_dtype);
    for (int g = 0; g < GROUPS; g++) {
        chunk->keys[g] += a->keys.head * size;
        chunk->values[g] += a->values.head * size;
        if (a->cache_dtype == INT8) {
            chunk->key_scales[g] += a->key_scales.head;
            chunk->value_scales[g] += a->value_scales.head;
        }
    }
}

INLINE const char *element(const struct piece *p, const struct cache *cache, int head, int position)
{
    int block_size = p->a->block_size;
    int64_t at = p->table[position / block_size] * cache->block + position % block_size * cache->offset;
    return cache->memory + (at + head * cache->head) * dtype_size(p->a->cache_dtype);
}

static float number(int dtype, const char *from)
{
    char lanes[4 * W] = {0};
    memcpy(lanes, from, dtype_size(dtype));
    return vf_load_as(dtype, lanes, 0)[0];
}

/* A key and its value to float32, one number at a time. */
static void widen_one(const struct piece *p, int head, int position, float *key, float *value)
{
    const struct attention *a = p->a;
    const int dtype = a->cache_dtype, size = dtype_size(dtype);
    const char *from = element(p, &a->keys, head, position);
    for (int d = 0; d < a->head_dim; d++)
        key[d * LANES] = number(dtype, from + d * a->keys.dim * size);
    from = element(p, &a->values, head, position);
    for (int c = 0; c < p->columns; c++)
        value[c] = c < a->head_dim ? number(dtype, from + c * a->values.dim * size) : 0.0f;
}

/* The same for a group of keys that lies in the tiles' order, in a dtype of 8 bits. */
INLINE void widen_group(const int dtype, const struct piece *p, int head, int position, float *keys, float *values)
{
    const struct attention *a = p->a;
    const char *from = element(p, &a->keys, head, position);
    for (int d = 0; d < a->head_dim; d++)
#pragma GCC unroll 4
        for (int v = 0; v < LANES; v += W)
            vf_store(keys + d * LANES + v, vf_load_as(dtype, from + d * a->keys.dim, v));
    from = element(p, &a->values, head, position);
    for (int i = 0; i < LANES; i++)
        for (int c = 0; c < p->columns; c += W)
            vf_store(values + i * p->columns + c, vf_load_as(dtype, from + i * a->values.offset, c));
}

/* A head's keys [low, high) of the chunk at `start` in float32, keys [group][head_dim][LANES], values [key][columns]. */
static void widen(struct piece *p, int head, int start, int low, int high, struct chunk *chunk)
{
    const struct attention *a = p->a;
    int64_t dim = a->head_dim, columns = p->columns;
    int from = most(low - start, 0), to = least(high - start, CHUNK);
    if (in_groups(a))
        for (int i = from / LANES * LANES; i < to; i += LANES) {
            float *keys = p->wide_keys + i * dim, *values = p->wide_values + i * columns;
            if (a->cache_dtype == INT8)
                widen_group(INT8, p, head, start + i, keys, values);
            else
                widen_group(E4M3, p, head, start + i, keys, values);
        }
    else
        for (int i = from; i < to; i++)
            widen_one(p, head, start + i, p->wide_keys + i / LANES * LANES * dim + i % LANES,
                      p->wide_values + i * columns);
    for (int i = from; i < to && a->cache_dtype == INT8; i++) {
        p->scales[0][i] = *scale_of(p, &a->key_scales, head, start + i);
        p->scales[1][i] = *scale_of(p, &a->value_scales, head, start + i);
    }
    for (int g = 0; g < GROUPS; g++) {
        chunk->keys[g] = (const char *)(p->wide_keys + g * LANES * dim);
        chunk->values[g] = (const char *)(p->wide_values + g * LANES * columns);
        chunk->key_scales[g] = p->scales[0] + g * LANES;
        chunk->value_scales[g] = p->scales[1] + g * LANES;
    }
    chunk->key_stride = LANES;
    chunk->value_stride = columns;
    chunk->dtype = F32;
}

#endif
