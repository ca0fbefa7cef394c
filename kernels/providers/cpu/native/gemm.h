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
 * of two weights each, input i low and input i + GROUP / 2 high, biased by 8.
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

/* One vector of a group's scales in float32, and of its biased weights. */
INLINE vf group_scale(const char *group, int v) { return vf_load_f16((const uint16_t *)group + v * W); }

INLINE vf group_load(const char *group, int k, int v)
{
    const uint8_t *bytes = (const uint8_t *)group + GROUP_SCALES + (k % (GROUP / 2)) * PANEL + v * W;
    return vf_load_nibbles(bytes, k >= GROUP / 2) - 8.0f;
}

#endif
