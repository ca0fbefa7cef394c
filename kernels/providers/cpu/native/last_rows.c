/* The last row of each sequence of a step. */
#include <string.h>

#include "team.h"

struct last_rows {
    const float *x;
    float *out;            /* [S][size] */
    const int32_t *starts; /* [S + 1] */
    int64_t row;
    int32_t size;
};

/* Its rows are sequences. */
EXPORT void penstock_last_rows(const void *args, const struct step *step, struct member *member)
{
    const struct last_rows *a = args;
    for (int s; (s = next_piece(member)) < step->tokens;)
        memcpy(a->out + (int64_t)s * a->size, a->x + (a->starts[s + 1] - 1) * a->row, (size_t)a->size * sizeof(float));
}
