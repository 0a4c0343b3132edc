/* Finds a dn_quick (kernels.h), for all vector kernels of x86.
 *
 * The exact result and the quick one are both staircases over the sum. Step k of the exact one begins at the smallest
 * whole number at or above
 *     t = (k * 2^(31 + right) - 2^30 - 2^(30 + right) + (k <= 0 ? 2^31 : 0)) / multiplier.
 * The quick one has it there when edge * scale + nudge rounds to k or more, and (edge - 1) * scale + nudge to less: in real
 * numbers that is two bounds on the nudge for every step. Nudges between all of them are tried, in the arithmetic of the
 * kernels, at both sides of every edge: as neither staircase ever falls, they are then equal. */
#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels.h"

enum { LANES = DN_QUICK_LANES, MAX_STEPS = 256, MAX_RIGHT = 30, HOPELESS = 8 };

/* Up to here a double holds t so well that it tells whole numbers from others, which are at least 2^-31 away. */
#define MAX_EDGE 524288.0
#define ALMOST_HALF (0.5 - 0x1p-32)
#define TO_WHOLE 0x1.8p52 /* adding and subtracting it rounds to the nearest whole number */

#define INLINE static inline __attribute__((always_inline))

typedef struct {
    int from, to; /* steps, of all lanes */
    double unit[LANES], offset[LANES], inverse[LANES]; /* t = (k * unit - offset) * inverse, for k > 0 */
    double first[LANES], last[LANES];                  /* the steps that a lane's sums can reach; last < first: none */
    float scale[LANES];                                /* the candidate */
    double least[LANES], most[LANES];                  /* bounds on its nudge */
    float nudge[LANES];
    float base[LANES];
    unsigned found;                                    /* a bit for every lane that is settled */
    float edge[MAX_STEPS][LANES];
} search;

static int32_t clamped(int32_t v, int32_t low, int32_t high) { return v < low ? low : v > high ? high : v; }

static bool prepare_lane(search *s, int i, const dn_quick_want *want, dn_quick *q) {
    int32_t m = want->multiplier[i], right = -want->shift[i];
    if (m == 0) right = 1;
    if (right < 1 || right > MAX_RIGHT || want->low[i] < -(1LL << 30) || want->high[i] > 1LL << 30) return false;
    int32_t least = clamped(dn_requantise((int32_t)want->low[i], m, -right), want->min, want->max);
    int32_t most = clamped(dn_requantise((int32_t)want->high[i], m, -right), want->min, want->max);
    s->first[i] = least + 1;
    s->last[i] = most;
    s->unit[i] = ldexp(1, 1 + right);
    s->offset[i] = 1 + ldexp(1, right);
    s->inverse[i] = m == 0 ? 0 : ldexp(1, 30) / m;
    if (most > least && m != 0) {
        double real = m * ldexp(1, -right - 31);
        q->base[i] = (int32_t)rint(want->centre / real);
        return most / real < MAX_EDGE && least / real > -MAX_EDGE;
    }
    /* one result for all sums */
    int32_t only = most - want->centre;
    q->scale[i] = 0;
    q->nudge[i] = (float)(want->rectified ? only : only < 0 ? -only : only);
    q->base[i] = 0;
    s->found |= 1u << i;
    return true;
}

/* The edges of four lanes, less their bases; steps <= 0 where `negative`. */
INLINE void find_edges(search *s, int lane, const dn_quick *q, int from, int to, const bool negative) {
    __m256d unit = _mm256_loadu_pd(s->unit + lane), offset = _mm256_loadu_pd(s->offset + lane);
    __m256d inverse = _mm256_loadu_pd(s->inverse + lane), whole = _mm256_set1_pd(TO_WHOLE), half = _mm256_set1_pd(ALMOST_HALF);
    __m256d base = _mm256_cvtepi32_pd(_mm_loadu_si128((const __m128i *)(const void *)(q->base + lane)));
    if (negative) offset = _mm256_sub_pd(offset, _mm256_set1_pd(2));
    for (int k = from; k <= to; k++) {
        __m256d t = _mm256_mul_pd(_mm256_fmsub_pd(_mm256_set1_pd(k), unit, offset), inverse);
        __m256d edge = _mm256_sub_pd(_mm256_add_pd(_mm256_add_pd(t, half), whole), whole);
        if (negative) edge = _mm256_min_pd(edge, _mm256_setzero_pd());
        _mm_storeu_ps(s->edge[k - s->from] + lane, _mm256_cvtpd_ps(_mm256_sub_pd(edge, base)));
    }
}

/* Bounds on the nudge of four lanes, by their scales. */
INLINE void bound(search *s, int lane, const dn_quick_want *want) {
    __m256d scale = _mm256_cvtps_pd(_mm_loadu_ps(s->scale + lane)), first = _mm256_loadu_pd(s->first + lane);
    __m256d last = _mm256_loadu_pd(s->last + lane), least = _mm256_set1_pd(-1), most = _mm256_set1_pd(1);
    for (int k = s->from; k <= s->to; k++) {
        __m256d edge = _mm256_cvtps_pd(_mm_loadu_ps(s->edge[k - s->from] + lane)), step = _mm256_set1_pd(k);
        __m256d middle = _mm256_set1_pd(k - want->centre - 0.5);
        bool negative = !want->rectified && k <= 0;
        __m256d low = negative ? _mm256_fmsub_pd(_mm256_sub_pd(edge, _mm256_set1_pd(1)), scale, middle)
                               : _mm256_fnmadd_pd(edge, scale, middle);
        __m256d reached = _mm256_and_pd(_mm256_cmp_pd(step, first, _CMP_GE_OQ), _mm256_cmp_pd(step, last, _CMP_LE_OQ));
        least = _mm256_blendv_pd(least, _mm256_max_pd(least, low), reached);
        most = _mm256_blendv_pd(most, _mm256_min_pd(most, _mm256_add_pd(low, scale)), reached);
    }
    _mm256_storeu_pd(s->least + lane, least);
    _mm256_storeu_pd(s->most + lane, most);
}

/* Which of eight lanes have every edge in its place, with their scales and nudges. */
INLINE unsigned hold(const search *s, int lane, const dn_quick_want *want) {
    __m256 scale = _mm256_loadu_ps(s->scale + lane), plus = _mm256_loadu_ps(s->nudge + lane);
    __m256 first = _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(s->first + lane + 4)), _mm256_cvtpd_ps(_mm256_loadu_pd(s->first + lane)));
    __m256 last = _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(s->last + lane + 4)), _mm256_cvtpd_ps(_mm256_loadu_pd(s->last + lane)));
    __m256 minus = want->rectified ? plus : _mm256_sub_ps(_mm256_setzero_ps(), plus), wrong = _mm256_setzero_ps();
    for (int k = s->from; k <= s->to; k++) {
        __m256 edge = _mm256_loadu_ps(s->edge[k - s->from] + lane), step = _mm256_set1_ps((float)k);
        __m256 result = _mm256_set1_ps((float)(k - want->centre)), before = _mm256_sub_ps(edge, _mm256_set1_ps(1));
        __m256 nudge = want->rectified ? plus : _mm256_blendv_ps(plus, minus, edge); /* by its sign */
        __m256 nudge_before = want->rectified ? plus : _mm256_blendv_ps(plus, minus, before);
        __m256 at = _mm256_round_ps(_mm256_fmadd_ps(edge, scale, nudge), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        __m256 below = _mm256_round_ps(_mm256_fmadd_ps(before, scale, nudge_before), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        __m256 bad = _mm256_or_ps(_mm256_cmp_ps(at, result, _CMP_LT_OQ), _mm256_cmp_ps(below, result, _CMP_GE_OQ));
        __m256 reached = _mm256_and_ps(_mm256_cmp_ps(step, first, _CMP_GE_OQ), _mm256_cmp_ps(step, last, _CMP_LE_OQ));
        wrong = _mm256_or_ps(wrong, _mm256_and_ps(bad, reached));
    }
    return (unsigned)~_mm256_movemask_ps(wrong) & 0xff;
}

static void choose_scales(search *s, const dn_quick_want *want, int32_t ulps) {
    for (int i = 0; i < LANES; i++) {
        float real = (float)ldexp(want->multiplier[i], want->shift[i] - 31);
        int32_t bits;
        memcpy(&bits, &real, sizeof bits);
        bits += ulps;
        memcpy(&s->scale[i], &bits, sizeof bits);
    }
    for (int i = 0; i < LANES; i += 4) bound(s, i, want);
}

/* Settles the lanes whose staircase is right with the nudge that far between its bounds. */
static void attempt(search *s, const dn_quick_want *want, double between, dn_quick *q) {
    unsigned right = 0;
    for (int i = 0; i < LANES; i++) s->nudge[i] = (float)(s->least[i] + between * (s->most[i] - s->least[i]));
    for (int i = 0; i < LANES; i += 8) right |= hold(s, i, want) << i;
    right &= ~s->found;
    for (int i = 0; i < LANES; i++) {
        if ((right >> i & 1) == 0 || !(want->rectified || s->nudge[i] >= 0)) continue;
        q->scale[i] = s->scale[i];
        q->nudge[i] = s->nudge[i];
        s->found |= 1u << i;
    }
}

void dn_quick_find(dn_quick *q, const dn_quick_want *want) {
    static const double betweens[] = {0.5, 0.25, 0.75};
    const unsigned all = (1u << LANES) - 1;
    search s;
    q->usable = 0;
    s.found = 0;
    s.from = want->min + 1;
    s.to = want->max;
    if (s.to - s.from >= MAX_STEPS || want->min < -MAX_STEPS || want->max > MAX_STEPS) return;
    if (want->rectified && want->min < 0) return;
    for (int i = 0; i < LANES; i++)
        if (!prepare_lane(&s, i, want, q)) return;
    for (int i = 0; i < LANES; i += 4) {
        find_edges(&s, i, q, s.from, s.to < 0 ? s.to : 0, true);
        find_edges(&s, i, q, s.from > 1 ? s.from : 1, s.to, false);
    }
    for (int32_t i = 0; s.found != all && i < 7; i++) {
        choose_scales(&s, want, i % 2 ? (i + 1) / 2 : -i / 2);
        for (size_t b = 0; s.found != all && b < sizeof betweens / sizeof *betweens; b++) attempt(&s, want, betweens[b], q);
        if (i == 1 && __builtin_popcount(s.found) < HOPELESS) return;
    }
    q->usable = s.found == all;
}
