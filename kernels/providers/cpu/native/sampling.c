/* The likeliest token of a row, and a token drawn from it: temperature, top-k, top-p, min-p and the Gumbel-max trick,
 * as kernels/ops/sample_tokens.py defines them, without sorting a row and with noise only where it can matter.
 */
#include "philox.h"
#include "row.h"

/* What the greatest noise, -log(-log(1 - 2^-25)) = 17.33, cannot make up for. */
#define OUT_OF_REACH 17.4f

struct argmax {
    const float *logits;
    int64_t *ids;
    float *best;
    int64_t row;
    int32_t vocab;
};

struct sample {
    const float *logits;
    const double *temperature, *top_p, *min_p;
    const int64_t *top_k, *seeds, *choices, *positions;
    int64_t *tokens;
    int64_t row;
    int32_t vocab;
};

/* One row's draw. */
struct draw {
    struct row row;
    struct stream stream;
    float lowest;      /* scaled logits below it are ruled out, */
    int32_t last_tie;  /* and those equal to it whose token is above this */
    float least;       /* weights below it are ruled out, too */
    float score;       /* of the best token so far */
    int32_t token;
};

/* The first token at least as likely as `value`, which its block's peak is known to reach; -1 where there is none. */
static int32_t first_of(const struct row *row, float value)
{
    for (int32_t block = 0; block < row->blocks; block++)
        if (scaled(row, row->peaks[block]) >= value)
            for (int32_t at = block * BLOCK; at < row->size; at++)
                if (scaled(row, row->x[at]) >= value)
                    return at;
    return -1;
}

EXPORT void penstock_argmax(const void *arguments, const struct step *step, struct member *member)
{
    const struct argmax *args = arguments;
    void *memory = scratch(peaks_scratch(args->vocab));
    for (int32_t at; (at = next_piece(member)) < step->tokens;) {
        vi nan;
        struct row row = open_row(args->logits + at * args->row, args->vocab, memory, &nan);
        int32_t block = 0, token = 0;
        while (block < row.blocks - 1 && row.peaks[block] != row.best)
            block++;
        for (token = block * BLOCK; token < row.size - 1 && row.x[token] != row.best;)
            token++;
        args->ids[at] = token;
        args->best[at] = vi_lanes(nan) ? __builtin_nanf("") : row.best;
    }
}

INLINE void consider(struct draw *draw, int32_t token, uint64_t bits)
{
    const struct row *row = &draw->row;
    float logit = scaled(row, row->x[token]);
    if (!(logit >= draw->lowest) || (logit == draw->lowest && token > draw->last_tie))
        return;
    if (draw->least > 0.0f && !(vf_exp(vf_set(logit))[0] >= draw->least))
        return;
    double uniform = ((double)bits + 0.5) * 0x1p-24;
    float score = logit + (float)-log(-log(uniform));
    if (score > draw->score || (score == draw->score && token < draw->token)) {
        draw->score = score;
        draw->token = token;
    }
}

/* The least bits with which a token of this scaled logit can reach the best score, or 2^24 and more where none can:
 * noise above x takes 1 - u < -log u < e^-x. With some room for rounding.
 */
INLINE int64_t bits_to_win(const struct draw *draw, float logit)
{
    float behind = logit - draw->score;
    if (behind < -OUT_OF_REACH)
        return INT64_MAX;
    if (behind > -0.01f)
        return 0;
    int64_t bits = (int64_t)((1.0f - 1.0001f * expf(behind)) * 0x1p24f) - 4;
    return bits > 0 ? bits : 0;
}

INLINE void consider_block(struct draw *draw, int32_t block)
{
    const struct row *row = &draw->row;
    float peak = scaled(row, row->peaks[block]);
    int64_t needed = peak >= draw->lowest ? bits_to_win(draw, peak) : INT64_MAX;
    if (needed >> 24)
        return;
    int32_t end = at_most((block + 1) * BLOCK, row->size);
    for (int32_t first = block * BLOCK; first < end; first += WORDS) {
        vu bits[4];
        philox_bits(&draw->stream, first, bits);
        vi any = {0};
        for (int i = 0; i < 4; i++)
            any |= (vi)bits[i] >= (int32_t)needed;
        if (!vi_lanes(any))
            continue;
        for (int32_t token = first; token < at_most(first + WORDS, end); token++) {
            uint64_t word = bits[token % 4][(token - first) / 4];
            if ((int64_t)word >= needed)
                consider(draw, token, word);
        }
        needed = bits_to_win(draw, peak);
        if (needed >> 24)
            return;
    }
}

/* Sets what top-k and top-p rule out. */
static void filter(struct draw *draw, int64_t top_k, double top_p)
{
    struct row *row = &draw->row;
    draw->lowest = -__builtin_inff();
    draw->last_tie = row->size;
    if (top_k > 0 && top_k < row->size)
        draw->lowest = scaled(row, of_key(greatest(row, (int32_t)top_k).key));
    if (!(top_p < 1.0))
        return;
    double target;
    struct cut cut = cut_by_share(row, key_of(draw->lowest), top_p, &target);
    draw->lowest = of_key(cut.key);
    double weight = vf_exp(vf_set(draw->lowest))[0];
    int32_t ties = 1;
    while (ties < cut.ties && cut.above + ties * weight < target)
        ties++;
    for (int32_t at = 0; ties < cut.ties && at < row->size; at++)
        if (scaled(row, row->x[at]) == draw->lowest && --ties == 0) {
            draw->last_tie = at;
            return;
        }
}

static float in_float(double temperature)
{
    temperature = temperature < 0x1p-126 ? 0x1p-126 : temperature;
    return temperature > 0x1.fffffep127 ? 0x1.fffffep127f : (float)temperature;
}

static int32_t sample(const struct sample *args, int32_t at, void *memory)
{
    vi nan;
    struct draw draw = {.row = open_row(args->logits + at * args->row, args->vocab, memory, &nan)};
    if (!(fabsf(draw.row.best) < __builtin_inff()))
        return 0; /* means nothing: nothing is promised for such a row */
    double temperature = args->temperature[at], min_p = args->min_p[at];
    draw.row.temperature = temperature > 0.0 ? in_float(temperature) : 1.0f;
    draw.token = first_of(&draw.row, 0.0f);
    if (!(temperature > 0.0) || draw.token < 0)
        return draw.token;
    draw.stream = (struct stream){(uint64_t)args->seeds[at], (uint32_t)args->choices[at],
                                  (uint32_t)args->positions[at]};
    filter(&draw, args->top_k[at], args->top_p[at]);
    draw.least = (double)(float)min_p < min_p ? nextafterf((float)min_p, 2.0f) : (float)min_p;
    draw.score = -__builtin_inff();
    vu bits[4];
    int32_t likeliest = draw.token;
    philox_bits(&draw.stream, likeliest / 4 * 4, bits);
    consider(&draw, likeliest, bits[likeliest % 4][0]);
    for (int32_t block = 0; block < draw.row.blocks; block++)
        consider_block(&draw, block);
    return draw.token;
}

EXPORT void penstock_sample_tokens(const void *arguments, const struct step *step, struct member *member)
{
    const struct sample *args = arguments;
    void *memory = scratch(row_scratch(args->vocab));
    for (int32_t at; (at = next_piece(member)) < step->tokens;)
        args->tokens[at] = sample(args, at, memory);
}
