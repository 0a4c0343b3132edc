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

/* dn_requantise for shifts of at most 0. SQRDMULH is SaturatingRoundingDoublingHighMul; the fix-up moves ties of negative
 * values away from zero, as gemmlowp's RoundingDivideByPOT has it. */
INLINE int32x4_t requantise_twice(int32x4_t sum, scale s) {
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

INLINE void store(dn_act *out, int8x8_t q, size_t count) {
    if (count >= 8) {
        vst1_s8(out, q);
        return;
    }
    int8_t bytes[8];
    vst1_s8(bytes, q);
    memcpy(out, bytes, count);
}

/* ---- depthwise: packed [channels / 8][k_h * k_w][8] ---- */

static size_t depthwise_bytes(int32_t channels, int32_t k_h, int32_t k_w) {
    return ((size_t)channels + 7) / 8 * 8 * (size_t)k_h * (size_t)k_w;
}

static void pack_depthwise(const int8_t *w, int32_t channels, int32_t k_h, int32_t k_w, int8_t *packed) {
    size_t taps = (size_t)k_h * (size_t)k_w;
    memset(packed, 0, depthwise_bytes(channels, k_h, k_w));
    for (size_t t = 0; t < taps; t++)
        for (size_t c = 0; c < (size_t)channels; c++) packed[(c / 8 * taps + t) * 8 + c % 8] = w[t * (size_t)channels + c];
}

/* Eight channels of P pixels next to each other. */
INLINE void depthwise_pixels(const int P, const dn_depthwise *d, const dn_act *const *rows, size_t x, size_t c, dn_act *out,
                             finish f) {
    const dn_requant *r = &d->requant;
    size_t channels = (size_t)d->channels, pixel = (size_t)d->stride_w * channels, tap = (size_t)d->dil_w * channels;
    int taps = d->k_h * d->k_w;
    const int8_t *w = d->packed + c * (size_t)taps;
    int32x4_t low[4], high[4];
    UNROLL
    for (int p = 0; p < P; p++) {
        low[p] = vld1q_s32(r->bias + c);
        high[p] = vld1q_s32(r->bias + c + 4);
    }
    size_t at = x * pixel + c;
    for (int ky = 0; ky < d->k_h; ky++) {
        const dn_act *in = rows[ky] + at;
        int kx = 0;
        for (; kx + 2 <= d->k_w; kx += 2, in += 2 * tap, w += 16) {
            int8x8_t w0 = vld1_s8(w), w1 = vld1_s8(w + 8);
            UNROLL
            for (int p = 0; p < P; p++) {
                int16x8_t two = vmull_s8(vld1_s8(in + (size_t)p * pixel), w0);
                two = vmlal_s8(two, vld1_s8(in + (size_t)p * pixel + tap), w1);
                low[p] = vaddw_s16(low[p], vget_low_s16(two));
                high[p] = vaddw_high_s16(high[p], two);
            }
        }
        if (kx < d->k_w) {
            int8x8_t w0 = vld1_s8(w);
            w += 8;
            UNROLL
            for (int p = 0; p < P; p++) {
                int16x8_t one = vmull_s8(vld1_s8(in + (size_t)p * pixel), w0);
                low[p] = vaddw_s16(low[p], vget_low_s16(one));
                high[p] = vaddw_high_s16(high[p], one);
            }
        }
    }
    scale s0 = scale_at(r, c), s1 = scale_at(r, c + 4);
    UNROLL
    for (int p = 0; p < P; p++)
        store(out + (x + (size_t)p) * channels + c,
              narrow(requantise(low[p], s0, r->once), requantise(high[p], s1, r->once), f), channels - c);
}

static void depthwise(const dn_depthwise *d, const dn_act *const *rows, int pixels, dn_act *out) {
    finish f = finish_of(d->requant.zero_point, d->requant.min, d->requant.max);
    for (size_t c = 0; c < (size_t)d->channels; c += 8) {
        size_t x = 0;
        for (; x + 4 <= (size_t)pixels; x += 4) depthwise_pixels(4, d, rows, x, c, out, f);
        for (; x < (size_t)pixels; x++) depthwise_pixels(1, d, rows, x, c, out, f);
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
            u = requantise_twice(u, s_a);
            v = requantise_twice(v, s_b);
            q[half] = requantise_twice(p->sign_b < 0 ? vsubq_s32(u, v) : vaddq_s32(u, v), s_out);
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
        vst1_s8(out + i, narrow(requantise_twice(low, s), requantise_twice(high, s), f));
    }
    dn_kernels_scalar.mul(p, a + i, b + i, count - i, out + i);
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
