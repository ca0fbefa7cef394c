/* One piece of paged attention: a sequence, some key heads and a tile of rows, which are the query heads that share a
 * key head, position by position. The key heads take turns at each chunk of keys: theirs lie side by side in a block.
 *
 * Keys are taken in chunks of CHUNK with a running softmax (Milakov and Gimelshein 2018; Dao et al. 2022), and a result
 * is put together from splits of SPLIT keys. Both are cut at multiples in the sequence, whatever the query, the window
 * and the step, so that a query position always reduces over its keys in one order.
 */
#ifndef PENSTOCK_ATTENTION_PIECE_H
#define PENSTOCK_ATTENTION_PIECE_H

#include <float.h>

#include "attention_keys.h"

/* The first key that a position sees; the last is its own. */
INLINE int first_key(const struct attention *a, int position)
{
    return a->window ? most(position - a->window + 1, 0) : 0;
}
INLINE int position_of(const struct piece *p, int row) { return p->context + (p->first_row + row) / p->group; }

/* Register tiles of about equal height: where tile `at` ends. */
INLINE int tile_end(int rows, int at) { return (at + 1) * rows / up(rows, ROWS); }

static void load_queries(struct piece *p)
{
    const struct attention *a = p->a;
    float *to = p->q;
    for (int head = p->head; head < p->head + p->heads; head++)
        for (int tile = 0, from = 0; from < p->rows; tile++) {
            int end = tile_end(p->rows, tile), height = end - from;
            for (int r = 0; r < height; r++) {
                int row = p->first_row + from + r;
                const float *q = a->q + (p->first_query + row / p->group) * a->q_token +
                                 (head * p->group + row % p->group) * a->q_head;
                for (int d = 0; d < a->head_dim; d++)
                    to[d * height + r] = q[d] * a->scale;
            }
            to += height * a->head_dim;
            from = end;
        }
}

/* What has been computed of the keys [low, high), times their scales. */
static void apply(const float *const *scales, int low, int high, float *x)
{
    for (int i = low / W * W; i < high; i += W)
        vf_store(x + i, vf_load(x + i) * vf_load(scales[i / LANES] + i % LANES));
}

/* cap * tanh(x / cap); the error is that of tanh near 1, relative to the cap. */
INLINE vf capped(vf x, float cap)
{
    vf e = vf_exp(x * (2.0f / cap));
    return vf_select(e > 1e30f, vf_set(cap), (e - 1.0f) / (e + 1.0f) * cap);
}

static void shape_scores(const struct piece *p, int head, int row, float *scores, int start, int from, int to)
{
    static const float LANE[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const struct attention *a = p->a;
    int distance = start - position_of(p, row);
    float slope = a->slopes ? a->slopes[head * p->group + (p->first_row + row) % p->group] : 0.0f;
    for (int i = from; i < to; i += W) {
        vf x = vf_load(scores + i);
        if (a->soft_cap != 0.0f)
            x = capped(x, a->soft_cap);
        if (a->slopes)
            x = vf_fma(vf_load(LANE) + (float)(distance + i), vf_set(slope), x);
        vf_store(scores + i, x);
    }
}

/* A row's scores of the keys [low, high) of a chunk become weights, and their sum is counted. Gives the factor that is
 * due to the row's outputs so far. Beside the keys any score may stand, NaN even; the weight there is 0. */
static float weigh(struct row *row, float *scores, int low, int high)
{
    int from = low / W * W, to = up(high, W) * W;
    for (int i = from; i < low; i++)
        scores[i] = -__builtin_inff();
    for (int i = high; i < to; i++)
        scores[i] = -__builtin_inff();
    vf best = vf_load(scores + from);
    for (int i = from + W; i < to; i += W)
        best = vf_max(best, vf_load(scores + i));
    float largest = vf_largest(best), before = row->split_top, factor = 1.0f;
    vf sum = vf_load(row->split_lanes);
    if (largest > before) {
        factor = vf_exp_of_negative(vf_set(before - largest))[0];
        sum = sum * factor;
        row->split_top = before = largest;
    }
    const vf top = vf_set(before);
#pragma GCC unroll 2
    for (int i = from; i < to; i += W) {
        vf weight = vf_exp_of_negative(vf_load(scores + i) - top);
        vf_store(scores + i, weight);
        sum = sum + weight;
    }
    vf_store(row->split_lanes, sum);
    return factor;
}

/* One register tile: rows [from, from + height) of the piece's head-th head, at the chunk at `start`. Only keys that a row sees are
 * added to it: the rows take together those that all of them see, and one by one what is beside those. */
static void attend_tile(struct piece *p, int head, const float *q, int from, int height, int start,
                        const struct chunk *chunk, const struct chunk *next)
{
    const struct attention *a = p->a;
    int low[ROWS] = {0}, high[ROWS] = {0}, columns = p->columns;
    struct row *state = p->state + head * p->rows + from;
    float *scores = p->scores, *sums = p->sums + (head * p->rows + from) * columns;
    for (int r = 0; r < height; r++) {
        int position = position_of(p, from + r);
        low[r] = most(first_key(a, position) - start, 0);
        high[r] = least(position + 1 - start, CHUNK);
    }
    int common = low[height - 1], common_end = high[0], end = high[height - 1];
    if (low[0] >= end)
        return;
    SCORE[chunk->dtype][height - 1](q, a->head_dim, chunk, next, low[0] / LANES, up(end, LANES), scores);
    for (int r = 0; r < height; r++)
        if (low[r] < high[r]) {
            if (a->cache_dtype == INT8)
                apply(chunk->key_scales, low[r], high[r], scores + r * CHUNK);
            if (a->slopes || a->soft_cap != 0.0f)
                shape_scores(p, p->head + head, from + r, scores + r * CHUNK, start, low[r] / W * W, up(high[r], W) * W);
            float factor = weigh(&state[r], scores + r * CHUNK, low[r], high[r]);
            if (factor != 1.0f)
                for (int c = 0; c < columns; c += W)
                    vf_store(sums + r * columns + c, vf_load(sums + r * columns + c) * factor);
            if (a->cache_dtype == INT8) /* the weights of their values */
                apply(chunk->value_scales, low[r], high[r], scores + r * CHUNK);
        }
    value_function *one = VALUE[chunk->dtype][0];
    if (common >= common_end)
        common = common_end = CHUNK;
    for (int r = 0; r < height; r++)
        if (low[r] < least(common, high[r]))
            one(scores + r * CHUNK, chunk, next, low[r], least(common, high[r]), columns, sums + r * columns, columns);
    if (common < common_end)
        VALUE[chunk->dtype][height - 1](scores, chunk, next, common, common_end, columns, sums, columns);
    for (int r = 0; r < height; r++)
        if (most(common_end, low[r]) < high[r])
            one(scores + r * CHUNK, chunk, next, most(common_end, low[r]), high[r], columns, sums + r * columns, columns);
}

/* All rows of a piece over one split: outputs, not yet divided by the sum of the weights, to p->sums. */
static void attend_split(struct piece *p, int split)
{
    int low = first_key(p->a, position_of(p, 0)), high = position_of(p, p->rows - 1) + 1;
    int from = most(split * SPLIT, low), to = least((split + 1) * SPLIT, high);
    memset(p->sums, 0, (size_t)p->heads * p->rows * p->columns * sizeof(float));
    for (int r = 0; r < p->heads * p->rows; r++) {
        p->state[r].split_top = -FLT_MAX;
        memset(p->state[r].split_lanes, 0, sizeof p->state[r].split_lanes);
    }
    struct chunk chunk, next;
    if (in_place(p))
        locate(p, from / CHUNK * CHUNK, low, high, &next);
    for (int start = from / CHUNK * CHUNK; start < to; start += CHUNK) {
        const float *q = p->q;
        for (int head = 0; head < p->heads; head++) {
            if (!in_place(p))
                widen(p, p->head + head, start, low, high, &next);
            chunk = next;
            if (in_place(p)) {
                if (head + 1 < p->heads)
                    next_head(p->a, &next);
                else if (start + CHUNK < high)
                    locate(p, start + CHUNK, low, high, &next);
            }
            for (int tile = 0, row = 0; row < p->rows; tile++) {
                int height = tile_end(p->rows, tile) - row;
                attend_tile(p, head, q, row, height, start, &chunk, &next);
                q += height * p->a->head_dim;
                row += height;
            }
        }
    }
}

/* Adds a split's outputs, greatest score and sum to a row's. */
static void merge(struct row *row, float *merged, const float *sums, float top, float total, int columns)
{
    if (!row->merged++) {
        memcpy(merged, sums, (size_t)columns * sizeof(float));
        row->top = top;
        row->total = total;
        return;
    }
    float best = top > row->top ? top : row->top;
    float old = vf_exp(vf_set(row->top - best))[0], new = vf_exp(vf_set(top - best))[0];
    for (int c = 0; c < columns; c += W)
        vf_store(merged + c, vf_fma(vf_load(sums + c), vf_set(new), vf_load(merged + c) * old));
    row->total = row->total * old + total * new;
    row->top = best;
}

/* `row` counts through the heads. */
static void write_row(const struct piece *p, int row, float total, float *merged)
{
    const struct attention *a = p->a;
    int key_head = p->head + row / p->rows;
    row %= p->rows;
    int64_t token = p->first_query + (p->first_row + row) / p->group;
    int head = key_head * p->group + (p->first_row + row) % p->group;
    for (int c = 0; c < p->columns; c += W)
        vf_store(merged + c, vf_load(merged + c) / total);
    memcpy(a->out + (token * a->heads + head) * a->head_dim, merged, (size_t)a->head_dim * sizeof(float));
}

/* `row` counts through the heads. */
static int sees(const struct piece *p, int row, int split)
{
    int position = position_of(p, row % p->rows);
    return position >= split * SPLIT && first_key(p->a, position) < (split + 1) * SPLIT;
}

#endif
