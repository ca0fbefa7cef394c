/* Rotary embedding of queries and keys, and the write of keys and values to the paged cache. */
#include "numbers.h"
#include "team.h"

struct cache {
    char *memory;
    int64_t block, offset, head, dim; /* strides in elements */
};

struct scales { /* of a cache of INT8 */
    float *memory;
    int64_t block, offset, head; /* strides in elements */
};

struct rope_and_cache {
    const float *q, *k, *v;
    const int64_t *positions, *slots;
    const float *cos, *sin; /* [positions][head_dim / 2] */
    float *out;             /* [tokens][heads][head_dim] */
    struct cache keys, values;
    struct scales key_scales, value_scales;
    int64_t q_token, q_head, k_token, k_head, v_token, v_head; /* strides */
    int32_t heads, kv_heads, head_dim, block_size, cache_dtype;
};

enum { PIECE = 16 /* most tokens of a piece: as many neighbouring keys fill a cache line of each dimension */ };

/* Products and sums are rounded one by one, as the reference rounds them. */
static void rotate(const float *from, const float *cos, const float *sin, int half, float *to)
{
    int i = 0;
    for (; i + W <= half; i += W) {
        vf first = vf_load(from + i), second = vf_load(from + half + i), c = vf_load(cos + i), s = vf_load(sin + i);
        vf_store(to + i, first * c - second * s);
        vf_store(to + half + i, second * c + first * s);
    }
    for (; i < half; i++) {
        float first = from[i], second = from[half + i];
        to[i] = first * cos[i] - second * sin[i];
        to[half + i] = second * cos[i] + first * sin[i];
    }
}

/* A head's numbers to int8; gives their scale, as kernels/kv_formats.py has it. */
static float to_int8(const float *from, char *narrow, int dim)
{
    vf best = {0}, strange = {0};
    for (int i = 0; i < dim; i += W) {
        vf v = vf_load(from + i);
        best = vf_max(magnitude(v), best);
        strange += v - v; /* 0, or NaN where v is not finite */
    }
    float scale = vf_largest(best) / 127.0f + vf_sum(strange);
    if (scale != scale) {
        memset(narrow, 0, (size_t)dim);
        return scale;
    }
    vf divisor = vf_set(scale == 0.0f ? __builtin_inff() : scale);
    for (int i = 0; i < dim; i += W) {
        vb values = narrowed(nearest(clamp(vf_load(from + i) / divisor, -127.0f, 127.0f)));
        memcpy(narrow + i, &values, W);
    }
    return scale;
}

/* One head of one token to its place; `from` is filled up with zeros, and `narrow` has room for whole vectors. */
INLINE void write_head(const int dtype, const struct cache *cache, int64_t at, const float *from, char *narrow, int dim)
{
    if (dtype != F32 && dtype != INT8)
        for (int i = 0; i < dim; i += W)
            vf_store_as(dtype, narrow, i, vf_load(from + i));
    const char *source = dtype == F32 ? (const char *)from : narrow;
    const int size = dtype_size(dtype);
    char *to = cache->memory + at * size;
    if (cache->dim == 1)
        memcpy(to, source, (size_t)dim * size);
    else
        for (int i = 0; i < dim; i++)
            memcpy(to + i * cache->dim * size, source + i * size, size);
}

static void write_one(const struct rope_and_cache *a, const struct cache *cache, const struct scales *scales, int head,
                      int64_t slot, const float *from, char *narrow)
{
    int64_t block = slot / a->block_size, offset = slot % a->block_size;
    int64_t at = block * cache->block + offset * cache->offset + head * cache->head;
    int dim = a->head_dim;
    if (a->cache_dtype == F32)
        write_head(F32, cache, at, from, narrow, dim);
    else if (a->cache_dtype == BF16)
        write_head(BF16, cache, at, from, narrow, dim);
    else if (a->cache_dtype == F16)
        write_head(F16, cache, at, from, narrow, dim);
    else if (a->cache_dtype == E4M3)
        write_head(E4M3, cache, at, from, narrow, dim);
    else {
        int64_t place = block * scales->block + offset * scales->offset + head * scales->head;
        scales->memory[place] = to_int8(from, narrow, dim);
        write_head(INT8, cache, at, from, narrow, dim);
    }
}

/* Keys and values of one head. Neighbouring tokens follow each other, so that a line of transposed keys stays in the
 * first-level cache until it is full. */
static void write_tokens(const struct rope_and_cache *a, int head, int from, int to, float *rotated, char *narrow)
{
    int half = a->head_dim / 2;
    for (int token = from; token < to; token++) {
        int64_t row = a->positions[token] * half;
        rotate(a->k + token * a->k_token + head * a->k_head, a->cos + row, a->sin + row, half, rotated);
        write_one(a, &a->keys, &a->key_scales, head, a->slots[token], rotated, narrow);
        memcpy(rotated, a->v + token * a->v_token + head * a->v_head, (size_t)a->head_dim * sizeof(float));
        write_one(a, &a->values, &a->value_scales, head, a->slots[token], rotated, narrow);
    }
}

EXPORT void penstock_rope_and_cache(const void *args, const struct step *step, struct member *member)
{
    const struct rope_and_cache *a = args;
    int half = a->head_dim / 2, padded = (a->head_dim + W - 1) / W * W;
    float *rotated = scratch(2 * padded * (int64_t)sizeof(float));
    memset(rotated, 0, (size_t)padded * sizeof(float));
    int size = step->tokens / (4 * member->threads);
    size = size < 1 ? 1 : size > PIECE ? PIECE : size;
    for (int from; (from = next_piece(member) * size) < step->tokens;) {
        int to = from + size < step->tokens ? from + size : step->tokens;
        for (int head = 0; head < a->kv_heads; head++)
            write_tokens(a, head, from, to, rotated, (char *)(rotated + padded));
        for (int token = from; token < to; token++)
            for (int head = 0; head < a->heads; head++) {
                int64_t row = a->positions[token] * half;
                rotate(a->q + token * a->q_token + head * a->q_head, a->cos + row, a->sin + row, half,
                       a->out + ((int64_t)token * a->heads + head) * a->head_dim);
            }
    }
}
