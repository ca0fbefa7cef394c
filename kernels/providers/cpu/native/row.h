/* A row of logits: its peaks, and which of its numbers are the greatest, without sorting it.
 *
 * Numbers are compared by keys, integers in the same order. Nothing here depends on another row.
 */
#ifndef PENSTOCK_ROW_H
#define PENSTOCK_ROW_H

#include <math.h>

#include "team.h"
#include "vec.h"

/* Numbers with one peak: a search for great numbers passes over the others' blocks. */
enum { BLOCK = 128 };

struct row {
    const float *x;
    int32_t size, blocks;
    float best, temperature; /* what is searched and summed is (x - best) / temperature, or x itself */
    float *peaks;            /* [blocks] the greatest number of each block */
    int32_t *keys;           /* [size + 2 W] room for candidates, */
    float *weights;          /* and for their weights */
};

/* The last of the numbers that are kept. */
struct cut {
    int32_t key;
    int32_t ties; /* numbers of this key */
    double above; /* weight of the numbers beyond it */
};

/* Bytes of memory for a row's peaks, and for all of a row. */
INLINE int64_t peaks_scratch(int32_t size) { return 4 * ((int64_t)size / BLOCK + 1); }
INLINE int64_t row_scratch(int32_t size) { return peaks_scratch(size) + 8 * ((int64_t)size + 2 * W); }

INLINE int32_t key_of(float x)
{
    int32_t bits;
    x += 0.0f; /* -0 to 0 */
    memcpy(&bits, &x, 4);
    return bits ^ (bits >> 31 & 0x7fffffff);
}

INLINE float of_key(int32_t key)
{
    float x;
    key ^= key >> 31 & 0x7fffffff;
    memcpy(&x, &key, 4);
    return x;
}

INLINE vi keys_of(vf x)
{
    vi bits = (vi)(x + 0.0f);
    return bits ^ (bits >> 31 & 0x7fffffff);
}

INLINE float scaled(const struct row *row, float x) { return (x - row->best) / row->temperature; }

INLINE int32_t at_most(int32_t a, int32_t b) { return a < b ? a : b; }

/* The last vector of a row is filled up with -inf. */
INLINE vf row_load(const float *x, int32_t size, int32_t at)
{
    if (at + W <= size)
        return vf_load(x + at);
    return vf_load_some(x + at, size - at, -__builtin_inff());
}

/* Lays a row out in scratch memory and finds its peaks. Nonzero in a lane of *nan where a number is NaN. */
static struct row open_row(const float *x, int32_t size, void *memory, vi *nan)
{
    struct row row = {.x = x, .size = size, .blocks = (size + BLOCK - 1) / BLOCK, .temperature = 1.0f};
    row.peaks = memory;
    row.keys = (int32_t *)(row.peaks + size / BLOCK + 1);
    row.weights = (float *)(row.keys + size + 2 * W);
    row.best = -__builtin_inff();
    *nan = (vi){0};
    for (int32_t block = 0; block < row.blocks; block++) {
        int32_t at = block * BLOCK, end = at_most(at + BLOCK, size);
        vf peak = vf_set(-__builtin_inff());
        for (; at < end; at += W) {
            vf v = row_load(x, size, at);
            *nan |= v != v;
            peak = vf_max(v, peak);
        }
        row.peaks[block] = vf_largest(peak);
        row.best = row.peaks[block] > row.best ? row.peaks[block] : row.best;
    }
    return row;
}

/* The sum of e^scaled(x) over the numbers whose scaled value has at least this key. */
static double row_mass(const struct row *row, int32_t least)
{
    vd sum = {0};
    for (int32_t block = 0; block < row->blocks; block++) {
        if (key_of(scaled(row, row->peaks[block])) < least)
            continue;
        int32_t end = at_most((block + 1) * BLOCK, row->size);
        for (int32_t at = block * BLOCK; at < end; at += W) {
            vf s = (row_load(row->x, row->size, at) - row->best) / row->temperature;
            sum = vd_add_all(sum, vf_select(keys_of(s) >= least, vf_exp(s), vf_set(0.0f)));
        }
    }
    return vd_sum(sum);
}

INLINE int32_t fill_up(const struct row *row, int32_t count)
{
    for (int i = 0; i < W; i++) {
        row->keys[count + i] = INT32_MIN; /* below every number's */
        row->weights[count + i] = 0.0f;
    }
    return count;
}

/* Candidates: the keys that are at least `least`, each with the weight e^scaled(x) where `weighted`, else 1. Keys are
 * those of scaled(x) where `weighted`, else those of x. Returns how many there are.
 */
INLINE int32_t collect(const struct row *row, const float *x, int32_t size, int32_t least, int weighted)
{
    int32_t count = 0;
    for (int32_t at = 0; at < size; at += W) {
        if (x == row->x && at % BLOCK == 0) {
            float peak = row->peaks[at / BLOCK];
            if (key_of(weighted ? scaled(row, peak) : peak) < least) {
                at += BLOCK - W;
                continue;
            }
        }
        vf v = row_load(x, size, at), weight = vf_set(1.0f);
        if (weighted)
            v = (v - row->best) / row->temperature;
        vi key = keys_of(v);
        if (!vi_any(key >= least))
            continue;
        if (weighted)
            weight = vf_exp(v);
        for (int i = 0; i < at_most(W, size - at); i++) {
            row->keys[count] = key[i];
            row->weights[count] = weight[i];
            count += key[i] >= least;
        }
    }
    return fill_up(row, count);
}

/* The greatest key at which the weight of all candidates from it on reaches `target`: by halving the interval it lies
 * in, once by value and once by key, and forgetting the candidates outside. `least` is at most every candidate's key
 * and `most` at least; if all weights together fall short of the target, the cut is `least`.
 */
static struct cut find_cut(const struct row *row, int32_t count, int32_t least, int32_t most, double target)
{
    int64_t low = least, high = (int64_t)most + 1;
    int32_t live = count;
    double above = 0.0;
    for (int round = 0; high - low > 1; round++) {
        int64_t middle = low + (high - low) / 2;
        if (round % 2 == 0) {
            int64_t by_value = key_of(of_key((int32_t)low) * 0.5f + of_key((int32_t)(high - 1)) * 0.5f);
            middle = by_value > low && by_value < high ? by_value : middle;
        }
        vd sum = {0};
        vi inside = {0};
        for (int32_t at = 0; at < count; at += W) {
            vi key;
            memcpy(&key, row->keys + at, sizeof key);
            vi is_inside = (key >= (int32_t)middle) & (key <= (int32_t)(high - 1));
            inside -= is_inside;
            sum = vd_add_all(sum, (vf)(is_inside & (vi)vf_load(row->weights + at)));
        }
        int32_t upper = 0;
        for (int i = 0; i < W; i++)
            upper += inside[i];
        double mass = above + vd_sum(sum);
        if (mass >= target) {
            low = middle;
            live = upper;
        } else {
            high = middle;
            live -= upper;
            above = mass;
        }
        if (live > count / 2)
            continue;
        int32_t kept = 0;
        for (int32_t at = 0; at < count; at++) {
            int32_t key = row->keys[at];
            row->keys[kept] = key;
            row->weights[kept] = row->weights[at];
            kept += key >= low && key < high;
        }
        count = fill_up(row, kept);
    }
    return (struct cut){(int32_t)low, live, above};
}

/* The `count`-th greatest number of a row, 1 to its size: a cut of keys of x. */
static struct cut greatest(const struct row *row, int32_t count)
{
    int32_t least = key_of(-__builtin_inff()), most = key_of(row->best);
    if (count <= row->blocks) { /* So many peaks are no smaller than this, so the number sought is not either. */
        int32_t peaks = collect(row, row->peaks, row->blocks, least, 0);
        least = find_cut(row, peaks, least, most, count).key;
    }
    return find_cut(row, collect(row, row->x, row->size, least, 0), least, most, count);
}

#endif
