/* Philox4x32-10 (Salmon et al. 2011), as kernels/philox.py defines it, for W/2 counters at once. */
#ifndef PENSTOCK_PHILOX_H
#define PENSTOCK_PHILOX_H

#include "vec.h"

/* Counters, and the tokens that their words are for: each counter's four words belong to four tokens in turn. */
enum { COUNTERS = W / 2, WORDS = 4 * COUNTERS };

struct stream {
    uint64_t seed;
    uint32_t choice, position;
};

/* The upper 24 bits of the words of tokens at..at+WORDS-1, of which `at` is a multiple of 4: word j of each counter in
 * bits[j].
 */
INLINE void philox_bits(const struct stream *stream, int32_t at, vu bits[4])
{
    vu first = {0};
    for (int i = 0; i < COUNTERS; i++)
        first[i] = (uint64_t)(at / 4 + i);
    vu c0 = first, c1 = (vu){0} + stream->position, c2 = (vu){0} + stream->choice, c3 = {0};
    const vu m0 = (vu){0} + 0xD2511F53, m1 = (vu){0} + 0xCD9E8D57;
    uint32_t k0 = (uint32_t)stream->seed, k1 = (uint32_t)(stream->seed >> 32);
    for (int round = 0; round < 10; round++) {
        /* What is above 32 bits in a lane is never looked at: products take the lower halves. */
        vu p0 = vu_multiply(c0, m0), p1 = vu_multiply(c2, m1);
        c0 = (p1 >> 32) ^ c1 ^ k0;
        c1 = p1;
        c2 = (p0 >> 32) ^ c3 ^ k1;
        c3 = p0;
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    bits[0] = c0 >> 8 & 0xffffff;
    bits[1] = c1 >> 8 & 0xffffff;
    bits[2] = c2 >> 8 & 0xffffff;
    bits[3] = c3 >> 8 & 0xffffff;
}

#endif
