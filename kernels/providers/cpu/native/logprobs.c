/* Log-probabilities of given tokens, their ranks and the likeliest tokens: see kernels/ops/token_logprobs.py. */
#include <stdlib.h>

#include "row.h"

struct logprobs {
    const float *logits;
    const int64_t *targets;
    float *logprobs;
    int64_t *ranks, *top_ids; /* [R], [R, top] */
    float *top_logprobs;      /* [R, top] */
    int64_t row;
    int32_t vocab, top;
};

/* A token and its logit in one integer, the likelier the greater and of equals the lower id. */
INLINE uint64_t entry_of(int32_t key, int32_t token)
{
    return (uint64_t)((uint32_t)key ^ 0x80000000u) << 32 | (uint32_t)~token;
}

static int falling(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left < right) - (left > right);
}

/* The `top` likeliest tokens in order; returns how many there are, which is `top` unless a number is NaN. */
static int32_t likeliest(const struct row *row, int32_t top, uint64_t *entries)
{
    if (top == 0)
        return 0;
    struct cut cut = greatest(row, top);
    int32_t found = 0, ties = top - (int32_t)cut.above;
    for (int32_t block = 0; block < row->blocks; block++) {
        if (key_of(row->peaks[block]) < cut.key)
            continue;
        int32_t end = at_most((block + 1) * BLOCK, row->size);
        for (int32_t token = block * BLOCK; token < end && found < top; token++) {
            int32_t key = key_of(row->x[token]);
            if (key > cut.key || (key == cut.key && ties-- > 0))
                entries[found++] = entry_of(key, token);
        }
    }
    qsort(entries, (size_t)found, sizeof *entries, falling);
    return found;
}

static int64_t rank_of(const struct row *row, int32_t target)
{
    const float *x = row->x, logit = x[target];
    int32_t before = 0;
    for (int32_t token = 0; token < target; token++)
        before += x[token] >= logit;
    for (int32_t token = target + 1; token < row->size; token++)
        before += x[token] > logit;
    return before + 1;
}

EXPORT void penstock_token_logprobs(const void *arguments, const struct step *step, struct member *member)
{
    const struct logprobs *args = arguments;
    int64_t room = (row_scratch(args->vocab) + 7) / 8 * 8;
    char *memory = scratch(room + 8 * (int64_t)args->top);
    uint64_t *entries = (uint64_t *)(memory + room);
    for (int32_t at; (at = next_piece(member)) < step->tokens;) {
        vi nan;
        struct row row = open_row(args->logits + at * args->row, args->vocab, memory, &nan);
        double mass;
        row_masses(&row, (const float[]){-__builtin_inff()}, 1, &mass);
        double total = (double)row.best + log(mass);
        if (vi_lanes(nan))
            total = __builtin_nan("");
        int32_t target = (int32_t)args->targets[at];
        args->logprobs[at] = (float)((double)row.x[target] - total);
        args->ranks[at] = rank_of(&row, target);
        int32_t found = likeliest(&row, args->top, entries);
        int64_t *ids = args->top_ids + (int64_t)at * args->top;
        float *logprobs = args->top_logprobs + (int64_t)at * args->top;
        for (int32_t place = 0; place < args->top; place++) {
            ids[place] = place < found ? (int32_t)~(uint32_t)entries[place] : 0;
            logprobs[place] = (float)((double)row.x[ids[place]] - total);
        }
    }
}
