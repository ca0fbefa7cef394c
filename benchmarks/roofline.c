// What this machine can do at most: bytes read and float32 multiply-adds in a second, with a number of threads.
//   roofline THREADS MIB  ->  "BYTES_PER_SECOND FLOP_PER_SECOND", the best of many rounds
//   roofline THREADS 0    ->  FLOP_PER_SECOND of every round, a line each
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

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
// Short and many, so that some run undisturbed.
#define ROUNDS 64
#define PARTS 8

typedef float vector __attribute__((vector_size(WIDTH)));

static volatile float sink;

static double read_once(const float *data, size_t floats, int threads) {
    double began = omp_get_wtime();
#pragma omp parallel num_threads(threads)
    {
        const vector *v = (const vector *)data;
        size_t count = floats / LANES, share = count / threads / 8 * 8;
        const vector *mine = v + share * omp_get_thread_num();
        vector sum[8] = {{0}};
        for (size_t i = 0; i < share; i += 8)
            for (int k = 0; k < 8; k++) sum[k] += mine[i + k];
        vector all = sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
        sink = all[0];
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

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    int threads = atoi(argv[1]);
    size_t bytes = (size_t)atoi(argv[2]) << 20;
    if (!bytes) {
        for (int round = 0; round < ROUNDS; round++) printf("%.6g\n", multiply_add_once(threads));
        return 0;
    }
    float *data = aligned_alloc(64, bytes);
    if (!data) return 1;
#pragma omp parallel for num_threads(threads)
    for (size_t i = 0; i < bytes / sizeof(float); i++) data[i] = 1;
    double read = 0, flops = 0;
    // Each round reads another part, which no cache holds any more.
    size_t part = bytes / sizeof(float) / PARTS;
    for (int round = 0; round < ROUNDS; round++) {
        double now = read_once(data + part * (round % PARTS), part, threads);
        if (now > read) read = now;
    }
    for (int round = 0; round < ROUNDS; round++) {
        double now = multiply_add_once(threads);
        if (now > flops) flops = now;
    }
    printf("%.6g %.6g\n", read, flops);
    return 0;
}
