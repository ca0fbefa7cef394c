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
/* Blocks of a row that is worth a sample, of a vector from each of so many blocks at least. */
enum { LONG = 100 };

/* W/2 doubles, for sums that a rounding of single floats would show in. */
typedef double vd __attribute__((vector_size(4 * W), may_alias));
INLINE vd vd_add_all(vd sum, vf v)
{
    typedef float half __attribute__((vector_size(2 * W)));
    half halves[2];
    memcpy(halves, &v, sizeof v);
    return sum + __builtin_convertvector(halves[0], vd) + __builtin_convertvector(halves[1], vd);
}

INLINE double vd_sum(vd v)
{
    double sum = v[0];
    for (int i = 1; i < W / 2; i++)
        sum += v[i];
    return sum;
}

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

INLINE vf of_keys(const int32_t *keys)
{
    vi key;
    memcpy(&key, keys, sizeof key);
    return (vf)(key ^ (key >> 31 & 0x7fffffff));
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

/* sums[i]: that of e^scaled(x) over the numbers whose scaled value is at least least[i], for a few values of which the
 * first is the least. Lanes of single floats are added up to doubles block by block.
 */
INLINE void row_masses(const struct row *row, const float *least, int count, double *sums)
{
    for (int i = 0; i < count; i++)
        sums[i] = 0.0;
    for (int32_t block = 0; block < row->blocks; block++) {
        if (scaled(row, row->peaks[block]) < least[0])
            continue;
        int32_t end = at_most((block + 1) * BLOCK, row->size);
        vf total[3] = {0};
        for (int32_t at = block * BLOCK; at < end; at += W) {
            vf s = (row_load(row->x, row->size, at) - row->best) / row->temperature, weight = vf_exp(s);
            for (int i = 0; i < count; i++)
                total[i] += (vf)((s >= least[i]) & (vi)weight);
        }
        for (int i = 0; i < count; i++)
            sums[i] += vd_sum(vd_add_all((vd){0}, total[i]));
    }
}

/* Keys from `least` to `most`. */
struct span {
    int32_t least, most;
};

INLINE int32_t fill_up(const struct row *row, int32_t count)
{
    for (int i = 0; i < W; i++) {
        row->keys[count + i] = INT32_MIN; /* below every number's */
        row->weights[count + i] = 0.0f;
    }
    return count;
}

/* Candidates: the keys in a span, each with the weight e^scaled(x) where `weighted`, else 1. Keys are those of
 * scaled(x) where `weighted`, else those of x. `every` is W, or a multiple of BLOCK to look at one vector in so many.
 * Returns how many there are.
 */
INLINE int32_t collect(const struct row *row, struct span span, int weighted, int32_t every)
{
    int32_t count = 0;
    for (int32_t at = 0; at < row->size; at += every) {
        if (row->peaks && at % BLOCK == 0) {
            float peak = row->peaks[at / BLOCK];
            if (key_of(weighted ? scaled(row, peak) : peak) < span.least) {
                at += every < BLOCK ? BLOCK - every : 0;
                continue;
            }
        }
        vf v = row_load(row->x, row->size, at);
        if (weighted)
            v = (v - row->best) / row->temperature;
        vi key = keys_of(v);
        uint32_t inside = vi_lanes((key >= span.least) & (key <= span.most));
        if (!inside)
            continue;
        for (int i = 0; i < W; i++) {
            row->keys[count] = key[i];
            count += inside >> i & 1;
        }
        if (at + W > row->size && span.least <= key_of(-__builtin_inff()))
            count -= at + W - row->size; /* what the last vector was filled up with */
    }
    for (int32_t at = 0; at < count; at += W)
        vf_store(row->weights + at, weighted ? vf_exp(of_keys(row->keys + at)) : vf_set(1.0f));
    return fill_up(row, count);
}

/* The greatest key of a span at which the weight of all numbers from it on reaches `target`: by halving the interval it
 * lies in, once by value and once by key, and forgetting the candidates outside. The candidates are all numbers in the
 * span, and those above it weigh `above`; if even then the weights fall short of the target, the cut is the least key.
 */
static struct cut find_cut(const struct row *row, int32_t count, struct span span, double above, double target)
{
    int64_t low = span.least, high = (int64_t)span.most + 1;
    int32_t live = count;
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
    struct span span = {key_of(-__builtin_inff()), key_of(row->best)};
    if (count <= row->blocks) { /* So many peaks are no smaller than this, so the number sought is not either. */
        struct row peaks = *row;
        peaks.x = row->peaks;
        peaks.size = row->blocks;
        peaks.peaks = NULL;
        span.least = find_cut(&peaks, collect(&peaks, span, 0, W), span, 0.0, count).key;
    }
    return find_cut(row, collect(row, span, 0, W), span, 0.0, count);
}

/* The cut by `share` of the mass, below 1, of the numbers whose scaled value has at least the key `least`; *target is
 * that part of the mass. A sample of a long row says about where the cut lies, which one pass confirms or corrects.
 */
INLINE struct cut cut_by_share(const struct row *row, int32_t least, double share, double *target)
{
    struct span all = {least, key_of(0.0f)};
    float from[3] = {of_key(least), of_key(least), 0.0f};
    double mass[3];
    if (row->blocks >= LONG)
        for (int guess = 1; guess < 3; guess++) {
            int32_t count = collect(row, all, 1, row->blocks / LONG * BLOCK);
            double sampled = 0.0;
            for (int32_t at = 0; at < count; at++)
                sampled += row->weights[at];
            double about = guess == 1 ? 0.5 + 0.5 * share : 0.9 * share;
            from[guess] = of_key(find_cut(row, count, all, 0.0, about * sampled).key);
        }
    row_masses(row, from, 3, mass);
    *target = share * mass[0];
    struct span span = {key_of(from[2]), all.most};
    double above = 0.0;
    if (mass[2] < *target) {
        span = (struct span){key_of(from[1]), key_of(from[2]) - 1};
        above = mass[2];
    }
    if (mass[1] < *target) {
        span = (struct span){least, key_of(from[1]) - 1};
        above = mass[1];
    }
    /* Numbers of less than this weight have less than the rest of the mass together: none of them is reached. */
    int32_t reached = key_of((float)log((1.0 - share) * mass[0] / row->size) - 0.01f);
    if (reached > span.least && reached <= span.most)
        span.least = reached;
    return find_cut(row, collect(row, span, 1, W), span, above, *target);
}

#endif
