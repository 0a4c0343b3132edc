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

enum { LANES = DN_QUICK_LANES, HALF = 8, MAX_STEPS = 256, MAX_RIGHT = 30, HOPELESS = 8 };

/* Up to here a double holds t so well that it tells whole numbers from others, which are at least 2^-31 away. */
#define MAX_EDGE 524288.0
#define ALMOST_HALF (0.5 - 0x1p-32)
#define TO_WHOLE 0x1.8p52 /* adding and subtracting it rounds to the nearest whole number */

#define INLINE static inline __attribute__((always_inline))

typedef struct {
    int from, to; /* steps, of all lanes */
    double unit[LANES], offset[LANES], inverse[LANES]; /* t = (k * unit - offset) * inverse, for k > 0 */
    int32_t first[LANES], last[LANES];                 /* the steps that a lane's sums can reach; last < first: none */
    float scale[LANES];                                /* the candidate */
    float least[LANES], most[LANES];                   /* bounds on its nudge */
    float nudge[LANES];
    unsigned found;                                    /* a bit for every lane that is settled */
    float middle[MAX_STEPS];                           /* of a step: half below its result */
    float reaches[MAX_STEPS];                          /* the smallest number that rounds to its result, ties to even */
    float edge[MAX_STEPS][LANES];                      /* NaN, which no comparison heeds, where a lane has no such step */
} search;

static int32_t clamped(int32_t v, int32_t low, int32_t high) { return v < low ? low : v > high ? high : v; }

/* 2^exponent, for normal numbers */
static double power(int exponent) {
    uint64_t bits = (uint64_t)(1023 + exponent) << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static bool prepare_lane(search *s, int i, const dn_quick_want *want, dn_quick *q) {
    int32_t m = want->multiplier[i], right = -want->shift[i];
    if (m == 0) right = 1;
    if (right < 1 || right > MAX_RIGHT || want->low[i] < -(1LL << 30) || want->high[i] > 1LL << 30) return false;
    int32_t least = clamped(dn_requantise((int32_t)want->low[i], m, -right), want->min, want->max);
    int32_t most = clamped(dn_requantise((int32_t)want->high[i], m, -right), want->min, want->max);
    s->first[i] = least + 1;
    s->last[i] = most;
    s->unit[i] = power(1 + right);
    s->offset[i] = 1 + power(right);
    s->inverse[i] = m == 0 ? 0 : power(30) / m;
    if (most > least && m != 0) {
        double real = m * power(-right - 31);
        s->scale[i] = (float)real;
        q->base[i] = (int32_t)rint(want->centre / real);
        return most / real < MAX_EDGE && least / real > -MAX_EDGE;
    }
    /* one result for all sums */
    int32_t only = most - want->centre;
    s->scale[i] = q->scale[i] = 0;
    q->nudge[i] = (float)(want->rectified ? only : only < 0 ? -only : only);
    q->base[i] = 0;
    s->found |= 1u << i;
    return true;
}

/* The float that is so many steps of its last bit further from zero. */
static float further(float value, int32_t ulps) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits += ulps;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void prepare_steps(search *s, int32_t centre) {
    for (int k = s->from; k <= s->to; k++) {
        int32_t result = k - centre;
        float middle = (float)result - 0.5f;
        s->middle[k - s->from] = middle;
        s->reaches[k - s->from] = result % 2 == 0 ? middle : further(middle, middle > 0 ? 1 : -1);
    }
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

static void drop_edges_out_of_reach(search *s) {
    for (int i = 0; i < LANES; i++)
        for (int k = s->from; k <= s->to; k++) {
            if (k == s->first[i] && s->first[i] <= s->last[i]) k = s->last[i] + 1;
            if (k <= s->to) s->edge[k - s->from][i] = NAN;
        }
}

/* Bounds on the nudges, by the scales. */
static void bound(search *s, const dn_quick_want *want) {
    const __m256 one = _mm256_set1_ps(1);
    __m256 scale[2], least[2], most[2];
    for (int h = 0; h < 2; h++) {
        scale[h] = _mm256_loadu_ps(s->scale + h * HALF);
        least[h] = _mm256_set1_ps(-1);
        most[h] = one;
    }
    for (int k = s->from; k <= s->to; k++) {
        __m256 middle = _mm256_set1_ps(s->middle[k - s->from]);
        bool negative = !want->rectified && k <= 0;
        for (int h = 0; h < 2; h++) {
            __m256 edge = _mm256_loadu_ps(s->edge[k - s->from] + h * HALF);
            __m256 low = negative ? _mm256_fmsub_ps(_mm256_sub_ps(edge, one), scale[h], middle)
                                  : _mm256_fnmadd_ps(edge, scale[h], middle);
            least[h] = _mm256_max_ps(low, least[h]); /* the second, when the first is NaN */
            most[h] = _mm256_min_ps(_mm256_add_ps(low, scale[h]), most[h]);
        }
    }
    for (int h = 0; h < 2; h++) {
        _mm256_storeu_ps(s->least + h * HALF, least[h]);
        _mm256_storeu_ps(s->most + h * HALF, most[h]);
    }
}

/* Which lanes have every edge in its place, with their scales and nudges. */
static unsigned hold(const search *s, const dn_quick_want *want) {
    const __m256 one = _mm256_set1_ps(1), sign = _mm256_set1_ps(want->rectified ? 0.0f : -0.0f);
    __m256 scale[2], nudge[2], wrong[2];
    for (int h = 0; h < 2; h++) {
        scale[h] = _mm256_loadu_ps(s->scale + h * HALF);
        nudge[h] = _mm256_loadu_ps(s->nudge + h * HALF);
        wrong[h] = _mm256_setzero_ps();
    }
    for (int k = s->from; k <= s->to; k++) {
        __m256 reaches = _mm256_set1_ps(s->reaches[k - s->from]);
        for (int h = 0; h < 2; h++) {
            __m256 edge = _mm256_loadu_ps(s->edge[k - s->from] + h * HALF), before = _mm256_sub_ps(edge, one);
            __m256 at = _mm256_fmadd_ps(edge, scale[h], _mm256_or_ps(nudge[h], _mm256_and_ps(edge, sign)));
            __m256 below = _mm256_fmadd_ps(before, scale[h], _mm256_or_ps(nudge[h], _mm256_and_ps(before, sign)));
            wrong[h] = _mm256_or_ps(wrong[h], _mm256_or_ps(_mm256_cmp_ps(at, reaches, _CMP_LT_OQ),
                                                           _mm256_cmp_ps(below, reaches, _CMP_GE_OQ)));
        }
    }
    return (unsigned)~(_mm256_movemask_ps(wrong[0]) | _mm256_movemask_ps(wrong[1]) << HALF);
}

/* Settles the lanes whose staircase is right with the nudge that far between its bounds. */
static void attempt(search *s, const dn_quick_want *want, float between, dn_quick *q) {
    unsigned possible = 0;
    for (int i = 0; i < LANES; i++) {
        s->nudge[i] = s->least[i] + between * (s->most[i] - s->least[i]);
        if (s->least[i] <= s->most[i] && (want->rectified || s->nudge[i] >= 0)) possible |= 1u << i;
    }
    possible &= ~s->found;
    if (possible == 0) return;
    possible &= hold(s, want);
    for (int i = 0; i < LANES; i++) {
        if ((possible >> i & 1) == 0) continue;
        q->scale[i] = s->scale[i];
        q->nudge[i] = s->nudge[i];
    }
    s->found |= possible;
}

void dn_quick_find(dn_quick *q, const dn_quick_want *want) {
    static const float betweens[] = {0.5f, 0.25f, 0.75f};
    static const int32_t ulps[] = {0, 1, -2, 3, -4, 5, -6}; /* to what was last tried: 0, 1, -1, 2, … */
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
    prepare_steps(&s, want->centre);
    for (int i = 0; i < LANES; i += 4) {
        find_edges(&s, i, q, s.from, s.to < 0 ? s.to : 0, true);
        find_edges(&s, i, q, s.from > 1 ? s.from : 1, s.to, false);
    }
    drop_edges_out_of_reach(&s);
    for (size_t i = 0; s.found != all && i < sizeof ulps / sizeof *ulps; i++) {
        for (int lane = 0; lane < LANES; lane++) s.scale[lane] = further(s.scale[lane], ulps[i]);
        bound(&s, want);
        for (size_t b = 0; s.found != all && b < sizeof betweens / sizeof *betweens; b++) attempt(&s, want, betweens[b], q);
        if (i == 1 && __builtin_popcount(s.found) < HOPELESS) return;
    }
    q->usable = s.found == all;
}
