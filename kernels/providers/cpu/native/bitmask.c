/* Logits with -inf where a token may not be sampled, as kernels/ops/apply_bitmask.py defines it. */
#include <string.h>

#include "team.h"

struct bitmask {
    const float *logits;
    const uint32_t *bits; /* [R][words] */
    float *out;           /* [R][vocab] */
    int64_t row, words;
    int32_t vocab;
};

/* Most words are all zeros or all ones, and then logits are not looked at one by one. */
EXPORT void penstock_apply_bitmask(const void *arguments, const struct step *step, struct member *member)
{
    const struct bitmask *args = arguments;
    for (int32_t at; (at = next_piece(member)) < step->tokens;) {
        const float *x = args->logits + at * args->row;
        const uint32_t *bits = args->bits + at * args->words;
        float *out = args->out + (int64_t)at * args->vocab;
        for (int32_t first = 0; first < args->vocab; first += 32) {
            int32_t count = args->vocab - first < 32 ? args->vocab - first : 32;
            uint32_t word = bits[first / 32];
            if (word == UINT32_MAX) {
                memcpy(out + first, x + first, (size_t)count * sizeof(float));
                continue;
            }
            for (int32_t i = 0; i < count; i++)
                out[first + i] = word >> i & 1 ? x[first + i] : -__builtin_inff();
        }
    }
}
