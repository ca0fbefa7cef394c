#include "team.h"

#include <limits.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif

/* Rounds of waiting before a thread offers its core to others: a few tens of microseconds. */
enum { SPINS = 4000 };

/* Pieces of one phase of one kernel. */
struct phase {
    atomic_int taken, done;
    atomic_int all; /* how many there are: the least number that was too high; INT_MAX until somebody was given it */
};

enum { PHASES = 2 /* of each kernel, the second mostly empty */ };

struct team {
    struct phase *phases;
};

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

int next_piece(struct member *member)
{
    struct phase *phase = member->team->phases + member->phase;
    if (member->piece >= 0)
        atomic_fetch_add_explicit(&phase->done, 1, memory_order_acq_rel);
    member->piece = atomic_fetch_add_explicit(&phase->taken, 1, memory_order_relaxed);
    return member->piece;
}

/* Leave a phase, whose end this thread has seen, once all of its pieces are done. */
static void end_phase(struct member *member)
{
    struct phase *phase = member->team->phases + member->phase;
    int all = atomic_load_explicit(&phase->all, memory_order_relaxed);
    while (member->piece >= 0 && member->piece < all &&
           !atomic_compare_exchange_weak_explicit(&phase->all, &all, member->piece, memory_order_relaxed,
                                                  memory_order_relaxed))
        ;
    for (int spins = 0; member->piece >= 0 && atomic_load_explicit(&phase->done, memory_order_acquire) !=
                                                  atomic_load_explicit(&phase->all, memory_order_relaxed);
         spins++) {
        if (spins < SPINS)
            relax();
        else
            sched_yield();
    }
    member->phase++;
    member->piece = -1;
}

void second_phase(struct member *member) { end_phase(member); }

void *scratch(int64_t bytes)
{
    static _Thread_local void *memory;
    static _Thread_local int64_t size;
    if (bytes > size) {
        free(memory);
        int64_t rounded = (bytes + 4095) / 4096 * 4096;
        memory = aligned_alloc(64, (size_t)rounded);
        size = rounded;
        if (!memory) {
            fprintf(stderr, "penstock: no memory for a kernel's scratch of %lld bytes\n", (long long)rounded);
            abort();
        }
    }
    return memory;
}

void penstock_run(const struct launch *launches, int32_t count, const struct step *step, int32_t threads)
{
    struct phase phases[PHASES * count];
    for (int i = 0; i < PHASES * count; i++) {
        atomic_init(&phases[i].taken, 0);
        atomic_init(&phases[i].done, 0);
        atomic_init(&phases[i].all, INT_MAX);
    }
    struct team team = {.phases = phases};
    struct step by_sequence = {.tokens = step->sequences, .sequences = step->sequences};
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) if (threads > 1)
#endif
    {
        struct member member = {.team = &team, .thread = 0, .threads = 1, .piece = -1};
#ifdef _OPENMP
        member.thread = omp_get_thread_num();
        member.threads = omp_get_num_threads();
#endif
        for (int i = 0; i < count; i++) {
            member.phase = PHASES * i;
            launches[i].run(launches[i].args, launches[i].by_sequence ? &by_sequence : step, &member);
            end_phase(&member);
        }
    }
}

/* What the library was built from, as variants.py digests it. */
EXPORT const char *penstock_sources(void)
{
#ifdef PENSTOCK_SOURCES
    return PENSTOCK_SOURCES;
#else
    return "";
#endif
}
