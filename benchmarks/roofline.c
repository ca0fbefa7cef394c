// What this machine can do at most: bytes read and float32 multiply-adds in a second, with a number of threads.
//   roofline THREADS MIB  ->  "BYTES_PER_SECOND FLOP_PER_SECOND" twice: the best of many rounds, and their median
//   roofline THREADS 0    ->  FLOP_PER_SECOND of every round, a line each
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX__)
#define WIDTH 32
#else
#define WIDTH 16
#endif
#define LANES (WIDTH / (int)sizeof(float))
// As many sums as hide a multiply-add's latency of 4 to 5 cycles on machines that begin two in a cycle.
#define CHAINS 12
// Short and many, so that some run undisturbed: about half a second of each kind.
#define ROUNDS 128
#define PARTS 8
// Stretches of memory that a thread reads side by side: a processor fetches ahead of each, and of one alone too little.
#define STREAMS 8
#define LARGE_PAGE ((size_t)2 << 20)

typedef float vector __attribute__((vector_size(WIDTH)));

static volatile float sink;

static double read_once(const float *data, size_t floats, int threads) {
    double began = omp_get_wtime();
#pragma omp parallel num_threads(threads)
    {
        size_t stretch = floats / LANES / threads / STREAMS / 8 * 8;
        const vector *mine = (const vector *)data + STREAMS * stretch * omp_get_thread_num();
        vector sum[STREAMS] = {{0}};
        for (size_t i = 0; i < stretch; i += 8)
#pragma GCC unroll 8
            for (int k = 0; k < STREAMS; k++)
#pragma GCC unroll 8
                for (int j = 0; j < 8; j++) sum[k] += mine[k * stretch + i + j];
        for (int k = 1; k < STREAMS; k++) sum[0] += sum[k];
        sink = sum[0][0];
    }
    return (double)floats * sizeof(float) / (omp_get_wtime() - began);
}

static double multiply_add_once(int threads) {
    const long loops = 2000000;
    double began = omp_get_wtime();
#pragma omp parallel num_threads(threads)
    {
        vector sum[CHAINS], factor, term;
        for (int lane = 0; lane < LANES; lane++) factor[lane] = 0.999f, term[lane] = 1e-3f;
        // Each begins elsewhere, or the compiler would compute one of them and copy it.
#pragma GCC unroll 12
        for (int k = 0; k < CHAINS; k++) sum[k] = factor * (float)k;
        for (long i = 0; i < loops; i++) {
#pragma GCC unroll 12
            for (int k = 0; k < CHAINS; k++) sum[k] = sum[k] * factor + term;
        }
#pragma GCC unroll 12
        for (int k = 1; k < CHAINS; k++) sum[0] += sum[k];
        sink = sum[0][0];
    }
    return 2.0 * LANES * CHAINS * loops * threads / (omp_get_wtime() - began);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    int threads = atoi(argv[1]);
    size_t bytes = (size_t)atoi(argv[2]) << 20;
    if (!bytes) {
        for (int round = 0; round < ROUNDS; round++) printf("%.6g\n", multiply_add_once(threads));
        return 0;
    }
    float *data = aligned_alloc(LARGE_PAGE, bytes);
    if (!data) return 1;
#ifdef MADV_HUGEPAGE
    madvise(data, bytes, MADV_HUGEPAGE);
#endif
#pragma omp parallel for num_threads(threads)
    for (size_t i = 0; i < bytes / sizeof(float); i++) data[i] = 1;
    double read[ROUNDS], flops[ROUNDS];
    // Each round reads another part, which no cache holds any more.
    size_t part = bytes / sizeof(float) / PARTS;
    for (int round = 0; round < ROUNDS; round++)
        read[round] = read_once(data + part * (round % PARTS), part, threads);
    for (int round = 0; round < ROUNDS; round++) flops[round] = multiply_add_once(threads);
    qsort(read, ROUNDS, sizeof *read, by_size);
    qsort(flops, ROUNDS, sizeof *flops, by_size);
    printf("%.6g %.6g\n%.6g %.6g\n", read[ROUNDS - 1], flops[ROUNDS - 1], read[ROUNDS / 2], flops[ROUNDS / 2]);
    return 0;
}
