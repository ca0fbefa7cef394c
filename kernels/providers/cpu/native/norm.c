/* RMS and layer normalisation of rows, after an optional addition.
 *
 * A row is reduced by one thread, in lanes that are added up in a fixed tree: its bits do not depend on other rows.
 */
#include <math.h>

#include "team.h"
#include "vec.h"

/* Accumulators of W lanes that a row is summed in: enough to hide the latency of an addition. */
enum { CHAINS = 4 };
/* Numbers that a piece has at least, in whole rows: less costs more to hand out than to compute. */
enum { LEAST = 4096 };

struct norm {
    const float *x;        /* [T, heads, size] */
    const float *residual; /* of the same shape, or NULL */
    const float *weight;   /* [size] */
    const float *bias;     /* [size], or NULL */
    float *out, *sum;      /* [T, heads, size], contiguous; sum is written where there is a residual */
    int64_t x_row, x_head, residual_row, residual_head;
    int32_t heads, size;
    float eps;
};

INLINE vf term(vf v, int squares)
{
    if (squares)
        return v * v;
    return v;
}

/* The sum over a row of x - center, or of its squares. */
INLINE float row_sum(const float *x, int32_t size, float center, int squares)
{
    vf total[CHAINS] = {0};
    int32_t at = 0;
    for (; at + CHAINS * W <= size; at += CHAINS * W)
        for (int chain = 0; chain < CHAINS; chain++) {
            vf v = vf_load(x + at + chain * W) - center;
            total[chain] += term(v, squares);
        }
    for (int chain = 0; at < size; at += W, chain = (chain + 1) % CHAINS) {
        int count = size - at < W ? size - at : W;
        vf v = vf_load_some(x + at, count, center) - center;
        total[chain] += term(v, squares);
    }
    return vf_sum((total[0] + total[1]) + (total[2] + total[3]));
}

INLINE void add_rows(float *sum, const float *x, const float *residual, int32_t size)
{
    int32_t at = 0;
    for (; at + W <= size; at += W)
        vf_store(sum + at, vf_load(x + at) + vf_load(residual + at));
    for (; at < size; at++)
        sum[at] = x[at] + residual[at];
}

/* out = (x - center) * scale * weight + bias */
INLINE void scale_row(float *out, const float *x, float center, float scale, const float *weight, const float *bias,
                      int32_t size)
{
    int32_t at = 0;
    for (; at + W <= size; at += W) {
        vf v = (vf_load(x + at) - center) * scale * vf_load(weight + at);
        if (bias)
            v += vf_load(bias + at);
        vf_store(out + at, v);
    }
    for (; at < size; at++) {
        float v = (x[at] - center) * scale * weight[at];
        out[at] = bias ? v + bias[at] : v;
    }
}

INLINE void normalise(const struct norm *args, const struct step *step, struct member *member, int centered)
{
    int64_t rows = (int64_t)step->tokens * args->heads;
    int32_t size = args->size, together = size < LEAST ? LEAST / size : 1;
    for (int64_t first; (first = (int64_t)next_piece(member) * together) < rows;)
        for (int64_t row = first; row < rows && row < first + together; row++) {
            int64_t token = row / args->heads, head = row % args->heads;
            const float *x = args->x + token * args->x_row + head * args->x_head;
            if (args->residual) {
                float *sum = args->sum + row * size;
                add_rows(sum, x, args->residual + token * args->residual_row + head * args->residual_head, size);
                x = sum;
            }
            float center = centered ? row_sum(x, size, 0.0f, 0) / (float)size : 0.0f;
            float scale = 1.0f / sqrtf(row_sum(x, size, center, 1) / (float)size + args->eps);
            scale_row(args->out + row * size, x, center, scale, args->weight, args->bias, size);
        }
}

EXPORT void penstock_rms_norm(const void *args, const struct step *step, struct member *member)
{
    normalise(args, step, member, 0);
}

EXPORT void penstock_layer_norm(const void *args, const struct step *step, struct member *member)
{
    normalise(args, step, member, 1);
}
