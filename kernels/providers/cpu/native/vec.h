/* The one vector type every kernel is written with: W floats, as wide as the instruction set the file is built for.
 *
 * A variant is chosen by compiler flags (see setup.py). Contraction is off there, so a multiplication and an addition
 * are fused exactly where the source says vf_fma, in every tile shape alike: that is what makes results independent of
 * the batch.
 */
#ifndef PENSTOCK_VEC_H
#define PENSTOCK_VEC_H

#include <stdint.h>
#include <string.h>

/* The instruction set whose intrinsics are used. PENSTOCK_WIDTH asks for a width without any: tests run the sources so
 * at widths that their machine has no instructions for.
 */
#if defined(PENSTOCK_WIDTH)
#define W PENSTOCK_WIDTH
#elif defined(__AVX512F__)
#define W 16
#define USE_AVX512
#elif defined(__AVX2__)
#define W 8
#define USE_AVX2
#else
#define W 4
#if defined(__aarch64__)
#define USE_NEON
#endif
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * W), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * W), may_alias));

INLINE vf vf_load(const float *from) { vf v; memcpy(&v, from, sizeof v); return v; }
INLINE void vf_store(float *to, vf v) { memcpy(to, &v, sizeof v); }

/* The first `count` lanes, 1 to W; the others are `fill`, or are not stored. */
INLINE vf vf_load_some(const float *from, int count, float fill)
{
    float lanes[W];
    for (int i = 0; i < W; i++)
        lanes[i] = i < count ? from[i] : fill;
    return vf_load(lanes);
}

INLINE void vf_store_some(float *to, vf v, int count)
{
    float lanes[W];
    vf_store(lanes, v);
    memcpy(to, lanes, 4 * (size_t)count);
}

INLINE vf vf_set(float value) { return value - (vf){0}; }
INLINE vi vi_set(int32_t value) { return value - (vi){0}; }
INLINE vf vf_from_int(vi v) { return __builtin_convertvector(v, vf); }
INLINE vf vf_select(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }

/* a > b ? a : b and a < b ? a : b, to the bit: with a NaN among them b. */
INLINE vf vf_max(vf a, vf b)
{
#if defined(USE_AVX512)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(USE_AVX2)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vf_select(a > b, a, b);
#endif
}

INLINE vf vf_min(vf a, vf b)
{
#if defined(USE_AVX512)
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(USE_AVX2)
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return vf_select(a < b, a, b);
#endif
}

/* a * b + c, rounded once where the machine can. */
INLINE vf vf_fma(vf a, vf b, vf c)
{
#if defined(USE_AVX512)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(USE_AVX2)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(USE_NEON)
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#elif defined(__FMA__)
    for (int i = 0; i < W; i++)
        c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#else
    return a * b + c;
#endif
}

/* The same, c kept in the register that it is in. Left to itself a compiler adds copies between registers and addresses of
 * its own to a loop of accumulators: instructions that cost little on a core of one's own, and a quarter of the speed
 * where a core's other thread takes every second turn.
 */
INLINE vf vf_accumulate(vf c, vf a, vf b)
{
#if defined(USE_AVX512)
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
    return c;
#elif defined(USE_AVX2)
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(c) : "x"(a), "x"(b));
    return c;
#else
    return vf_fma(a, b, c);
#endif
}

/* Leaves a pointer or a number in its register: what is made of it is computed where it is used. */
#define HOLD(value) __asm__("" : "+r"(value))

/* The lanes where a comparison held, a bit for each. */
INLINE uint32_t vi_lanes(vi mask)
{
#if defined(USE_AVX512)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
#elif defined(USE_AVX2)
    return (uint32_t)_mm256_movemask_ps((__m256)mask);
#else
    uint32_t lanes = 0;
    for (int i = 0; i < W; i++)
        lanes |= (uint32_t)(mask[i] & 1) << i;
    return lanes;
#endif
}

/* W/2 products of 64 bits, each of the lower 32 bits of its factors. */
typedef uint64_t vu __attribute__((vector_size(4 * W), may_alias));
INLINE vu vu_multiply(vu a, vu b)
{
#if defined(USE_AVX512)
    return (vu)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(USE_AVX2)
    return (vu)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(USE_NEON)
    return (vu)vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)b));
#else
    return (a & 0xffffffff) * (b & 0xffffffff);
#endif
}

/* Sums of all lanes, in one fixed tree. */
INLINE float vf_sum(vf v)
{
    float lanes[W];
    vf_store(lanes, v);
    for (int width = W / 2; width; width /= 2)
        for (int i = 0; i < width; i++)
            lanes[i] += lanes[i + width];
    return lanes[0];
}

INLINE float vf_largest(vf v)
{
#if defined(USE_AVX512)
    return _mm512_reduce_max_ps((__m512)v);
#endif
    float best = v[0];
    for (int i = 1; i < W; i++)
        best = v[i] > best ? v[i] : best;
    return best;
}

/* e^x = 2^n p to about 1 ulp: x = n ln 2 + r, and p a polynomial in r (coefficients: Cephes, expf). */
INLINE vf exp_parts(vf x, vi *n)
{
    const vf magic = vf_set(0x1.8p23f); /* adding it rounds to an integer, in every instruction set alike */
    vf shifted = vf_fma(x, vf_set(1.44269504088896341f), magic);
    vf whole = shifted - magic;
    vf r = vf_fma(whole, vf_set(-0.693359375f), x);
    r = vf_fma(whole, vf_set(2.12194440e-4f), r);
    vf p = vf_set(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set(5.0000001201e-1f));
    *n = (vi)shifted - (vi)magic;
    return vf_fma(p, r * r, r + 1.0f);
}

/* Below -87.3 the result is 0, above 88.7 infinity. NaN gives NaN. */
INLINE vf vf_exp(vf x)
{
    vi exponent;
    vf p = exp_parts(vf_min(vf_max(x, vf_set(-88.0f)), vf_set(89.0f)), &exponent);
    vi half = exponent >> 1; /* in two factors: 2^128 alone is no float */
    vf scaled = p * (vf)((half + 127) << 23) * (vf)((exponent - half + 127) << 23);
    vf result = vf_select(x < -87.3f, vf_set(0.0f), vf_select(x > 88.72f, vf_set(__builtin_inff()), scaled));
    return vf_select(x == x, result, x);
}

/* The same bits for x <= 0 in fewer instructions. */
INLINE vf vf_exp_of_negative(vf x)
{
    vi exponent;
    vf p = exp_parts(x, &exponent);
    return (vf)((vi)(p * (vf)((exponent + 127) << 23)) & ~(vi)(x < -87.3f));
}

/* The error function to about 2e-7 of its value. Up to 1 a polynomial in x^2 times x, beyond 1 - t P(t) e^(-x^2) with
 * t = 1 / (1 + x/2); both polynomials interpolate at Chebyshev's nodes. NaN gives NaN.
 */
INLINE vf vf_erf(vf x)
{
    vf square = x * x;
    vf near = vf_set(7.875874871388078e-5f);
    near = vf_fma(near, square, vf_set(-8.01686430349946e-4f));
    near = vf_fma(near, square, vf_set(5.189087241888046e-3f));
    near = vf_fma(near, square, vf_set(-2.685421146452427e-2f));
    near = vf_fma(near, square, vf_set(1.1283594369888306e-1f));
    near = vf_fma(near, square, vf_set(-3.761262595653534e-1f));
    near = vf_fma(near, square, vf_set(1.1283791065216064f));
    vf size = vf_min((vf)((vi)x & 0x7fffffff), vf_set(4.0f)); /* erf(4) rounds to 1 */
    vf t = 1.0f / vf_fma(size, vf_set(0.5f), vf_set(1.0f));
    vf far = vf_set(5.6395817548036575e-2f);
    far = vf_fma(far, t, vf_set(-1.0326313972473145e-1f));
    far = vf_fma(far, t, vf_set(-9.009488672018051e-2f));
    far = vf_fma(far, t, vf_set(1.9374339282512665e-1f));
    far = vf_fma(far, t, vf_set(1.1831315606832504e-1f));
    far = vf_fma(far, t, vf_set(2.632769048213959e-1f));
    far = vf_fma(far, t, vf_set(2.7962541580200195e-1f));
    far = vf_fma(far, t, vf_set(2.8224968910217285e-1f));
    vf tail = 1.0f - t * far * vf_exp(-(size * size));
    vf signed_tail = (vf)((vi)tail | ((vi)x & (vi)vf_set(-0.0f)));
    return vf_select(x == x, vf_select(size < 1.0f, near * x, signed_tail), x);
}

#endif
