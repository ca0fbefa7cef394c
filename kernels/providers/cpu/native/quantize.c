/* Weights to int8 with a scale for each row, or to int4 with a scale for each group; see kernels/ops/quantize.py. */
#include "numbers.h"
#include "team.h"

enum { GROUP = 32, PARTS = GROUP / W };
/* Weights that a piece has at least. */
enum { LEAST = 1 << 14 };

struct quantize {
    const void *weight; /* [rows, columns] */
    int8_t *values;     /* of the same shape */
    void *scales;       /* int8: float [rows]; int4: half [rows, columns / GROUP] */
    int64_t rows;
    int32_t columns;
    int32_t dtype; /* of the weight */
};

INLINE vf load_some(int dtype, const void *from, int64_t at, int count)
{
    char lanes[4 * W] = {0};
    int size = dtype_size(dtype);
    memcpy(lanes, (const char *)from + at * size, (size_t)(count * size));
    return vf_load_as(dtype, lanes, 0);
}

INLINE void int8_row(const struct quantize *args, int dtype, int64_t row)
{
    int32_t columns = args->columns, whole = columns / W * W, rest = columns - whole;
    int64_t from = row * columns;
    vf best = {0}, strange = {0};
    for (int32_t at = 0; at < whole; at += W) {
        vf v = vf_load_as(dtype, args->weight, from + at);
        best = vf_max(magnitude(v), best);
        strange += v - v; /* 0, or NaN where v is not finite */
    }
    if (rest) {
        vf v = load_some(dtype, args->weight, from + whole, rest);
        best = vf_max(magnitude(v), best);
        strange += v - v;
    }
    float scale = vf_largest(best) / 127.0f + vf_sum(strange);
    ((float *)args->scales)[row] = scale;
    vf divisor = vf_set(scale == 0.0f ? __builtin_inff() : scale);
    for (int32_t at = 0; at < whole; at += W) {
        vf v = vf_load_as(dtype, args->weight, from + at);
        vb values = narrowed(nearest(clamp(v / divisor, -127.0f, 127.0f)));
        memcpy(args->values + from + at, &values, W);
    }
    if (rest) {
        vf v = load_some(dtype, args->weight, from + whole, rest);
        vb values = narrowed(nearest(clamp(v / divisor, -127.0f, 127.0f)));
        memcpy(args->values + from + whole, &values, (size_t)rest);
    }
}

struct fit {
    vf values[PARTS];
    float scale, error;
};

/* The values nearest to the group under a scale that is stored as it is, and the sum of their squared errors. */
INLINE struct fit with_scale(const vf *group, float scale)
{
    struct fit fit = {.scale = scale};
    vf divisor = vf_set(scale == 0.0f ? __builtin_inff() : scale), error = {0};
    for (int part = 0; part < PARTS; part++) {
        fit.values[part] = nearest(clamp(group[part] / divisor, -8.0f, 7.0f));
        vf difference = vf_fma(fit.values[part], vf_set(-scale), group[part]);
        error = vf_fma(difference, difference, error);
    }
    fit.error = vf_sum(error);
    return fit;
}

/* Numbers as they are once they have been stored as halves. */
INLINE vf as_halves(vf v)
{
    uint16_t halves[W];
    vf_store_f16(halves, v);
    return vf_load_f16(halves);
}

INLINE struct fit best_fit(const vf *group)
{
    static const float tried[4] = {-7.75f, -8.25f, -7.25f, -8.75f};
    vf greatest = group[0], least = group[0], strange = {0};
    for (int part = 0; part < PARTS; part++) {
        greatest = vf_max(group[part], greatest);
        least = vf_min(group[part], least);
        strange += group[part] - group[part];
    }
    float high = vf_largest(greatest), low = -vf_largest(-least);
    float extreme = (high > -low ? high : low) + vf_sum(strange);
    vf scales = as_halves(extreme / vf_load_some(tried, 4, 1.0f));
    struct fit best = with_scale(group, scales[0]);
    for (int i = 1; i < 4; i++) {
        struct fit other = with_scale(group, scales[i]);
        if (other.error < best.error)
            best = other;
    }
    vf products = {0}, squares = {0};
    for (int part = 0; part < PARTS; part++) {
        products = vf_fma(group[part], best.values[part], products);
        squares = vf_fma(best.values[part], best.values[part], squares);
    }
    float square = vf_sum(squares);
    if (square > 0.0f) {
        struct fit other = with_scale(group, as_halves(vf_set(vf_sum(products) / square))[0]);
        if (other.error < best.error)
            best = other;
    }
    return best;
}

INLINE void int4_row(const struct quantize *args, int dtype, int64_t row)
{
    int32_t groups = args->columns / GROUP;
    for (int32_t number = 0; number < groups; number++) {
        int64_t from = row * args->columns + number * GROUP;
        vf group[PARTS];
        for (int part = 0; part < PARTS; part++)
            group[part] = vf_load_as(dtype, args->weight, from + part * W);
        struct fit best = best_fit(group);
        for (int part = 0; part < PARTS; part++) {
            vb values = narrowed(best.values[part]);
            memcpy(args->values + from + part * W, &values, W);
        }
        uint16_t halves[W];
        vf_store_f16(halves, vf_set(best.scale));
        ((uint16_t *)args->scales)[row * groups + number] = halves[0];
    }
}

/* Rows in pieces; `kind` and the dtype are constants where a row is inlined. */
INLINE void in_pieces(const struct quantize *args, struct member *member, int kind)
{
    int64_t together = 1 + LEAST / args->columns;
    for (int64_t first; (first = next_piece(member) * together) < args->rows;)
        for (int64_t row = first; row < args->rows && row < first + together; row++) {
            if (args->dtype == F32)
                kind == INT8 ? int8_row(args, F32, row) : int4_row(args, F32, row);
            else if (args->dtype == BF16)
                kind == INT8 ? int8_row(args, BF16, row) : int4_row(args, BF16, row);
            else
                kind == INT8 ? int8_row(args, F16, row) : int4_row(args, F16, row);
        }
}

EXPORT void penstock_quantize_int8(const void *args, const struct step *step, struct member *member)
{
    (void)step;
    in_pieces(args, member, INT8);
}

EXPORT void penstock_quantize_int4(const void *args, const struct step *step, struct member *member)
{
    (void)step;
    in_pieces(args, member, INT4);
}
