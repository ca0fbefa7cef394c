/* Matrix products x @ weight.T over packed weights, for 1 row to thousands.
 *
 * Every output is one accumulator, summed over the inputs in rising order by fused multiply-adds, whatever the number of
 * rows and wherever the loops are cut: partial sums are stored and loaded again without rounding. So a row's result
 * does not depend on the rows beside it.
 */
#include "gemm.h"
#include "team.h"

struct linear {
    const float *x;
    float *out;
    const char *weight;  /* packed */
    const float *scales; /* INT8: of each column, padded to whole panels; else NULL */
    const float *bias;   /* padded to whole panels, or NULL */
    int64_t x_stride, out_stride;
    int32_t in_features, out_features;
    int32_t format;
};

enum {
    DEPTH = 256,        /* inputs of a block: its panel, in float32, stays in the first-level cache */
    BLOCK_ROWS = 192,   /* rows of a block: with DEPTH inputs they stay in the second-level cache */
    GROUP_PANELS = 8,   /* most panels of a piece */
    WIDEN_ROWS = 2 * ROWS, /* from here on, and in INT4 always, a block of weights is widened once for all rows */
    AHEAD = 2048        /* bytes that a single pass over the weights is prefetched ahead */
};

/* Asks for the next `lines` cache lines. */
INLINE const char *prefetch(const char *from, int lines)
{
    for (int i = 0; i < lines; i++)
        __builtin_prefetch(from + 64 * i, 0, 3);
    return from + 64 * lines;
}

/* One input's share of a tile: acc[r][v] += x[r] * weight[v], the weights given by `load`. Where a tile spans several
 * panels it is low, and each vector of weights is used up before the next is loaded.
 */
#define MULTIPLY_ADD(load)                                                                                            \
    if (panels > 1) {                                                                                                 \
        _Pragma("GCC unroll 8") for (int v = 0; v < panels * VECTORS; v++)                                            \
        {                                                                                                             \
            vf w = load;                                                                                              \
            _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++)                                                   \
                acc[r][v] = vf_fma(vf_set(x[r * x_stride]), w, acc[r][v]);                                            \
        }                                                                                                             \
    } else {                                                                                                          \
        vf weights[VECTORS];                                                                                          \
        _Pragma("GCC unroll 8") for (int v = 0; v < VECTORS; v++) weights[v] = load;                                  \
        _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++)                                                       \
        {                                                                                                             \
            vf value = vf_set(x[r * x_stride]);                                                                       \
            _Pragma("GCC unroll 8") for (int v = 0; v < VECTORS; v++)                                                 \
                acc[r][v] = vf_fma(value, weights[v], acc[r][v]);                                                     \
        }                                                                                                             \
    }

/* sums[r][v] += x[r][k] * weight[k][v] for k in [0, depth). rows, panels and format are constants where it is inlined,
 * so that the accumulators stay in registers. `ahead` is prefetched, `lines` for every 8 inputs.
 */
INLINE void tile(const int rows, const int panels, const int format, const float *x, int64_t x_stride,
                 const char *weight, int64_t panel_stride, int depth, float *sums, int64_t sums_stride, int first,
                 const char *ahead, int lines)
{
    vf acc[ROWS][4 * VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < panels * VECTORS; v++)
            acc[r][v] = first ? vf_set(0.0f) : vf_load(sums + r * sums_stride + v * W);
    if (format == INT4) {
        for (int k = 0; k < depth; k += GROUP, weight += GROUP_BYTES) {
            ahead = prefetch(ahead, lines * (GROUP / 8));
            vf scale[4 * VECTORS];
#pragma GCC unroll 8
            for (int v = 0; v < panels * VECTORS; v++)
                scale[v] = group_scale(weight + v / VECTORS * panel_stride, v % VECTORS);
            for (int pair = 0; pair < GROUP / 2; pair++, x += 2)
#pragma GCC unroll 8
                for (int v = 0; v < panels * VECTORS; v++) {
                    vf even, odd;
                    group_load(weight + v / VECTORS * panel_stride, pair, v % VECTORS, scale[v], &even, &odd);
#pragma GCC unroll 12
                    for (int r = 0; r < rows; r++) {
                        acc[r][v] = vf_fma(vf_set(x[r * x_stride]), even, acc[r][v]);
                        acc[r][v] = vf_fma(vf_set(x[r * x_stride + 1]), odd, acc[r][v]);
                    }
                }
        }
    } else {
        int64_t step = panel_bytes(format, 1);
        for (; depth >= 8; depth -= 8) {
            ahead = prefetch(ahead, lines);
#pragma GCC unroll 4
            for (int j = 0; j < 8; j++, x++, weight += step)
                MULTIPLY_ADD(panel_load(format, weight + v / VECTORS * panel_stride, 0, v % VECTORS))
        }
        for (; depth > 0; depth--, x++, weight += step)
            MULTIPLY_ADD(panel_load(format, weight + v / VECTORS * panel_stride, 0, v % VECTORS))
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < panels * VECTORS; v++)
            vf_store(sums + r * sums_stride + v * W, acc[r][v]);
}

typedef void tile_function(const float *x, int64_t x_stride, const char *weight, int64_t panel_stride, int depth,
                           float *sums, int64_t sums_stride, int first, const char *ahead, int lines);

#define TILE(rows, panels, format)                                                                                    \
    static void tile_##rows##_##panels##_##format(const float *x, int64_t x_stride, const char *weight,               \
                                                  int64_t panel_stride, int depth, float *sums, int64_t sums_stride,  \
                                                  int first, const char *ahead, int lines)                            \
    {                                                                                                                 \
        tile(rows, panels, format, x, x_stride, weight, panel_stride, depth, sums, sums_stride, first, ahead, lines); \
    }
#define TILES(format)                                                                                                 \
    TILE(1, 4, format) TILE(2, 2, format) TILE(1, 1, format) TILE(2, 1, format) TILE(3, 1, format)                    \
    TILE(4, 1, format) TILE(5, 1, format) TILE(6, 1, format)                                                          \
    MORE_TILES(format)
#define NAMES(format)                                                                                                 \
    {tile_1_1_##format, tile_2_1_##format, tile_3_1_##format, tile_4_1_##format, tile_5_1_##format,                   \
     tile_6_1_##format MORE_NAMES(format)}
#if W == 16
#define MORE_TILES(format)                                                                                            \
    TILE(7, 1, format) TILE(8, 1, format) TILE(9, 1, format) TILE(10, 1, format) TILE(11, 1, format)                  \
    TILE(12, 1, format)
#define MORE_NAMES(format)                                                                                            \
    , tile_7_1_##format, tile_8_1_##format, tile_9_1_##format, tile_10_1_##format, tile_11_1_##format,                \
        tile_12_1_##format
#else
#define MORE_TILES(format)
#define MORE_NAMES(format)
#endif

TILES(F32) TILES(BF16) TILES(F16) TILES(INT8) TILES(INT4)

static tile_function *const TILE_OF[][ROWS] = {NAMES(F32), NAMES(BF16), NAMES(F16), NAMES(INT8), NAMES(INT4)};
static tile_function *const ONE_ROW[] = {tile_1_4_F32, tile_1_4_BF16, tile_1_4_F16, tile_1_4_INT8, tile_1_4_INT4};
static tile_function *const TWO_ROWS[] = {tile_2_2_F32, tile_2_2_BF16, tile_2_2_F16, tile_2_2_INT8, tile_2_2_INT4};

/* `depth` inputs of a panel in float32, [depth][PANEL]. */
static void widen(int format, const char *panel, int depth, float *to)
{
    if (format == INT4) {
        for (int k = 0; k < depth; k += GROUP, panel += GROUP_BYTES)
            for (int v = 0; v < VECTORS; v++) {
                vf scale = group_scale(panel, v), even, odd;
                for (int pair = 0; pair < GROUP / 2; pair++) {
                    group_load(panel, pair, v, scale, &even, &odd);
                    vf_store(to + (int64_t)(k + 2 * pair) * PANEL + v * W, even);
                    vf_store(to + (int64_t)(k + 2 * pair + 1) * PANEL + v * W, odd);
                }
            }
        return;
    }
    for (int k = 0; k < depth; k++)
        for (int v = 0; v < VECTORS; v++)
            vf_store(to + (int64_t)k * PANEL + v * W, panel_load(format, panel, k, v));
}

/* Finished sums [rows][panels * PANEL] to their place: scaled, bias added, what pads the last panel left out. */
static void finish(const struct linear *a, const float *sums, int64_t sums_stride, int row, int rows, int panel,
                   int panels)
{
    for (int r = 0; r < rows; r++) {
        float *out = a->out + (row + r) * a->out_stride;
        for (int at = 0; at < panels * PANEL; at += W) {
            int column = panel * PANEL + at;
            vf value = vf_load(sums + r * sums_stride + at);
            if (a->scales)
                value = value * vf_load(a->scales + column);
            if (a->bias)
                value = value + vf_load(a->bias + column);
            if (column + W <= a->out_features)
                vf_store(out + column, value);
            else
                for (int i = 0; column + i < a->out_features; i++)
                    out[column + i] = value[i];
        }
    }
}

/* All rows in one tile: the weights pass by once. */
static void few_rows(const struct linear *a, int rows, int panel, int panels)
{
    float sums[ROWS * 4 * PANEL];
    int64_t stride = panel_bytes(a->format, a->in_features);
    int wide = rows == 1 ? 4 : rows == 2 ? 2 : 1;
    int lines = (int)((panel_bytes(a->format, GROUP) / 4 + 63) / 64);
    for (int done = 0; done < panels;) {
        int several = panels - done >= wide ? wide : 1;
        tile_function *run = several == 4   ? ONE_ROW[a->format]
                             : several == 2 ? TWO_ROWS[a->format]
                                            : TILE_OF[a->format][rows - 1];
        const char *weight = a->weight + (panel + done) * stride;
        run(a->x, a->x_stride, weight, stride, a->in_features, sums, several * PANEL, 1, weight + AHEAD,
            several == 1 ? lines : 0);
        finish(a, sums, several * PANEL, 0, rows, panel + done, several);
        done += several;
    }
}

/* Rows [row, row + rows) in tiles of about equal height, blocked over the inputs. */
static void many_rows(const struct linear *a, int row, int rows, int panel, int panels)
{
    int64_t sums_stride = (int64_t)panels * PANEL;
    float *widened = scratch((DEPTH * PANEL + BLOCK_ROWS * GROUP_PANELS * PANEL) * (int64_t)sizeof(float));
    float *sums = widened + DEPTH * PANEL;
    int tiles = (rows + ROWS - 1) / ROWS;
    int64_t stride = panel_bytes(a->format, a->in_features);
    int format = rows >= WIDEN_ROWS || a->format == INT4 ? F32 : a->format;
    int lines = (int)((panel_bytes(a->format, GROUP) / 4 / 64 + tiles - 1) / tiles);
    for (int k = 0; k < a->in_features; k += DEPTH) {
        int depth = a->in_features - k < DEPTH ? a->in_features - k : DEPTH;
        for (int p = 0; p < panels; p++) {
            const char *block = a->weight + (panel + p) * stride + panel_bytes(a->format, k);
            const char *ahead = p + 1 < panels ? block + stride : block - (panels - 1) * stride + panel_bytes(a->format, depth);
            const char *weight = block;
            if (format != a->format) {
                widen(a->format, block, depth, widened);
                weight = (const char *)widened;
            }
            int from = 0;
            for (int t = 0; t < tiles; t++) {
                int height = (rows - from + tiles - t - 1) / (tiles - t);
                TILE_OF[format][height - 1](a->x + (row + from) * a->x_stride + k, a->x_stride, weight, stride, depth,
                                            sums + from * sums_stride + p * PANEL, sums_stride, k == 0,
                                            ahead + (int64_t)t * lines * (depth / 8) * 64, lines);
                from += height;
            }
        }
    }
    finish(a, sums, sums_stride, row, rows, panel, panels);
}

/* out[t][n] = sum over k of x[t][k] * weight[n][k], times the scale, plus the bias. */
EXPORT void penstock_linear(const void *args, const struct step *step, struct member *member)
{
    const struct linear *a = args;
    int rows = step->tokens, panels = (a->out_features + PANEL - 1) / PANEL;
    int blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    int group = panels / (4 * member->threads);
    group = group < 1 ? 1 : group > GROUP_PANELS ? GROUP_PANELS : group;
    if (rows <= 2 && group < 4)
        group = panels < 4 ? panels : 4;
    int groups = (panels + group - 1) / group;
    for (int piece; (piece = next_piece(member)) < groups * blocks;) {
        int first = piece % groups * group, count = panels - first < group ? panels - first : group;
        if (rows <= ROWS) {
            few_rows(a, rows, first, count);
            continue;
        }
        int block = piece / groups;
        int row = (int)((int64_t)rows * block / blocks), end = (int)((int64_t)rows * (block + 1) / blocks);
        many_rows(a, row, end - row, first, count);
    }
}

struct rows {
    const int32_t *ids;
    float *out;
    const char *weight;
    const float *scales;
    int64_t out_stride;
    int32_t in_features, out_features;
    int32_t format;
};

/* One weight in float32, without a scale of INT8. */
static float single(int format, const char *panel, int k, int column)
{
    int v = column / W, lane = column % W;
    vf values, other;
    if (format == INT4) {
        const char *group = panel + k / GROUP * (int64_t)GROUP_BYTES;
        group_load(group, k % GROUP / 2, v, group_scale(group, v), &values, &other);
        return k % 2 ? other[lane] : values[lane];
    }
    return panel_load(format, panel, k, v)[lane];
}

/* out[t] = row ids[t] of the weight. */
EXPORT void penstock_rows(const void *args, const struct step *step, struct member *member)
{
    const struct rows *a = args;
    for (int t; (t = next_piece(member)) < step->tokens;) {
        int id = a->ids[t];
        const char *panel = a->weight + id / PANEL * panel_bytes(a->format, a->in_features);
        float scale = a->scales ? a->scales[id] : 1.0f;
        for (int k = 0; k < a->in_features; k++)
            a->out[t * a->out_stride + k] = single(a->format, panel, k, id % PANEL) * scale;
    }
}

struct pack {
    const char *weight; /* [N][K] in the format's numbers; INT4: one byte each */
    const uint16_t *group_scales; /* INT4: [N][K / GROUP] in half precision */
    char *out;
    int32_t in_features, out_features;
    int32_t format;
};

#define PACK(type)                                                                                                    \
    for (int c = 0; c < PANEL; c++)                                                                                   \
        for (int64_t k = 0; k < depth; k++)                                                                           \
            ((type *)to)[k * PANEL + c] = c < columns ? ((const type *)from)[c * depth + k] : 0

static void pack_groups(const struct pack *a, int panel, int columns, char *to)
{
    int64_t depth = a->in_features, groups = depth / GROUP;
    for (int64_t g = 0; g < groups; g++, to += GROUP_BYTES) {
        uint8_t *bytes = (uint8_t *)to + GROUP_SCALES;
        for (int c = 0; c < PANEL; c++) {
            int64_t n = (int64_t)panel * PANEL + c;
            const int8_t *values = (const int8_t *)a->weight + n * depth + g * GROUP;
            ((uint16_t *)to)[c] = c < columns ? a->group_scales[n * groups + g] : 0;
            for (int i = 0; i < GROUP / 2; i++) {
                int low = c < columns ? values[2 * i] + 8 : 8, high = c < columns ? values[2 * i + 1] + 8 : 8;
                bytes[i * PANEL + c] = (uint8_t)(low | high << 4);
            }
        }
    }
}

/* The layout of gemm.h; a piece is a panel. */
EXPORT void penstock_pack(const void *args, const struct step *step, struct member *member)
{
    (void)step;
    const struct pack *a = args;
    int64_t depth = a->in_features;
    int panels = (a->out_features + PANEL - 1) / PANEL, size = dtype_size(a->format);
    for (int panel; (panel = next_piece(member)) < panels;) {
        int columns = a->out_features - panel * PANEL < PANEL ? a->out_features - panel * PANEL : PANEL;
        char *to = a->out + panel * panel_bytes(a->format, depth);
        const char *from = a->weight + (int64_t)panel * PANEL * depth * size;
        if (a->format == INT4)
            pack_groups(a, panel, columns, to);
        else if (size == 4)
            PACK(uint32_t);
        else if (size == 2)
            PACK(uint16_t);
        else
            PACK(uint8_t);
    }
}

/* Columns of a panel: what packed weights are padded to. */
EXPORT int32_t penstock_panel(void) { return PANEL; }
