/* What the NEON kernel sets share: everything but the matrix product. Signed activations. Weights must be -127 or more:
 * then two products fit 16 bits. */
#ifndef DN_KERNELS_NEON_H
#define DN_KERNELS_NEON_H

#include <arm_neon.h>
#include <stdbool.h>
#include <string.h>

#include "kernels.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef struct {
    int32x4_t multiplier, shift;
} scale;

INLINE scale scale_at(const dn_requant *r, size_t c) { return (scale){vld1q_s32(r->multiplier + c), vld1q_s32(r->shift + c)}; }

/* dn_requantise for shifts below 0, or multipliers of 0. SQRDMULH is SaturatingRoundingDoublingHighMul; one less for negative
 * values moves their ties away from zero, as gemmlowp's RoundingDivideByPOT has it. */
INLINE int32x4_t requantise_twice(int32x4_t sum, scale s) {
    int32x4_t high = vqrdmulhq_s32(sum, s.multiplier);
    return vrshlq_s32(vsraq_n_s32(high, high, 31), s.shift);
}

/* The same for a shift that may be 0. */
INLINE int32x4_t requantise_any(int32x4_t sum, scale s) {
    int32x4_t high = vqrdmulhq_s32(sum, s.multiplier);
    int32x4_t fixup = vshrq_n_s32(vandq_s32(high, s.shift), 31);
    return vrshlq_s32(vqaddq_s32(high, fixup), s.shift);
}

INLINE int32x4_t requantise_once(int32x4_t sum, scale s) {
    int64x2_t low = vmull_s32(vget_low_s32(sum), vget_low_s32(s.multiplier)), high = vmull_high_s32(sum, s.multiplier);
    int32x4_t shift = vsubq_s32(s.shift, vdupq_n_s32(31));
    low = vrshlq_s64(low, vmovl_s32(vget_low_s32(shift)));
    high = vrshlq_s64(high, vmovl_high_s32(shift));
    return vcombine_s32(vmovn_s64(low), vmovn_s64(high));
}

INLINE int32x4_t requantise(int32x4_t sum, scale s, int once) {
    return once ? requantise_once(sum, s) : requantise_twice(sum, s);
}

typedef struct {
    int16x8_t zero;
    int8x8_t min, max;
} finish;

INLINE finish finish_of(int32_t zero, int32_t min, int32_t max) {
    return (finish){vdupq_n_s16((int16_t)zero), vdup_n_s8((int8_t)min), vdup_n_s8((int8_t)max)};
}

INLINE int8x8_t narrow(int32x4_t a, int32x4_t b, finish f) {
    int16x8_t q = vqaddq_s16(vcombine_s16(vqmovn_s32(a), vqmovn_s32(b)), f.zero);
    return vmin_s8(vmax_s8(vqmovn_s16(q), f.min), f.max);
}

INLINE int8x16_t narrow_16(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d, finish f) {
    int16x8_t low = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(a), b), f.zero);
    int16x8_t high = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(c), d), f.zero);
    int8x16_t q = vqmovn_high_s16(vqmovn_s16(low), high);
    return vminq_s8(vmaxq_s8(q, vcombine_s8(f.min, f.min)), vcombine_s8(f.max, f.max));
}

typedef int32_t __attribute__((aligned(1), may_alias)) four_bytes;

/* `width` of four bytes. */
INLINE void store_four(dn_act *out, int32_t four, int width) {
    if (__builtin_expect(width >= 4, 1)) {
        *(four_bytes *)(void *)out = four;
        return;
    }
    for (int i = 0; i < width; i++, four >>= 8) out[i] = (dn_act)four;
}

INLINE void store(dn_act *out, int8x8_t q, size_t count) {
    if (count >= 8) {
        vst1_s8(out, q);
        return;
    }
    int8_t bytes[8];
    vst1_s8(bytes, q);
    memcpy(out, bytes, count);
}

/* ---- depthwise: packed [channels / 16][k_h * k_w][16] ---- */

enum { WIDE = 16, PIXELS = 2 };

static size_t depthwise_bytes(int32_t channels, int32_t k_h, int32_t k_w) {
    return ((size_t)channels + WIDE - 1) / WIDE * WIDE * (size_t)k_h * (size_t)k_w;
}

static void pack_depthwise(const int8_t *w, int32_t channels, int32_t k_h, int32_t k_w, int8_t *packed) {
    size_t taps = (size_t)k_h * (size_t)k_w;
    memset(packed, 0, depthwise_bytes(channels, k_h, k_w));
    for (size_t t = 0; t < taps; t++)
        for (size_t c = 0; c < (size_t)channels; c += WIDE)
            memcpy(packed + (c * taps + t * WIDE), w + t * (size_t)channels + c,
                   (size_t)channels - c < WIDE ? (size_t)channels - c : WIDE);
}

/* Sixteen channels of one row of output pixels, or the eight that are left of them. */
typedef struct {
    const int8_t *w;
    const dn_act *const *rows;
    dn_act *out;
    size_t c, pixel, tap; /* from one output pixel's window to the next, from one tap to the next */
    size_t ldo;
    int width, once;
    int32x4_t bias[4];
    scale s[4];
    finish f;
} strip;

/* The sums of a pixel, of HALVES * 8 channels, and the products of two taps on their way to them. */
typedef struct {
    int32x4_t sum[4];
    int16x8_t two[2];
} sums;

INLINE void multiply(const int HALVES, bool second, int8x16_t x, int8x16_t w, sums *s) {
    int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(w));
    if (second) low = vmlal_s8(s->two[0], vget_low_s8(x), vget_low_s8(w));
    s->two[0] = low;
    if (HALVES == 2) s->two[1] = second ? vmlal_high_s8(s->two[1], x, w) : vmull_high_s8(x, w);
}

INLINE void gather(const int HALVES, const int32x4_t *to, sums *s) {
    UNROLL
    for (int h = 0; h < HALVES; h++) {
        s->sum[2 * h] = vaddw_s16(to[2 * h], vget_low_s16(s->two[h]));
        s->sum[2 * h + 1] = vaddw_high_s16(to[2 * h + 1], s->two[h]);
    }
}

INLINE int8x16_t load_wide(const int HALVES, const int8_t *from) {
    return HALVES == 2 ? vld1q_s8(from) : vcombine_s8(vld1_s8(from), vdup_n_s8(0));
}

INLINE void finish_pixel(const int HALVES, const strip *d, const sums *s, dn_act *out) {
    int32x4_t q[4];
    UNROLL
    for (int i = 0; i < 2 * HALVES; i++) q[i] = requantise(s->sum[i], d->s[i], d->once);
    if (HALVES == 1) {
        store(out, narrow(q[0], q[1], d->f), (size_t)d->width);
        return;
    }
    int8x16_t bytes = narrow_16(q[0], q[1], q[2], q[3], d->f);
    if (d->width >= WIDE) {
        vst1q_s8(out, bytes);
        return;
    }
    vst1_s8(out, vget_low_s8(bytes));
    store(out + 8, vget_high_s8(bytes), (size_t)d->width - 8);
}

/* P pixels of a K by K window without dilation; a column of the input serves all of them. */
INLINE void square(const int K, const int STRIDE, const int P, const int HALVES, const strip *d, size_t x) {
    const int COLUMNS = (P - 1) * STRIDE + K;
    sums s[PIXELS];
    UNROLL
    for (int ky = 0; ky < K; ky++) {
        const dn_act *in = d->rows[ky] + x * d->pixel + d->c;
        int8x16_t column[(PIXELS - 1) * 2 + 5];
        UNROLL
        for (int i = 0; i < COLUMNS; i++) column[i] = load_wide(HALVES, in + (size_t)i * d->tap);
        UNROLL
        for (int kx = 0; kx < K; kx++) {
            int t = ky * K + kx;
            int8x16_t w = load_wide(HALVES, d->w + t * WIDE);
            UNROLL
            for (int p = 0; p < P; p++) {
                multiply(HALVES, t % 2 == 1, column[p * STRIDE + kx], w, &s[p]);
                if (t % 2 == 1 || t == K * K - 1) gather(HALVES, t <= 1 ? d->bias : s[p].sum, &s[p]);
            }
        }
    }
    UNROLL
    for (int p = 0; p < P; p++) finish_pixel(HALVES, d, &s[p], d->out + (x + (size_t)p) * d->ldo + d->c);
}

/* One pixel of any window. */
INLINE void any_window(const int HALVES, const strip *d, int k_h, int k_w, size_t x) {
    sums s;
    const int8_t *w = d->w;
    memcpy(s.sum, d->bias, sizeof s.sum);
    for (int ky = 0; ky < k_h; ky++) {
        const dn_act *in = d->rows[ky] + x * d->pixel + d->c;
        for (int kx = 0; kx < k_w; kx++, in += d->tap, w += WIDE) {
            multiply(HALVES, false, load_wide(HALVES, in), load_wide(HALVES, w), &s);
            if (kx + 1 < k_w) {
                kx++;
                in += d->tap;
                w += WIDE;
                multiply(HALVES, true, load_wide(HALVES, in), load_wide(HALVES, w), &s);
            }
            gather(HALVES, s.sum, &s);
        }
    }
    finish_pixel(HALVES, d, &s, d->out + x * d->ldo + d->c);
}

/* A last group of pixels that is short starts earlier and does some twice. */
INLINE void square_row(const int K, const int STRIDE, const int HALVES, const strip *d, size_t pixels) {
    if (pixels < PIXELS) {
        square(K, STRIDE, 1, HALVES, d, 0);
        return;
    }
    for (size_t x = 0; x < pixels; x += PIXELS)
        square(K, STRIDE, PIXELS, HALVES, d, x + PIXELS > pixels ? pixels - PIXELS : x);
}

INLINE void strip_row(const int HALVES, const dn_depthwise *d, const strip *s, size_t pixels) {
    bool even = d->dil_w == 1 && d->k_h == d->k_w;
    if (even && d->k_w == 3 && d->stride_w == 1) square_row(3, 1, HALVES, s, pixels);
    else if (even && d->k_w == 3 && d->stride_w == 2) square_row(3, 2, HALVES, s, pixels);
    else if (even && d->k_w == 5 && d->stride_w == 1) square_row(5, 1, HALVES, s, pixels);
    else if (even && d->k_w == 5 && d->stride_w == 2) square_row(5, 2, HALVES, s, pixels);
    else
        for (size_t x = 0; x < pixels; x++) any_window(HALVES, s, d->k_h, d->k_w, x);
}

static void depthwise(const dn_depthwise *d, const dn_act *const *rows, int pixels, dn_act *out) {
    const dn_requant *r = &d->requant;
    size_t channels = (size_t)d->channels;
    strip s = {.w = d->packed, .rows = rows, .out = out, .pixel = (size_t)d->stride_w * channels,
               .tap = (size_t)d->dil_w * channels, .ldo = channels, .once = r->once,
               .f = finish_of(r->zero_point, r->min, r->max)};
    for (; s.c < channels; s.c += WIDE, s.w += WIDE * d->k_h * d->k_w) {
        s.width = (int)(channels - s.c);
        for (size_t i = 0; i < 4; i++) {
            s.bias[i] = vld1q_s32(r->bias + s.c + 4 * i);
            s.s[i] = scale_at(r, s.c + 4 * i);
        }
        if (s.width > WIDE / 2) strip_row(2, d, &s, (size_t)pixels);
        else strip_row(1, d, &s, (size_t)pixels);
    }
}

/* ---- element by element; whole vectors, then the rest through the scalar twin ---- */

INLINE int16x8_t centred(const dn_act *a, int32_t zero) { return vsubl_s8(vld1_s8(a), vdup_n_s8((int8_t)zero)); }

INLINE scale uniform(int32_t multiplier, int32_t shift) { return (scale){vdupq_n_s32(multiplier), vdupq_n_s32(shift)}; }

static void add(const dn_add *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out) {
    scale s_a = uniform(p->multiplier_a, p->shift_a), s_b = uniform(p->multiplier_b, p->shift_b);
    scale s_out = uniform(p->multiplier_out, p->shift_out);
    finish f = finish_of(p->zero_out, p->min, p->max);
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        int16x8_t x = centred(a + i, p->zero_a), y = centred(b + i, p->zero_b);
        int32x4_t q[2];
        for (int half = 0; half < 2; half++) {
            int32x4_t u = vshlq_n_s32(vmovl_s16(half ? vget_high_s16(x) : vget_low_s16(x)), 20);
            int32x4_t v = vshlq_n_s32(vmovl_s16(half ? vget_high_s16(y) : vget_low_s16(y)), 20);
            u = requantise_any(u, s_a);
            v = requantise_any(v, s_b);
            q[half] = requantise_any(p->sign_b < 0 ? vsubq_s32(u, v) : vaddq_s32(u, v), s_out);
        }
        vst1_s8(out + i, narrow(q[0], q[1], f));
    }
    dn_kernels_scalar.add(p, a + i, b + i, count - i, out + i);
}

static void mul(const dn_mul *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out) {
    scale s = uniform(p->multiplier, p->shift);
    finish f = finish_of(p->zero_out, p->min, p->max);
    size_t i = 0;
    for (; p->shift <= 0 && i + 8 <= count; i += 8) {
        int16x8_t x = centred(a + i, p->zero_a), y = centred(b + i, p->zero_b);
        int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y)), high = vmull_high_s16(x, y);
        vst1_s8(out + i, narrow(requantise_any(low, s), requantise_any(high, s), f));
    }
    dn_kernels_scalar.mul(p, a + i, b + i, count - i, out + i);
}

static void mean(const dn_mean *p, const dn_act *a, size_t count, dn_act *out) {
    scale s = uniform(p->multiplier, p->shift);
    finish f = finish_of(p->zero_out, DN_ACT_MIN, DN_ACT_MAX);
    size_t c = 0;
    for (; c + 8 <= count; c += 8) {
        int32x4_t low = vdupq_n_s32(p->base), high = low;
        const dn_act *pixel = a + c;
        for (size_t left = p->pixels, some; left > 0; left -= some) {
            some = left < DN_PIXELS_IN_16_BITS ? left : DN_PIXELS_IN_16_BITS;
            int16x8_t sum = vdupq_n_s16(0);
            for (size_t i = 0; i < some; i++, pixel += p->stride) sum = vaddw_s8(sum, vld1_s8(pixel));
            low = vaddw_s16(low, vget_low_s16(sum));
            high = vaddw_high_s16(high, sum);
        }
        vst1_s8(out + c, narrow(requantise_any(low, s), requantise_any(high, s), f));
    }
    dn_kernels_scalar.mean(p, a + c, count - c, out + c);
}

static void lut(const uint8_t table[256], const dn_act *a, size_t count, dn_act *out) {
    uint8x16x4_t t[4];
    for (int k = 0; k < 4; k++) t[k] = vld1q_u8_x4(table + 64 * k);
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        uint8x16_t x = vreinterpretq_u8_s8(vld1q_s8(a + i)), step = vdupq_n_u8(64);
        uint8x16_t q = vqtbl4q_u8(t[0], x);
        for (int k = 1; k < 4; k++) {
            x = vsubq_u8(x, step);
            q = vqtbx4q_u8(q, t[k], x);
        }
        vst1q_s8(out + i, vreinterpretq_s8_u8(q));
    }
    dn_kernels_scalar.lut(table, a + i, count - i, out + i);
}

#endif
