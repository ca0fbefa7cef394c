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
    /* Inputs of a block: a panel of it, in float32, takes a third to a half of a first-level cache. */
    DEPTH = W == 16 ? 256 : 512,
    BLOCK_ROWS = 96,       /* rows of a block: with DEPTH inputs they stay in the second-level cache */
    GROUP_PANELS = 24,     /* most panels of a piece; a multiple of what every tile takes */
    WIDEN_ROWS = 5 * ROWS, /* from here on, and in INT4 always, a block of weights is widened once for all rows */
    AHEAD = 4096           /* bytes that a single pass over the weights is prefetched ahead, of all panels together */
};

/* Asks for a cache line of each panel. */
INLINE void prefetch(const char *from, const int panels, int64_t panel_stride)
{
#pragma GCC unroll 8
    for (int p = 0; p < panels; p++)
        __builtin_prefetch(from + p * panel_stride, 0, 3);
}

/* Number k of row r in every lane. There is a pointer for every third row, from which an address reaches two more. */
#define NUMBER(r, k) vf_set(*(const float *)(x[(r) / 3] + (r) % 3 * stride + 4 * (k)))

/* Share of input j in a tile: acc[r][v] += x[r] * weight[v], the weights given by `load`. What there is less of, rows
 * or vectors of weights, is held in registers while the other passes by.
 */
#define MULTIPLY_ADD(load)                                                                                            \
    if (panels * VECTORS > rows) {                                                                                    \
        vf numbers[ROWS];                                                                                             \
        _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++) numbers[r] = NUMBER(r, j);                            \
        _Pragma("GCC unroll 16") for (int v = 0; v < panels * VECTORS; v++)                                           \
        {                                                                                                             \
            vf w = load;                                                                                              \
            _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++)                                                   \
                acc[r][v] = vf_accumulate(acc[r][v], numbers[r], w);                                                  \
        }                                                                                                             \
    } else {                                                                                                          \
        vf weights[MOST_PANELS * VECTORS];                                                                            \
        _Pragma("GCC unroll 16") for (int v = 0; v < panels * VECTORS; v++) weights[v] = load;                        \
        _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++)                                                       \
        {                                                                                                             \
            vf value = NUMBER(r, j);                                                                                  \
            _Pragma("GCC unroll 16") for (int v = 0; v < panels * VECTORS; v++)                                       \
                acc[r][v] = vf_accumulate(acc[r][v], value, weights[v]);                                              \
        }                                                                                                             \
    }

/* sums[r][v] += x[r][k] * weight[k][v] for k in [0, depth). rows, panels and format are constants where it is inlined,
 * so that the accumulators stay in registers. `ahead` is prefetched, `lines` for every 8 inputs.
 */
INLINE void tile(const int rows, const int panels, const int format, const float *first_row, int64_t x_stride,
                 const char *weight, int64_t panel_stride, int depth, float *sums, int64_t sums_stride, int first,
                 const char *ahead, int lines)
{
    vf acc[ROWS][MOST_PANELS * VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int v = 0; v < panels * VECTORS; v++)
            acc[r][v] = first ? vf_set(0.0f) : vf_load(sums + r * sums_stride + v * W);
    const char *x[(ROWS + 2) / 3];
    int64_t stride = x_stride * (int64_t)sizeof(float);
#pragma GCC unroll 4
    for (int base = 0; base < (rows + 2) / 3; base++)
        x[base] = (const char *)(first_row + 3 * base * x_stride);
    /* What keeps the compiler from a pointer, or an offset, of its own for each row and input. */
#define NEXT(inputs)                                                                                                  \
    HOLD(stride);                                                                                                     \
    _Pragma("GCC unroll 4") for (int base = 0; base < (rows + 2) / 3; base++)                                         \
    {                                                                                                                 \
        x[base] += 4 * (inputs);                                                                                      \
        HOLD(x[base]);                                                                                                \
    }
    if (format == INT4) {
        for (int k = 0; k < depth; k += GROUP, weight += GROUP_BYTES) {
            for (int i = 0; i < lines * (GROUP / 8); i++, ahead += 64)
                prefetch(ahead, panels, panel_stride);
            vf scale[MOST_PANELS * VECTORS];
#pragma GCC unroll 16
            for (int v = 0; v < panels * VECTORS; v++)
                scale[v] = group_scale(weight + v / VECTORS * panel_stride, v % VECTORS);
            for (int pair = 0; pair < GROUP / 2; pair++) {
#pragma GCC unroll 16
                for (int v = 0; v < panels * VECTORS; v++) {
                    vf even, odd;
                    group_load(weight + v / VECTORS * panel_stride, pair, v % VECTORS, scale[v], &even, &odd);
#pragma GCC unroll 12
                    for (int r = 0; r < rows; r++) {
                        acc[r][v] = vf_accumulate(acc[r][v], NUMBER(r, 0), even);
                        acc[r][v] = vf_accumulate(acc[r][v], NUMBER(r, 1), odd);
                    }
                }
                NEXT(2)
            }
        }
    } else {
        for (; depth >= 8; depth -= 8, weight += panel_bytes(format, 8)) {
            for (int i = 0; i < lines; i++, ahead += 64)
                prefetch(ahead, panels, panel_stride);
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++)
                MULTIPLY_ADD(panel_load(format, weight + v / VECTORS * panel_stride, j, v % VECTORS))
            NEXT(8)
        }
        for (int j = 0; j < depth; j++)
            MULTIPLY_ADD(panel_load(format, weight + v / VECTORS * panel_stride, j, v % VECTORS))
    }
#undef NEXT
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
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
#define NAME(rows, panels, format) [rows - 1][panels - 1] = tile_##rows##_##panels##_##format

/* The tiles there are: of each height the widest, narrower ones for what is left at the end, and the widest of the next
 * height, beside which it stands where rows do not divide evenly.
 */
#if W == 16
#define EACH_TILE(DO, format, _)                                                                                      \
    DO(1, 8, format) _ DO(1, 4, format) _ DO(1, 2, format) _ DO(1, 1, format) _                                       \
    DO(2, 8, format) _ DO(2, 4, format) _ DO(2, 2, format) _ DO(2, 1, format) _                                       \
    DO(3, 8, format) _ DO(3, 4, format) _ DO(3, 2, format) _ DO(3, 1, format) _                                       \
    DO(4, 4, format) _ DO(4, 2, format) _ DO(4, 1, format) _ DO(5, 4, format) _ DO(5, 2, format) _ DO(5, 1, format) _ \
    DO(6, 4, format) _ DO(6, 3, format) _ DO(6, 2, format) _ DO(6, 1, format) _ DO(7, 3, format) _ DO(7, 2, format) _ DO(7, 1, format) _ \
    DO(8, 3, format) _ DO(8, 2, format) _ DO(8, 1, format) _ DO(9, 2, format) _ DO(9, 1, format) _                    \
    DO(10, 2, format) _ DO(10, 1, format) _ DO(11, 2, format) _ DO(11, 1, format) _                                   \
    DO(12, 2, format) _ DO(12, 1, format)
static const int WIDEST[ROWS] = {8, 8, 8, 4, 4, 4, 3, 3, 2, 2, 2, 2};
#else
#define EACH_TILE(DO, format, _)                                                                                      \
    DO(1, 8, format) _ DO(1, 4, format) _ DO(1, 2, format) _ DO(1, 1, format) _                                       \
    DO(2, 4, format) _ DO(2, 2, format) _ DO(2, 1, format) _ DO(3, 4, format) _ DO(3, 3, format) _                    \
    DO(3, 2, format) _ DO(3, 1, format) _                                                                             \
    DO(4, 3, format) _ DO(4, 2, format) _ DO(4, 1, format) _ DO(5, 2, format) _ DO(5, 1, format) _                    \
    DO(6, 2, format) _ DO(6, 1, format)
static const int WIDEST[ROWS] = {8, 4, 4, 3, 2, 2};
#endif
#define NOTHING
#define COMMA ,

EACH_TILE(TILE, F32, NOTHING)
EACH_TILE(TILE, BF16, NOTHING)
EACH_TILE(TILE, F16, NOTHING)
EACH_TILE(TILE, INT8, NOTHING)
EACH_TILE(TILE, INT4, NOTHING)

static tile_function *const TILES[][ROWS][MOST_PANELS] = {
    {EACH_TILE(NAME, F32, COMMA)},  {EACH_TILE(NAME, BF16, COMMA)}, {EACH_TILE(NAME, F16, COMMA)},
    {EACH_TILE(NAME, INT8, COMMA)}, {EACH_TILE(NAME, INT4, COMMA)},
};

/* Tiles for so many rows, which share them about equally. */
static int tiles_of(int rows)
{
    int height = rows > 2 * ROWS ? MANY_ROWS : ROWS;
    return (rows + height - 1) / height;
}

/* Panels of the widest tile of so many rows that does not exceed `left`. */
static int tile_width(int rows, int left)
{
    int width = WIDEST[rows - 1];
    while (width > left)
        width = width == 3 ? 2 : width / 2;
    return width;
}

/* `depth` inputs of a panel in float32, [depth][PANEL]. The format is a constant where it is inlined. */
INLINE void widen_as(const int format, const char *panel, int depth, float *to)
{
#pragma GCC unroll 4
    for (int k = 0; k < depth; k++)
        for (int v = 0; v < VECTORS; v++)
            vf_store(to + (int64_t)k * PANEL + v * W, panel_load(format, panel, k, v));
}

static void widen_groups(const char *panel, int depth, float *to)
{
    for (int k = 0; k < depth; k += GROUP, panel += GROUP_BYTES)
        for (int v = 0; v < VECTORS; v++) {
            vf scale = group_scale(panel, v), even, odd;
            for (int pair = 0; pair < GROUP / 2; pair++) {
                group_load(panel, pair, v, scale, &even, &odd);
                vf_store(to + (int64_t)(k + 2 * pair) * PANEL + v * W, even);
                vf_store(to + (int64_t)(k + 2 * pair + 1) * PANEL + v * W, odd);
            }
        }
}

static void widen(int format, const char *panel, int depth, float *to)
{
    switch (format) {
    case BF16:
        widen_as(BF16, panel, depth, to);
        break;
    case F16:
        widen_as(F16, panel, depth, to);
        break;
    case INT8:
        widen_as(INT8, panel, depth, to);
        break;
    default:
        widen_groups(panel, depth, to);
    }
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
    float sums[ROWS * MOST_PANELS * PANEL];
    int64_t stride = panel_bytes(a->format, a->in_features);
    int lines = rows == 1 ? 0 : (int)((panel_bytes(a->format, GROUP) / 4 + 63) / 64);
    for (int width; panels; panel += width, panels -= width) {
        width = tile_width(rows, panels);
        const char *weight = a->weight + panel * stride;
        const char *ahead = weight + AHEAD / width / 64 * 64;
        TILES[a->format][rows - 1][width - 1](a->x, a->x_stride, weight, stride, a->in_features, sums, width * PANEL, 1,
                                              ahead, lines);
        finish(a, sums, width * PANEL, 0, rows, panel, width);
    }
}

/* Rows [row, row + rows) in tiles of about equal height, blocked over the inputs. While one block of weights is multiplied
 * the next one is fetched, last of all that of panel `then`.
 */
static void many_rows(const struct linear *a, int row, int rows, int panel, int panels, int then)
{
    int64_t sums_stride = (int64_t)panels * PANEL;
    float *widened =
        scratch((MOST_PANELS * DEPTH * PANEL + BLOCK_ROWS * GROUP_PANELS * PANEL) * (int64_t)sizeof(float));
    float *sums = widened + MOST_PANELS * DEPTH * PANEL;
    int tiles = tiles_of(rows);
    int64_t stride = panel_bytes(a->format, a->in_features);
    int widen_all = a->format != F32 && (rows >= WIDEN_ROWS || a->format == INT4);
    int format = widen_all ? F32 : a->format;
    int lines = (int)((panel_bytes(a->format, GROUP) / 4 / 64 + tiles - 1) / tiles);
    for (int k = 0; k < a->in_features; k += DEPTH) {
        int depth = a->in_features - k < DEPTH ? a->in_features - k : DEPTH;
        int64_t block_bytes = panel_bytes(a->format, depth);
        for (int done = 0, width; done < panels; done += width) {
            width = tile_width((rows + tiles - 1) / tiles, panels - done);
            const char *weight = a->weight + (panel + done) * stride + panel_bytes(a->format, k);
            const char *ahead = weight + width * stride;
            if (done + width >= panels)
                ahead = k + depth < a->in_features ? weight - done * stride + block_bytes : a->weight + then * stride;
            int64_t between = stride;
            if (widen_all) {
                between = (int64_t)depth * PANEL * (int64_t)sizeof(float);
                for (int p = 0; p < width; p++)
                    widen(a->format, weight + p * stride, depth, widened + p * depth * PANEL);
                weight = (const char *)widened;
            }
            int from = 0;
            for (int t = 0; t < tiles; t++) {
                int height = (rows - from + tiles - t - 1) / (tiles - t);
                int64_t fetched = (int64_t)t * lines * (depth / 8) * 64;
                TILES[format][height - 1][width - 1](a->x + (row + from) * a->x_stride + k, a->x_stride, weight, between,
                                                     depth, sums + from * sums_stride + done * PANEL, sums_stride,
                                                     k == 0, ahead + fetched, fetched < block_bytes ? lines : 0);
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
    int block_rows = (rows + blocks - 1) / blocks, tiles = tiles_of(block_rows);
    int group = panels / (8 * member->threads), widest = WIDEST[(block_rows + tiles - 1) / tiles - 1];
    group = group < 1 ? 1 : group > GROUP_PANELS ? GROUP_PANELS : group;
    if (group > widest)
        group -= group % widest;
    else if (panels >= widest * member->threads)
        group = widest; /* narrower tiles read fewer stretches of memory at once */
    int groups = (panels + group - 1) / group;
    for (int piece; (piece = next_piece(member)) < groups * blocks;) {
        int first = piece % groups * group, count = panels - first < group ? panels - first : group;
        if (rows <= ROWS) {
            few_rows(a, rows, first, count);
            continue;
        }
        int block = piece / groups;
        int row = (int)((int64_t)rows * block / blocks), end = (int)((int64_t)rows * (block + 1) / blocks);
        /* Where this thread probably goes on: else each piece would begin with waiting for memory. */
        int then = (piece + member->threads) % groups * group;
        many_rows(a, row, end - row, first, count, then);
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

/* BF16: pairs of inputs, see panel_load. */
static void pack_pairs(const struct pack *a, int panel, int columns, char *to)
{
    int64_t depth = a->in_features;
    for (int c = 0; c < PANEL; c++) {
        const uint16_t *from = (const uint16_t *)a->weight + ((int64_t)panel * PANEL + c) * depth;
        for (int64_t k = 0; k < depth + depth % 2; k++)
            ((uint16_t *)to)[(k / 2 * PANEL + c) * 2 + k % 2] = c < columns && k < depth ? from[k] : 0;
    }
}

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
        else if (a->format == BF16)
            pack_pairs(a, panel, columns, to);
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
