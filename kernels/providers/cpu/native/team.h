/* A program of kernels, run by a team of threads.
 *
 * Every kernel is one function that all threads of the team enter together. They share its work by taking numbered
 * pieces from a counter until none is left: a thread that the operating system has put aside holds up one piece, not
 * half of the work. What a piece computes never depends on who takes it. Between kernels the team waits for everybody.
 */
#ifndef PENSTOCK_TEAM_H
#define PENSTOCK_TEAM_H

#include <stdint.h>

/* What changes from step to step; everything else stands in a kernel's arguments. */
struct step {
    int32_t tokens;    /* T: rows of the step */
    int32_t sequences; /* S: rows of block tables, query starts and lengths */
};

struct team;

struct member {
    struct team *team;
    int thread, threads;
    int kernel; /* which of the program's kernels is running */
};

typedef void kernel(const void *args, const struct step *step, struct member *member);

struct launch {
    kernel *run;
    const void *args;
};

/* The next piece of the running kernel, counted from 0; the caller stops at the number of pieces it knows of. */
int next_piece(struct member *member);

/* The same for a second phase of one kernel, after team_wait. */
int next_piece_of_second_phase(struct member *member);

/* Wait until every thread of the team is here. */
void team_wait(struct member *member);

/* At least `bytes` of memory of this thread, 64-byte aligned, kept from call to call; its content is undefined. One
 * buffer a thread: a kernel asks once. Ends the process where there is no memory. */
void *scratch(int64_t bytes);

#define EXPORT __attribute__((visibility("default")))

/* Runs kernels one after another with at most `threads` threads. */
EXPORT void penstock_run(const struct launch *launches, int32_t count, const struct step *step, int32_t threads);

#endif
