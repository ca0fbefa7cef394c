/* Numbers narrower than float32, and vectors of them: see vec.h.
 *
 * What is read is exact, what is written is rounded to the nearest, ties to even, in every instruction set alike.
 */
#ifndef PENSTOCK_NUMBERS_H
#define PENSTOCK_NUMBERS_H

#include "vec.h"

INLINE vf vf_load_bf16(const uint16_t *from)
{
#if defined(USE_AVX512)
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16);
#elif defined(USE_AVX2)
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from)), 16);
#elif defined(USE_NEON)
    return (vf)vshll_n_u16(vld1_u16(from), 16);
#else
    vi bits;
    for (int i = 0; i < W; i++)
        bits[i] = (int32_t)((uint32_t)from[i] << 16);
    return (vf)bits;
#endif
}

INLINE vf vf_load_f16(const uint16_t *from)
{
#if defined(USE_AVX512)
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#elif defined(USE_AVX2)
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
#elif defined(USE_NEON)
    return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
#else
    /* Exponent and mantissa in place, then scaled by 2^112: subnormals come out right; infinity and NaN by hand. */
    vi bits;
    for (int i = 0; i < W; i++)
        bits[i] = from[i];
    vi magnitude = bits & 0x7fff;
    vf wide = (vf)(magnitude << 13) * vf_set(0x1p112f);
    vf special = (vf)((magnitude << 13) | 0x7f800000);
    return (vf)((vi)vf_select(magnitude >= 0x7c00, special, wide) | ((bits & 0x8000) << 16));
#endif
}

INLINE vf vf_load_i8(const int8_t *from)
{
#if defined(USE_AVX512)
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
#elif defined(USE_AVX2)
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
#elif defined(USE_NEON)
    uint32_t bytes;
    memcpy(&bytes, from, sizeof bytes);
    return (vf)vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(vcreate_u8(bytes))))));
#else
    vi wide;
    for (int i = 0; i < W; i++)
        wide[i] = from[i];
    return vf_from_int(wide);
#endif
}

/* W bytes without a sign. */
INLINE vi vi_load_u8(const uint8_t *from)
{
#if defined(USE_AVX512)
    return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from));
#elif defined(USE_AVX2)
    return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
#elif defined(USE_NEON)
    uint32_t bytes;
    memcpy(&bytes, from, sizeof bytes);
    return (vi)vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes))));
#else
    vi wide;
    for (int i = 0; i < W; i++)
        wide[i] = from[i];
    return wide;
#endif
}

/* e4m3: sign, four bits of exponent, three of mantissa; 0x7f and 0xff are NaN. A half of the same bits is the number by
 * 2^8 too small, subnormal ones included, but for NaN. */
INLINE vf vf_load_e4m3(const uint8_t *from)
{
#if defined(USE_AVX512)
    __m256i wide = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from)), 7);
    __m256i half = _mm256_and_si256(wide, _mm256_set1_epi16((short)0xbfff));
    __m256i nan = _mm256_cmpeq_epi16(_mm256_and_si256(half, _mm256_set1_epi16(0x7fff)), _mm256_set1_epi16(0x3f80));
    return (vf)_mm512_cvtph_ps(_mm256_or_si256(half, _mm256_srli_epi16(nan, 1))) * 0x1p8f;
#elif defined(USE_AVX2)
    __m128i wide = _mm_slli_epi16(_mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)from)), 7);
    __m128i half = _mm_and_si128(wide, _mm_set1_epi16((short)0xbfff));
    __m128i nan = _mm_cmpeq_epi16(_mm_and_si128(half, _mm_set1_epi16(0x7fff)), _mm_set1_epi16(0x3f80));
    return (vf)_mm256_cvtph_ps(_mm_or_si128(half, _mm_srli_epi16(nan, 1))) * 0x1p8f;
#elif defined(USE_NEON)
    uint32_t bytes;
    memcpy(&bytes, from, sizeof bytes);
    uint16x4_t wide = vreinterpret_u16_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(vcreate_u8(bytes)))));
    uint16x4_t half = vand_u16(vshl_n_u16(wide, 7), vdup_n_u16(0xbfff));
    uint16x4_t nan = vceq_u16(vand_u16(half, vdup_n_u16(0x7fff)), vdup_n_u16(0x3f80));
    return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vorr_u16(half, vshr_n_u16(nan, 1)))) * 0x1p8f;
#else
    vi bits = vi_load_u8(from), magnitude = bits & 0x7f;
    vf normal = (vf)((magnitude << 20) + (120 << 23)), small = vf_from_int(magnitude) * 0x1p-9f;
    vi number = (vi)vf_select(magnitude < 8, small, normal) | ((vi)(magnitude == 0x7f) & 0x7fc00000);
    return (vf)(number | (bits & 0x80) << 24);
#endif
}

typedef int8_t vb __attribute__((vector_size(W)));

/* The nearest integers of numbers below 2^22, ties to even. */
INLINE vf nearest(vf v)
{
    const vf magic = vf_set(0x1.8p23f);
    return (v + magic) - magic;
}

INLINE vf clamp(vf v, float least, float greatest) { return vf_min(vf_max(v, vf_set(least)), vf_set(greatest)); }
INLINE vf magnitude(vf v) { return (vf)((vi)v & 0x7fffffff); }
INLINE vb narrowed(vf v) { return __builtin_convertvector(__builtin_convertvector(v, vi), vb); }

/* NaN stays NaN. */
INLINE void vf_store_bf16(uint16_t *to, vf v)
{
    vi bits = (vi)v;
    vi rounded = bits + 0x7fff + ((bits >> 16) & 1);
    vi number = v == v, kept = (number & rounded) | (~number & (bits | 0x400000));
    for (int i = 0; i < W; i++)
        to[i] = (uint16_t)((uint32_t)kept[i] >> 16);
}

INLINE void vf_store_f16(uint16_t *to, vf v)
{
#if defined(USE_AVX512)
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph((__m512)v, 0));
#elif defined(USE_AVX2)
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph((__m256)v, 0));
#elif defined(USE_NEON)
    vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v)));
#else
    for (int i = 0; i < W; i++) {
        uint32_t bits;
        float lane = v[i];
        memcpy(&bits, &lane, 4);
        uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
        if (magnitude > 0x7f800000)
            to[i] = (uint16_t)(sign | 0x7e00);
        else if (magnitude >= 0x477ff000) /* rounds beyond the greatest half */
            to[i] = (uint16_t)(sign | 0x7c00);
        else if (magnitude < 0x38800000) { /* subnormal: adding 0.5 shifts the mantissa where it belongs, rounded */
            float shifted;
            memcpy(&shifted, &magnitude, 4);
            shifted += 0.5f;
            memcpy(&magnitude, &shifted, 4);
            to[i] = (uint16_t)(sign | (magnitude - 0x3f000000));
        } else
            to[i] = (uint16_t)(sign | ((magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13));
    }
#endif
}

/* Beyond 448 it is 448; NaN stays NaN. */
INLINE void vf_store_e4m3(uint8_t *to, vf v)
{
    vf size = vf_min(magnitude(v), vf_set(448.0f));
    vi bits = (vi)size, sign = ((vi)v >> 24) & 0x80;
    vi normal = (bits + 0x7ffff + ((bits >> 20) & 1) - (120 << 23)) >> 20;
    vi small = (vi)(size + 0x1p14f) - (vi)vf_set(0x1p14f); /* the sum's last place is 2^-9, that of the smallest */
    vi number = (vi)vf_select(size < 0x1p-6f, (vf)small, (vf)normal);
    vb bytes = __builtin_convertvector((vi)vf_select(v == v, (vf)number, (vf)vi_set(0x7f)) | sign, vb);
    memcpy(to, &bytes, sizeof bytes);
}

/* Dtypes of weights, caches and activations, as in library.py. */
enum { F32, BF16, F16, INT8, INT4, E4M3 };

INLINE int dtype_size(int dtype) { return dtype == F32 ? 4 : dtype == INT8 || dtype == E4M3 ? 1 : 2; }

/* W numbers of a dtype at an index counted in elements. INT4 has a layout of its own (gemm.c). */
INLINE vf vf_load_as(int dtype, const void *from, int64_t at)
{
    if (dtype == F32)
        return vf_load((const float *)from + at);
    if (dtype == BF16)
        return vf_load_bf16((const uint16_t *)from + at);
    if (dtype == F16)
        return vf_load_f16((const uint16_t *)from + at);
    if (dtype == E4M3)
        return vf_load_e4m3((const uint8_t *)from + at);
    return vf_load_i8((const int8_t *)from + at);
}

/* Not to INT8, which has a scale. */
INLINE void vf_store_as(int dtype, void *to, int64_t at, vf v)
{
    if (dtype == F32)
        vf_store((float *)to + at, v);
    else if (dtype == BF16)
        vf_store_bf16((uint16_t *)to + at, v);
    else if (dtype == E4M3)
        vf_store_e4m3((uint8_t *)to + at, v);
    else
        vf_store_f16((uint16_t *)to + at, v);
}

#endif
