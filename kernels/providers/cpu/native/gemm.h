/* The layout of packed weights, and the register tile of the matrix product. */
#ifndef PENSTOCK_GEMM_H
#define PENSTOCK_GEMM_H

#include "vec.h"

/* A panel is PANEL output columns, VECTORS registers wide; a tile is up to ROWS rows of x times one panel or more. The
 * accumulators of a full tile, one row of weights and one number of x just fit the registers.
 */
#if W == 16
enum { VECTORS = 2, ROWS = 12 };
#elif defined(__aarch64__)
enum { VECTORS = 4, ROWS = 6 };
#else
enum { VECTORS = 2, ROWS = 6 };
#endif
enum { PANEL = VECTORS * W };

/* Inputs that share a scale in INT4, and the bytes of one group of a panel: its scales in half precision, then bytes
 * of two weights each, of an even input low and the next input high, biased by 8.
 */
enum { GROUP = 32, GROUP_SCALES = 2 * PANEL, GROUP_BYTES = GROUP_SCALES + GROUP / 2 * PANEL };

/* Bytes of `depth` inputs of a panel; in INT4 a multiple of GROUP. */
INLINE int64_t panel_bytes(int format, int64_t depth)
{
    return format == INT4 ? depth / GROUP * GROUP_BYTES : depth * PANEL * dtype_size(format);
}

/* One vector of weights of input k, the v-th of its panel. Not for INT4. */
INLINE vf panel_load(int format, const char *panel, int k, int v)
{
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
