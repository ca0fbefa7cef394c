/* The gated half of an MLP: activation(gate) * up. */
#include "team.h"
#include "vec.h"

/* Columns of a row in one piece: a single row is shared by threads. */
enum { SLAB = 1024 };
enum activation { SILU, GELU, GELU_TANH };

struct gated {
    const float *gate_up; /* [T, 2 * size], the gate first */
    float *out;           /* [T, size], contiguous */
    int64_t row;
    int32_t size;
};

/* x / (1 + e^-y), for x and y of one sign. Beyond 87 the sigmoid is 0 or 1 to any digit that counts, and e^87
 * is still a float; below -100, x is too small after it to be told from -100. */
INLINE vf sigmoid_times(vf x, vf y)
{
    vi exponent;
    vf p = exp_parts(vf_min(vf_max(-y, vf_set(-87.0f)), vf_set(87.0f)), &exponent);
    return vf_max(vf_set(-100.0f), x) / (1.0f + p * (vf)((exponent + 127) << 23));
}

INLINE vf activate(enum activation activation, vf x)
{
    if (activation == SILU)
        return sigmoid_times(x, x);
    if (activation == GELU)
        return 0.5f * x * (1.0f + vf_erf(x * 0.70710678118654752f));
    /* 0.5 (1 + tanh y) is the sigmoid of 2 y. */
    vf inner = vf_fma(x * x, x * 0.044715f, x);
    return sigmoid_times(x, inner * 1.5957691216057308f);
}

INLINE void gate(enum activation activation, const struct gated *args, const struct step *step, struct member *member)
{
    int32_t size = args->size, slabs = (size + SLAB - 1) / SLAB;
    for (int64_t piece; (piece = next_piece(member)) < (int64_t)step->tokens * slabs;) {
        int64_t row = piece / slabs;
        int32_t at = (int32_t)(piece % slabs) * SLAB, end = at + SLAB < size ? at + SLAB : size;
        const float *gate = args->gate_up + row * args->row, *up = gate + size;
        float *out = args->out + row * size;
        for (; at + W <= end; at += W)
            vf_store(out + at, activate(activation, vf_load(gate + at)) * vf_load(up + at));
        if (at < end) {
            int count = end - at;
            vf last = activate(activation, vf_load_some(gate + at, count, 0.0f)) * vf_load_some(up + at, count, 0.0f);
            vf_store_some(out + at, last, count);
        }
    }
}

EXPORT void penstock_silu_and_mul(const void *args, const struct step *step, struct member *member)
{
    gate(SILU, args, step, member);
}

EXPORT void penstock_gelu_and_mul(const void *args, const struct step *step, struct member *member)
{
    gate(GELU, args, step, member);
}

EXPORT void penstock_gelu_tanh_and_mul(const void *args, const struct step *step, struct member *member)
{
    gate(GELU_TANH, args, step, member);
}
