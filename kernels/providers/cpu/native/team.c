#include "team.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif

/* Rounds of waiting before a thread offers its core to others: a few tens of microseconds. */
enum { SPINS = 4000 };

struct counters {
    atomic_int first, second;
};

struct team {
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_int round;
    struct counters *counters; /* one for each kernel of the program */
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
    return atomic_fetch_add_explicit(&member->team->counters[member->kernel].first, 1, memory_order_relaxed);
}

int next_piece_of_second_phase(struct member *member)
{
    return atomic_fetch_add_explicit(&member->team->counters[member->kernel].second, 1, memory_order_relaxed);
}

void team_wait(struct member *member)
{
    struct team *team = member->team;
    if (member->threads == 1)
        return;
    int round = atomic_load_explicit(&team->round, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) == member->threads - 1) {
        atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&team->round, round + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&team->round, memory_order_acquire) == round; spins++) {
        if (spins < SPINS)
            relax();
        else
            sched_yield();
    }
}

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
    struct counters counters[count];
    for (int i = 0; i < count; i++) {
        atomic_init(&counters[i].first, 0);
        atomic_init(&counters[i].second, 0);
    }
    struct team team = {.counters = counters};
    atomic_init(&team.arrived, 0);
    atomic_init(&team.round, 0);
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) if (threads > 1)
#endif
    {
        struct member member = {.team = &team, .thread = 0, .threads = 1};
#ifdef _OPENMP
        member.thread = omp_get_thread_num();
        member.threads = omp_get_num_threads();
#endif
        for (int i = 0; i < count; i++) {
            member.kernel = i;
            launches[i].run(launches[i].args, step, &member);
            team_wait(&member);
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
