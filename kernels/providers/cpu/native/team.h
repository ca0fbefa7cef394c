/* A program of kernels, run by a team of threads.
 *
 * Every kernel is one function that the threads of the team enter. They share its work by taking numbered pieces from a
 * counter until none is left. What a piece computes never depends on who takes it. A kernel is over when every piece of
 * it is done, not when every thread has arrived: one that the operating system has put aside for a while is waited for
 * only if it holds a piece, and finds nothing left to do in the kernels it has missed.
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
    int phase;   /* which phase of which kernel of the program this thread is in, counted through */
    int piece;   /* the piece it took last, or -1 */
};

typedef void kernel(const void *args, const struct step *step, struct member *member);

struct launch {
    kernel *run;
    const void *args;
    int32_t by_sequence; /* its rows are not the step's tokens but its sequences */
};

/* The next piece of this phase, counted from 0. The caller does it and asks again, until it is given a number that is
 * not less than the pieces it knows of; so it asks at least once.
 */
int next_piece(struct member *member);

/* Begin the kernel's second and last phase: returns when all pieces of the first are done. */
void second_phase(struct member *member);

/* At least `bytes` of memory of this thread, 64-byte aligned, kept from call to call; its content is undefined. One
 * buffer a thread: a kernel asks once. Ends the process where there is no memory. */
void *scratch(int64_t bytes);

#define EXPORT __attribute__((visibility("default")))

/* Runs kernels one after another with at most `threads` threads. */
EXPORT void penstock_run(const struct launch *launches, int32_t count, const struct step *step, int32_t threads);

#endif
