/* The layout of packed weights, and the register tile of the matrix product. */
#ifndef PENSTOCK_GEMM_H
#define PENSTOCK_GEMM_H

#include "numbers.h"

/* A panel is PANEL output columns, VECTORS registers wide. A tile is up to ROWS rows of x times several panels, the more
 * the fewer rows it has: its accumulators, and beside them some weights and one number of x, just fit the registers.
 * Panels are narrow so that even a tall tile reads several: a processor fetches ahead of each stretch of memory that is
 * read on, and one stretch alone does not use all of its bandwidth. Where two tiles are too few for the rows, they have
 * MANY_ROWS each: 4 x 3 in 16 registers, 8 x 3 in 32 load less for as many accumulators.
 */
#if defined(USE_NEON)
enum { VECTORS = 2 };
#else
enum { VECTORS = 1 };
#endif
#if W == 16
enum { ROWS = 12, MANY_ROWS = 8 };
#elif W == 8
enum { ROWS = 6, MANY_ROWS = 4 };
#else
enum { ROWS = 6, MANY_ROWS = 6 };
#endif
enum { PANEL = VECTORS * W, MOST_PANELS = 8 };

/* Inputs that share a scale in INT4, and the bytes of one group of a panel: its scales in half precision, then bytes
 * of two weights each, of an even input low and the next input high, biased by 8.
 */
enum { GROUP = 32, GROUP_SCALES = 2 * PANEL, GROUP_BYTES = GROUP_SCALES + GROUP / 2 * PANEL };

/* Bytes of `depth` inputs of a panel; in INT4 a multiple of GROUP. */
INLINE int64_t panel_bytes(int format, int64_t depth)
{
    if (format == INT4)
        return depth / GROUP * GROUP_BYTES;
    if (format == BF16)
        depth += depth % 2;
    return depth * PANEL * dtype_size(format);
}

/* One vector of weights of input k, the v-th of its panel. Not for INT4. In BF16 an even input and the next share words,
 * the even one low: one operation widens either.
 */
INLINE vf panel_load(int format, const char *panel, int k, int v)
{
    if (format == BF16) {
        vi words = (vi)vf_load((const float *)panel + (int64_t)(k / 2) * PANEL + v * W);
        if (k % 2)
            return (vf)(words & (int32_t)0xffff0000);
        return (vf)(words << 16);
    }
    return vf_load_as(format, panel, (int64_t)k * PANEL + v * W);
}

/* INT4: one vector of a group's scales in float32, and the weights of two neighbouring inputs. (bits - 8) * scale needs
 * no more digits than a float has, so it is exact, fused or not.
 */
INLINE vf group_scale(const char *group, int v) { return vf_load_f16((const uint16_t *)group + v * W); }

INLINE void group_load(const char *group, int pair, int v, vf scale, vf *even, vf *odd)
{
    vi bits = vi_load_u8((const uint8_t *)group + GROUP_SCALES + pair * PANEL + v * W);
    vf zero = scale * -8.0f;
    *even = vf_fma(vf_from_int(bits & 15), scale, zero);
    *odd = vf_fma(vf_from_int(bits >> 4), scale, zero);
}

#endif
