/* Causal attention over the paged cache, for decoding and prefill alike: how the work is cut and handed out.
 *
 * A piece of work is one sequence, a tile of rows and as many key heads as leave enough pieces for the threads, all
 * their keys included. Where one head each makes too few pieces, each split of the keys is a piece of its own, and a
 * second phase merges them, in the order in which a single thread would have.
 */
#include "attention_piece.h"
#include "team.h"

enum {
    PIECES_FOR_THREAD = 4, /* with fewer, splits become pieces */
    ENOUGH_FOR_THREAD = 8  /* more than these are made fewer, of several heads each */
};

/* What one sequence has to do, and where its pieces and partial results begin. */
struct share {
    int sequence, rows, tiles, tile_rows, first_split, splits;
    int heads, parts; /* key heads of a piece, the last perhaps fewer; pieces that a tile's heads make */
    int first_piece;
    int64_t first_partial;
};

struct plan {
    struct share *shares; /* those with the largest pieces first */
    int count, pieces, splitting;
};

static struct share share_of(const struct attention *a, int sequence)
{
    int queries = a->starts[sequence + 1] - a->starts[sequence], length = a->lengths[sequence];
    struct share share = {.sequence = sequence, .rows = queries * (a->heads / a->kv_heads)};
    if (queries > 0) {
        share.tile_rows = up(up(share.rows, up(share.rows, TILE_ROWS)), ROWS) * ROWS;
        share.tiles = up(share.rows, share.tile_rows);
        share.first_split = first_key(a, length - queries) / SPLIT;
        share.splits = (length - 1) / SPLIT - share.first_split + 1;
    }
    return share;
}

/* About how long a share's pieces take, as a power of two. */
static int weight_of(const struct attention *a, const struct share *share)
{
    int keys = a->lengths[share->sequence] - share->first_split * SPLIT;
    int64_t work = (int64_t)keys * least(share->rows, TILE_ROWS);
    return work > 0 ? 64 - __builtin_clzll((uint64_t)work) : 0;
}

/* Every thread makes the same plan. */
static struct plan make_plan(const struct attention *a, int sequences, int threads, struct share *shares)
{
    struct plan plan = {.shares = shares, .count = sequences};
    int begin[66] = {0};
    int64_t partials = 0;
    int splits = 0;
    for (int s = 0; s < sequences; s++) {
        struct share share = share_of(a, s);
        begin[65 - weight_of(a, &share)]++;
        plan.pieces += share.tiles * a->kv_heads;
        splits += share.tiles * a->kv_heads * share.splits;
        partials += (int64_t)share.rows * a->kv_heads * share.splits;
    }
    plan.splitting = threads > 1 && plan.pieces < PIECES_FOR_THREAD * threads && splits > plan.pieces &&
                     partials <= a->partial_rows;
    for (int i = 0, before = 0; i < 66; i++) {
        int here = begin[i];
        begin[i] = before;
        before += here;
    }
    for (int s = 0; s < sequences; s++) {
        struct share share = share_of(a, s);
        shares[begin[65 - weight_of(a, &share)]++] = share;
    }
    int heads = most(1, least(a->kv_heads, plan.pieces / (ENOUGH_FOR_THREAD * threads)));
    plan.pieces = 0;
    partials = 0;
    for (struct share *share = shares; share < shares + sequences; share++) {
        share->first_piece = plan.pieces;
        share->first_partial = partials;
        share->heads = most(1, least(heads, TILE_ROWS / most(1, share->tile_rows)));
        share->parts = up(a->kv_heads, share->heads);
        plan.pieces += share->tiles * share->parts * (plan.splitting ? share->splits : 1);
        partials += (int64_t)share->rows * a->kv_heads * share->splits;
    }
    return plan;
}

/* `row` counts through the heads. */
static float *partial_of(const struct piece *p, const struct share *share, int row, int split)
{
    int64_t head_row = (p->head + row / p->rows) * (int64_t)share->rows + p->first_row + row % p->rows;
    int64_t at = head_row * share->splits + split - share->first_split;
    return p->a->partials + (share->first_partial + at) * (p->columns + 2);
}

static void begin_piece(struct piece *p, const struct share *share, int head, int heads, int tile)
{
    const struct attention *a = p->a;
    p->table = a->tables + share->sequence * a->table_stride;
    p->head = head;
    p->heads = heads;
    p->first_query = a->starts[share->sequence];
    p->context = a->lengths[share->sequence] - (a->starts[share->sequence + 1] - p->first_query);
    p->first_row = tile * share->tile_rows;
    p->rows = least(share->tile_rows, share->rows - p->first_row);
    for (int r = 0; r < p->heads * p->rows; r++)
        p->state[r].merged = 0;
}

/* All splits of a piece, one after another. */
static void attend(struct piece *p, const struct share *share)
{
    load_queries(p);
    for (int split = share->first_split; split < share->first_split + share->splits; split++) {
        attend_split(p, split);
        for (int r = 0; r < p->heads * p->rows; r++)
            if (sees(p, r, split))
                merge(&p->state[r], p->merged + r * p->columns, p->sums + r * p->columns, p->state[r].split_top,
                      vf_sum(vf_load(p->state[r].split_lanes)), p->columns);
    }
    for (int r = 0; r < p->heads * p->rows; r++)
        write_row(p, r, p->state[r].total, p->merged + r * p->columns);
}

/* One split of a piece, for the second phase to merge. */
static void attend_part(struct piece *p, const struct share *share, int split)
{
    load_queries(p);
    attend_split(p, split);
    for (int r = 0; r < p->heads * p->rows; r++) {
        float *partial = partial_of(p, share, r, split);
        memcpy(partial, p->sums + r * p->columns, (size_t)p->columns * sizeof(float));
        partial[p->columns] = p->state[r].split_top;
        partial[p->columns + 1] = vf_sum(vf_load(p->state[r].split_lanes));
    }
}

static void merge_parts(struct piece *p, const struct share *share)
{
    for (int r = 0; r < p->heads * p->rows; r++) {
        float *merged = p->merged + r * p->columns;
        for (int split = share->first_split; split < share->first_split + share->splits; split++) {
            const float *partial = partial_of(p, share, r, split);
            if (sees(p, r, split))
                merge(&p->state[r], merged, partial, partial[p->columns], partial[p->columns + 1], p->columns);
        }
        write_row(p, r, p->state[r].total, merged);
    }
}

/* This thread's memory: a piece, what it works on, and the plan. */
static struct piece *prepare(const struct attention *a, int sequences, struct share **shares)
{
    int64_t columns = up(a->head_dim, LANES) * LANES, dim = a->head_dim;
    int64_t floats = TILE_ROWS * (dim + 2 * columns) + CHUNK * (dim + columns) + ROWS * CHUNK;
    floats = up((int)floats, 16) * 16;
    char *memory = scratch(floats * (int64_t)sizeof(float) + (int64_t)sizeof(struct piece) +
                           sequences * (int64_t)sizeof(struct share));
    float *next = (float *)memory;
    struct piece *p = (struct piece *)(next + floats);
    *shares = (struct share *)(p + 1);
    p->a = a;
    p->group = a->heads / a->kv_heads;
    p->columns = (int)columns;
    p->wide_keys = next, next += CHUNK * dim;
    p->wide_values = next, next += CHUNK * columns;
    p->scores = next, next += ROWS * CHUNK;
    p->sums = next, next += TILE_ROWS * columns;
    p->merged = next, next += TILE_ROWS * columns;
    p->q = next;
    return p;
}

EXPORT void penstock_paged_attention(const void *args, const struct step *step, struct member *member)
{
    const struct attention *a = args;
    struct share *share;
    struct piece *p = prepare(a, step->sequences, &share);
    struct plan plan = make_plan(a, step->sequences, member->threads, share);
    int kv_heads = a->kv_heads;
    for (int number; (number = next_piece(member)) < plan.pieces;) {
        while (share + 1 < plan.shares + plan.count && number >= share[1].first_piece)
            share++;
        int at = number - share->first_piece, splits = plan.splitting ? share->splits : 1;
        int head = at / splits % share->parts * share->heads;
        /* The last tile of a prompt sees the most keys: it goes first. */
        int tile = share->tiles - 1 - at / splits / share->parts;
        begin_piece(p, share, head, least(share->heads, kv_heads - head), tile);
        if (plan.splitting)
            attend_part(p, share, share->first_split + at % splits);
        else
            attend(p, share);
    }
    if (!plan.splitting)
        return;
    second_phase(member);
    for (int number; (number = next_piece(member)) < plan.count * kv_heads;) {
        share = plan.shares + number / kv_heads;
        for (int tile = 0; tile < share->tiles; tile++) {
            begin_piece(p, share, number % kv_heads, 1, tile);
            merge_parts(p, share);
        }
    }
}
