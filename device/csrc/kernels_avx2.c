/* AVX2: products of 16 bits, pairs of them summed in 32, exactly; weights are packed that wide. Compiled once more for AVX-VNNI, whose instructions sum
 * those products, and four of 8 bits, in one step. */
#include "kernels_avx2.h"

/* ---- matrix product ---- */

enum { TALL = 4, WIDE = 3 }; /* a tile: rows, and vectors of columns */

#ifdef __AVXVNNI__

enum { GROUP = 4, WEIGHT_BYTES = 1, MAX_K = INT32_MAX };

/* In the instruction's own words: GCC 12 moves the sums of its intrinsics about. */
INLINE __m256i add_pairs(__m256i sum, __m256i x, __m256i w) {
    __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(x), "xm"(w));
    return sum;
}

INLINE __m256i dot(__m256i sum, __m256i x, __m256i w) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "xm"(w));
    return sum;
}

typedef struct {
    const dn_act *a;
    size_t lda;
} rows_of_tile;

INLINE void take_rows(const int M, const dn_gemm *g, const dn_act *a, size_t lda, rows_of_tile *rows) {
    (void)M;
    (void)g;
    *rows = (rows_of_tile){a, lda};
}

/* sum += the products of M rows and V vectors of columns, whose weights begin at w, `block` bytes apart. */
INLINE void multiply(const int M, const int V, const dn_gemm *g, const rows_of_tile *rows, const int8_t *w, size_t block,
                     __m256i sum[TALL][WIDE]) {
    size_t groups = ((size_t)g->k + GROUP - 1) / GROUP, segments = block / (groups * GROUP * LANES * WEIGHT_BYTES);
    const dn_act *a = rows->a;
    for (; segments > 0; segments--, a += g->next_segment)
        for (size_t k = 0; k < groups; k++, w += LANES * GROUP) {
            __m256i weights[WIDE];
            UNROLL
            for (int v = 0; v < V; v++) weights[v] = load(w + (size_t)v * block);
            UNROLL
            for (int m = 0; m < M; m++) {
                int32_t four;
                memcpy(&four, a + (size_t)m * rows->lda + k * GROUP, sizeof four);
                __m256i x = _mm256_set1_epi32(four);
                UNROLL
                for (int v = 0; v < V; v++) sum[m][v] = dot(sum[m][v], x, weights[v]);
            }
        }
}

#else

enum { GROUP = 2, WEIGHT_BYTES = 2, MAX_K = 4096, CHUNK = 16 };

INLINE __m256i add_pairs(__m256i sum, __m256i x, __m256i w) { return _mm256_add_epi32(sum, _mm256_madd_epi16(x, w)); }

/* The rows in 16 bits, when they are of MAX_K values or fewer. */
typedef struct {
    const dn_act *a;
    size_t lda;
    uint16_t wide[TALL][MAX_K + CHUNK];
} rows_of_tile;

/* k bytes → uint16, an odd k rounded up with zero; what is written behind, up to a chunk, counts for nothing. */
INLINE void widen(const dn_act *a, size_t k, uint16_t *to) {
    for (size_t i = 0; i < k; i += CHUNK) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(a + i));
        _mm256_storeu_si256((__m256i *)(void *)(to + i), _mm256_cvtepu8_epi16(bytes));
    }
    to[k] = 0;
}

INLINE void take_rows(const int M, const dn_gemm *g, const dn_act *a, size_t lda, rows_of_tile *rows) {
    size_t k = (size_t)g->k, each = (k + GROUP - 1) / GROUP * GROUP, segments = g->segments > 1 ? (size_t)g->segments : 1;
    rows->a = a;
    rows->lda = lda;
    if (segments * each > MAX_K) return;
    for (int m = 0; m < M; m++)
        for (size_t s = 0; s < segments; s++) widen(a + (size_t)m * lda + s * g->next_segment, k, rows->wide[m] + s * each);
}

INLINE __m256i two_values(const uint16_t *a) {
    int32_t two;
    memcpy(&two, a, sizeof two);
    return _mm256_set1_epi32(two);
}

/* Of `pairs` pairs that are wide already. */
INLINE void multiply_pairs(const int M, const int V, const rows_of_tile *rows, const int8_t *w, size_t block, size_t pairs,
                           __m256i sum[TALL][WIDE]) {
    __m256i s[TALL][WIDE];
    UNROLL
    for (int m = 0; m < M; m++)
        UNROLL
        for (int v = 0; v < V; v++) s[m][v] = sum[m][v];
    for (size_t k = 0; k < pairs; k++, w += LANES * GROUP * WEIGHT_BYTES) {
        __m256i weights[WIDE];
        UNROLL
        for (int v = 0; v < V; v++) weights[v] = load(w + (size_t)v * block);
        UNROLL
        for (int m = 0; m < M; m++) {
            __m256i x = two_values(&rows->wide[m][GROUP * k]);
            UNROLL
            for (int v = 0; v < V; v++) s[m][v] = add_pairs(s[m][v], x, weights[v]);
        }
    }
    UNROLL
    for (int m = 0; m < M; m++)
        UNROLL
        for (int v = 0; v < V; v++) sum[m][v] = s[m][v];
}

/* sum += the products of M rows and V vectors of columns, whose weights begin at w, `block` bytes apart. */
INLINE void multiply(const int M, const int V, const dn_gemm *g, rows_of_tile *rows, const int8_t *w, size_t block,
                     __m256i sum[TALL][WIDE]) {
    size_t all = block / (LANES * WEIGHT_BYTES);
    for (size_t from = 0; from < all; from += MAX_K) {
        size_t part = all - from < MAX_K ? all - from : MAX_K;
        if (all > MAX_K) /* one segment, see dn_kernels.windows */
            for (int m = 0; m < M; m++) {
                size_t k = (size_t)g->k - from < MAX_K ? (size_t)g->k - from : MAX_K;
                widen(rows->a + (size_t)m * rows->lda + from, k, rows->wide[m]);
            }
        multiply_pairs(M, V, rows, w + from * LANES * WEIGHT_BYTES, block, part / GROUP, sum);
    }
}

#endif

INLINE void tile(const int M, const int V, const dn_gemm *g, size_t column, rows_of_tile *rows, size_t block, dn_act *out,
                 size_t ldo, const finish *f) {
    const dn_requant *r = &g->requant;
    __m256i sum[TALL][WIDE];
    UNROLL
    for (int m = 0; m < M; m++)
        UNROLL
        for (int v = 0; v < V; v++) sum[m][v] = load(r->bias + column + (size_t)v * LANES);
    multiply(M, V, g, rows, g->packed + column / LANES * block, block, sum);
    UNROLL
    for (int v = 0; v < V; v++) {
        way how = way_at(r, column + (size_t)v * LANES);
        requantise_all(&sum[0][v], M, WIDE, &how);
    }
    const __m256i none = _mm256_setzero_si256();
    size_t left = (size_t)g->n - column, width = left < (size_t)(V * LANES) ? left : (size_t)(V * LANES);
    UNROLL
    for (int m = 0; m < M; m++)
        store(out + (size_t)m * ldo + column,
              narrow(sum[m][0], V > 1 ? sum[m][1] : none, V > 2 ? sum[m][2] : none, none, f), width);
}

INLINE void row_tile(const int M, const dn_gemm *g, const dn_act *a, size_t lda, rows_of_tile *rows, dn_act *out, size_t ldo,
                     const finish *f) {
    size_t segments = g->segments > 1 ? (size_t)g->segments : 1;
    size_t block = segments * (((size_t)g->k + GROUP - 1) / GROUP) * GROUP * LANES * WEIGHT_BYTES;
    int vectors = (g->n + LANES - 1) / LANES, at = 0;
    take_rows(M, g, a, lda, rows);
    for (; at + WIDE <= vectors; at += WIDE) tile(M, 3, g, (size_t)at * LANES, rows, block, out, ldo, f);
    if (vectors - at == 2) tile(M, 2, g, (size_t)at * LANES, rows, block, out, ldo, f);
    if (vectors - at == 1) tile(M, 1, g, (size_t)at * LANES, rows, block, out, ldo, f);
}

static void dn_u8_gemm(const dn_gemm *g, const dn_act *a, size_t lda, int rows, dn_act *out, size_t ldo) {
    rows_of_tile these;
    finish f = finish_at(&g->requant);
    int row = 0;
    for (; row + TALL <= rows; row += TALL)
        row_tile(TALL, g, a + (size_t)row * lda, lda, &these, out + (size_t)row * ldo, ldo, &f);
    if (row < rows && rows >= TALL) /* the last rows, some of them twice */
        row_tile(TALL, g, a + (size_t)(rows - TALL) * lda, lda, &these, out + (size_t)(rows - TALL) * ldo, ldo, &f);
    else
        for (; row < rows; row++) row_tile(1, g, a + (size_t)row * lda, lda, &these, out + (size_t)row * ldo, ldo, &f);
}

/* ---- depthwise: packed int16 [channels / 16][ceil(taps / 2)][16][2] ---- */

enum { BLOCK = 16 };

static size_t depthwise_bytes(int32_t channels, int32_t k_h, int32_t k_w) {
    return ((size_t)channels + BLOCK - 1) / BLOCK * (((size_t)k_h * (size_t)k_w + 1) / 2) * BLOCK * 2 * sizeof(int16_t);
}

static void pack_depthwise(const int8_t *w, int32_t channels, int32_t k_h, int32_t k_w, int8_t *packed) {
    size_t taps = (size_t)k_h * (size_t)k_w, pairs = (taps + 1) / 2;
    memset(packed, 0, depthwise_bytes(channels, k_h, k_w));
    for (size_t t = 0; t < taps; t++) {
        for (size_t c = 0; c < (size_t)channels; c++) {
            int16_t wide = w[t * (size_t)channels + c];
            memcpy(packed + sizeof wide * (((c / BLOCK * pairs + t / 2) * BLOCK + c % BLOCK) * 2 + t % 2), &wide, sizeof wide);
        }
    }
}

INLINE __m128i bytes16(const dn_act *a) { return _mm_loadu_si128((const __m128i *)(const void *)a); }

/* 16 channels of P pixels. taps: where each tap of pixel 0 lies; a last odd tap is there twice. */
INLINE void depthwise_pixels(const int P, const dn_depthwise *d, const dn_act *const *taps, size_t at, size_t c, dn_act *out,
                             const way *low_way, const way *high_way, const finish *f) {
    size_t channels = (size_t)d->channels, pixel = (size_t)d->stride_w * channels;
    int pairs = (d->k_h * d->k_w + 1) / 2;
    const int8_t *w = d->packed + c / BLOCK * (size_t)pairs * BLOCK * 4;
    __m256i low[2], high[2];
    UNROLL
    for (int p = 0; p < P; p++) {
        low[p] = load(d->requant.bias + c);
        high[p] = load(d->requant.bias + c + LANES);
    }
    for (int t = 0; t < pairs; t++, w += BLOCK * 4) {
        __m256i w_low = load(w), w_high = load(w + 32);
        UNROLL
        for (int p = 0; p < P; p++) {
            __m128i x = bytes16(taps[2 * t] + at + (size_t)p * pixel), y = bytes16(taps[2 * t + 1] + at + (size_t)p * pixel);
            __m256i first = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(x, y)), second = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(x, y));
            low[p] = add_pairs(low[p], first, w_low);
            high[p] = add_pairs(high[p], second, w_high);
        }
    }
    const __m256i none = _mm256_setzero_si256();
    requantise_all(low, P, 1, low_way);
    requantise_all(high, P, 1, high_way);
    UNROLL
    for (int p = 0; p < P; p++) {
        __m256i row = narrow(low[p], high[p], none, none, f);
        store(out + (size_t)p * channels, row, channels - c < BLOCK ? channels - c : BLOCK);
    }
}

static void dn_u8_depthwise(const dn_depthwise *d, const dn_act *const *rows, int pixels, dn_act *out) {
    const dn_act *taps[DN_MAX_TAPS + 1];
    int count = d->k_h * d->k_w;
    size_t channels = (size_t)d->channels, tap = (size_t)d->dil_w * channels;
    for (int t = 0; t < count; t++) taps[t] = rows[t / d->k_w] + (size_t)(t % d->k_w) * tap;
    taps[count] = taps[count - 1];
    finish f = finish_at(&d->requant);
    for (size_t c = 0; c < channels; c += BLOCK) {
        way low = way_at(&d->requant, c), high = way_at(&d->requant, c + LANES);
        int x = 0;
        for (; x + 2 <= pixels; x += 2)
            depthwise_pixels(2, d, taps, (size_t)(x * d->stride_w) * channels + c, c, out + (size_t)x * channels + c, &low,
                             &high, &f);
        if (x < pixels)
            depthwise_pixels(1, d, taps, (size_t)(x * d->stride_w) * channels + c, c, out + (size_t)x * channels + c, &low,
                             &high, &f);
    }
}

/* ---- depthwise, windows of 3×3 and 5×5 ---- */

/* Sixteen channels of a strip of columns are interleaved once into a scratch tile, as 16 bits: 32 of them are one channel of
 * two picture rows, which vpmaddwd applies two taps to. With stride 1 a tile serves two output rows: the second has its
 * weights a row lower. Tile: [column][row pair][half][8 channels][2]; packed weights, int16: [block][line][kx] and the same. */
enum { STRIP = 24, MAX_COLUMNS = 2 * STRIP + 3, MAX_PAIRS = 3, PAIR_OF_ROWS = 2 * BLOCK };

static int lines_of(const dn_depthwise *d) { return d->stride_w == 1 ? 2 : 1; }

static int pairs_of(const dn_depthwise *d) { return (d->k_h + lines_of(d)) / 2; }

static int takes_window(const dn_depthwise *d, int32_t stride_h, int32_t dil_h) {
    return d->k_h == d->k_w && (d->k_h == 3 || d->k_h == 5) && d->dil_w == 1 && dil_h == 1 && stride_h == d->stride_w &&
           (stride_h == 1 || stride_h == 2);
}

static size_t window_bytes(const dn_depthwise *d) {
    size_t blocks = ((size_t)d->channels + BLOCK - 1) / BLOCK;
    return blocks * (size_t)(lines_of(d) * d->k_w * pairs_of(d)) * PAIR_OF_ROWS * sizeof(int16_t);
}

static void pack_window(const dn_depthwise *d, const int8_t *w, int8_t *packed) {
    size_t lines = (size_t)lines_of(d), pairs = (size_t)pairs_of(d), k = (size_t)d->k_h, channels = (size_t)d->channels;
    memset(packed, 0, window_bytes(d));
    for (size_t line = 0; line < lines; line++)
        for (size_t ky = 0; ky < k; ky++)
            for (size_t kx = 0; kx < k; kx++)
                for (size_t c = 0; c < channels; c++) {
                    size_t row = ky + line, block = ((c / BLOCK * lines + line) * k + kx) * pairs + row / 2;
                    int16_t wide = w[(ky * k + kx) * channels + c];
                    memcpy(packed + sizeof wide * (block * PAIR_OF_ROWS + c % BLOCK * 2 + row % 2), &wide, sizeof wide);
                }
}

/* P output pixels, 16 channels, one row. */
INLINE void window_pixels(const int K, const int STRIDE, const int P, const int8_t *w, const __m256i bias[2], const way how[2],
                          const finish *f, const uint16_t *tile, dn_act *out, size_t channels, size_t width) {
    const int PAIRS = (K + (STRIDE == 1) + 1) / 2;
    __m256i sum[4][2];
    UNROLL
    for (int p = 0; p < P; p++) {
        sum[p][0] = bias[0];
        sum[p][1] = bias[1];
    }
    UNROLL
    for (int kx = 0; kx < K; kx++)
        UNROLL
        for (int pair = 0; pair < PAIRS; pair++) {
            const int8_t *four = w + (size_t)(kx * PAIRS + pair) * PAIR_OF_ROWS * sizeof(int16_t);
            __m256i low = load(four), high = load(four + 32);
            UNROLL
            for (int p = 0; p < P; p++) {
                const uint16_t *x = tile + (size_t)((p * STRIDE + kx) * PAIRS + pair) * PAIR_OF_ROWS;
                sum[p][0] = add_pairs(sum[p][0], load(x), low);
                sum[p][1] = add_pairs(sum[p][1], load(x + BLOCK), high);
            }
        }
    requantise_all(&sum[0][0], P, 2, &how[0]);
    requantise_all(&sum[0][1], P, 2, &how[1]);
    UNROLL
    for (int p = 0; p < P; p += 2) {
        const int q = p + 1 < P ? p + 1 : p;
        __m256i two = narrow(sum[p][0], sum[p][1], sum[q][0], sum[q][1], f);
        store(out + (size_t)p * channels, two, width);
        if (q != p) store(out + (size_t)q * channels, _mm256_permute4x64_epi64(two, 0x0e), width);
    }
}

/* Two picture rows, from column `left` of the picture, `columns` of them; what lies outside is `padding`. */
INLINE void fill_pair(const dn_depthwise *d, const dn_picture *p, const dn_act *picture, const dn_act *padding, int y, int left,
                      int columns, size_t c, size_t pitch, uint16_t *to) {
    const dn_act *row[2];
    for (int i = 0; i < 2; i++) {
        bool inside = y + i >= 0 && y + i < p->height;
        row[i] = inside ? picture + (size_t)(y + i) * (size_t)p->width * (size_t)d->channels + c : NULL;
    }
    for (int i = 0; i < columns; i++, to += pitch) {
        bool inside = left + i >= 0 && left + i < p->width;
        size_t at = inside ? (size_t)(left + i) * (size_t)d->channels : 0;
        __m128i a = bytes16(inside && row[0] != NULL ? row[0] + at : padding);
        __m128i b = bytes16(inside && row[1] != NULL ? row[1] + at : padding);
        _mm256_storeu_si256((__m256i *)(void *)to, _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b)));
        _mm256_storeu_si256((__m256i *)(void *)(to + BLOCK), _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b)));
    }
}

/* 16 channels, output rows [from, to). */
INLINE void window_block(const int K, const int STRIDE, const dn_depthwise *d, const dn_picture *p, const dn_act *picture,
                         int from, int to, size_t c, const int8_t *w, dn_act *out) {
    const int PAIRS = (K + (STRIDE == 1) + 1) / 2, LINES = STRIDE == 1 ? 2 : 1;
    const size_t line_bytes = (size_t)(K * PAIRS) * PAIR_OF_ROWS * sizeof(int16_t);
    uint16_t tile[MAX_COLUMNS * MAX_PAIRS * PAIR_OF_ROWS];
    dn_act padding[BLOCK];
    memset(padding, p->zero, sizeof padding);
    const dn_requant *r = &d->requant;
    size_t channels = (size_t)d->channels, row = (size_t)p->out_width * channels;
    size_t width = channels - c < BLOCK ? channels - c : BLOCK, pitch = (size_t)PAIRS * PAIR_OF_ROWS;
    const __m256i bias[2] = {load(r->bias + c), load(r->bias + c + LANES)};
    const way how[2] = {way_at(r, c), way_at(r, c + LANES)};
    finish f = finish_at(r);
    for (int y = from; y < to; y += LINES)
        for (int x0 = 0; x0 < p->out_width; x0 += STRIP) {
            int pixels = p->out_width - x0 < STRIP ? p->out_width - x0 : STRIP;
            for (int pair = 0; pair < PAIRS; pair++)
                fill_pair(d, p, picture, padding, y * STRIDE - p->pad_top + 2 * pair, x0 * STRIDE - p->pad_left,
                          (pixels - 1) * STRIDE + K, c, pitch, tile + pair * PAIR_OF_ROWS);
            for (int line = 0; line < LINES && y + line < to; line++) {
                dn_act *to_x = out + (size_t)(y + line - from) * row + (size_t)x0 * channels + c;
                const int8_t *weights = w + (size_t)line * line_bytes;
                int x = 0;
                for (; x + 4 <= pixels; x += 4)
                    window_pixels(K, STRIDE, 4, weights, bias, how, &f, tile + (size_t)(x * STRIDE) * pitch,
                                  to_x + (size_t)x * channels, channels, width);
                for (; x < pixels; x++)
                    window_pixels(K, STRIDE, 1, weights, bias, how, &f, tile + (size_t)(x * STRIDE) * pitch,
                                  to_x + (size_t)x * channels, channels, width);
            }
        }
}

#define WINDOW(K, STRIDE)                                                                                                     \
    static void window_##K##x##K##s##STRIDE(const dn_depthwise *d, const dn_picture *p, const dn_act *picture, int from, int to, \
                                            size_t c, const int8_t *w, dn_act *out) {                                         \
        window_block(K, STRIDE, d, p, picture, from, to, c, w, out);                                                          \
    }
WINDOW(3, 1) WINDOW(3, 2) WINDOW(5, 1) WINDOW(5, 2)
#undef WINDOW

static void dn_u8_window(const dn_depthwise *d, const dn_picture *p, const dn_act *picture, int from, int to,
                               size_t first, size_t last, dn_act *out) {
    size_t bytes = window_bytes(d) / (((size_t)d->channels + BLOCK - 1) / BLOCK);
    for (size_t c = first; c < last; c += BLOCK) {
        const int8_t *w = d->packed + c / BLOCK * bytes;
        if (d->k_h == 3 && d->stride_w == 1) window_3x3s1(d, p, picture, from, to, c, w, out);
        else if (d->k_h == 3) window_3x3s2(d, p, picture, from, to, c, w, out);
        else if (d->stride_w == 1) window_5x5s1(d, p, picture, from, to, c, w, out);
        else window_5x5s2(d, p, picture, from, to, c, w, out);
    }
}

static const dn_window_kernels window = {takes_window, window_bytes, pack_window, dn_u8_window};

/* ---- element by element; whole vectors, then the rest through the scalar twin ---- */

/* dn_requantise by one multiplier and a shift of at most 0, for sums of less than 30 bits. */
typedef struct {
    __m256i multiplier, half, away;
    __m128i right;
} uniform;

INLINE uniform uniform_of(int32_t multiplier, int32_t shift) {
    return (uniform){_mm256_set1_epi32(multiplier), _mm256_set1_epi32(shift < 0 ? (int32_t)(1u << (-shift - 1)) : 0),
                     _mm256_set1_epi32(shift < 0 ? -1 : 0), _mm_cvtsi32_si128(-shift)};
}

INLINE __m256i requantise_uniform(__m256i sum, const uniform *u) {
    const __m256i half = _mm256_set1_epi64x(1LL << 31);
    __m256i twice = _mm256_slli_epi32(sum, 1);
    __m256i even = _mm256_add_epi64(_mm256_mul_epi32(twice, u->multiplier), half);
    __m256i odd = _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(twice, 32), u->multiplier), half);
    __m256i high = high_halves(even, odd), sign = _mm256_and_si256(_mm256_srai_epi32(high, 31), u->away);
    return _mm256_sra_epi32(_mm256_add_epi32(_mm256_add_epi32(high, u->half), sign), u->right);
}

INLINE __m256i centred(const dn_act *a, __m256i zero) {
    return _mm256_sub_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)a)), zero);
}

/* See dn_sketch. */
INLINE __m256i sketched(const dn_act *a, const dn_act *b, const dn_sketch *s) {
    __m256 x = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)a)));
    __m256 y = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)b)));
    __m256 part = _mm256_fmadd_ps(y, _mm256_set1_ps(s->by_b), _mm256_set1_ps(s->constant));
    return _mm256_cvtps_epi32(_mm256_fmadd_ps(x, _mm256_set1_ps(s->by_a), part));
}

/* 32 sums, or false where one is too near. */
INLINE bool add_quickly(const dn_act *a, const dn_act *b, const dn_sketch *s, const finish *f, dn_act *out) {
    const __m256i near = _mm256_set1_epi32(s->near), none = _mm256_setzero_si256();
    __m256i q[4], doubt = none;
    UNROLL
    for (int i = 0; i < 4; i++) {
        q[i] = sketched(a + i * LANES, b + i * LANES, s);
        doubt = _mm256_or_si256(doubt, _mm256_cmpeq_epi32(_mm256_and_si256(q[i], near), none));
        q[i] = _mm256_srai_epi32(q[i], DN_SKETCH_BITS);
    }
    if (!_mm256_testz_si256(doubt, doubt)) return false;
    _mm256_storeu_si256((__m256i *)(void *)out, narrow(q[0], q[1], q[2], q[3], f));
    return true;
}

static void dn_u8_add(const dn_add *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out) {
    uniform u_a = uniform_of(p->multiplier_a, p->shift_a), u_b = uniform_of(p->multiplier_b, p->shift_b);
    uniform u_out = uniform_of(p->multiplier_out, p->shift_out);
    __m256i zero_a = _mm256_set1_epi32(p->zero_a), zero_b = _mm256_set1_epi32(p->zero_b), none = _mm256_setzero_si256();
    finish f = finish_of(p->zero_out, p->min, p->max);
    dn_sketch sketch = dn_sketch_add(p);
    size_t i = 0;
    while (i + LANES <= count) {
        if (sketch.near != 0 && count - i >= 32 && add_quickly(a + i, b + i, &sketch, &f, out + i)) {
            i += 32;
            continue;
        }
        for (size_t end = count - i >= 32 ? i + 32 : count; i + LANES <= end; i += LANES) {
            __m256i x = requantise_uniform(_mm256_slli_epi32(centred(a + i, zero_a), 20), &u_a);
            __m256i y = requantise_uniform(_mm256_slli_epi32(centred(b + i, zero_b), 20), &u_b);
            __m256i sum = p->sign_b < 0 ? _mm256_sub_epi32(x, y) : _mm256_add_epi32(x, y);
            store(out + i, narrow(requantise_uniform(sum, &u_out), none, none, none, &f), LANES);
        }
    }
    dn_kernels_scalar.add(p, a + i, b + i, count - i, out + i);
}

static void dn_u8_mul(const dn_mul *p, const dn_act *a, const dn_act *b, size_t count, dn_act *out) {
    size_t i = 0;
    if (p->shift <= 0) {
        uniform u = uniform_of(p->multiplier, p->shift);
        __m256i zero_a = _mm256_set1_epi32(p->zero_a), zero_b = _mm256_set1_epi32(p->zero_b), none = _mm256_setzero_si256();
        finish f = finish_of(p->zero_out, p->min, p->max);
        for (; i + LANES <= count; i += LANES) {
            __m256i product = _mm256_mullo_epi32(centred(a + i, zero_a), centred(b + i, zero_b));
            store(out + i, narrow(requantise_uniform(product, &u), none, none, none, &f), LANES);
        }
    }
    dn_kernels_scalar.mul(p, a + i, b + i, count - i, out + i);
}

/* Sums of 32 channels, four of every 16 to a vector: vector v holds channels 4 v .. 4 v + 3 of each. */
INLINE void sum_channels(const dn_mean *p, const dn_act *a, __m256i sum[4]) {
    const __m256i none = _mm256_setzero_si256();
    for (size_t left = p->pixels; left > 0;) {
        size_t pixels = left < DN_PIXELS_IN_16_BITS ? left : DN_PIXELS_IN_16_BITS;
        __m256i low = none, high = none;
        for (size_t i = 0; i < pixels; i++, a += p->stride) {
            low = _mm256_add_epi16(low, _mm256_unpacklo_epi8(load(a), none));
            high = _mm256_add_epi16(high, _mm256_unpackhi_epi8(load(a), none));
        }
        sum[0] = _mm256_add_epi32(sum[0], _mm256_unpacklo_epi16(low, none));
        sum[1] = _mm256_add_epi32(sum[1], _mm256_unpackhi_epi16(low, none));
        sum[2] = _mm256_add_epi32(sum[2], _mm256_unpacklo_epi16(high, none));
        sum[3] = _mm256_add_epi32(sum[3], _mm256_unpackhi_epi16(high, none));
        left -= pixels;
    }
}

static void dn_u8_mean(const dn_mean *p, const dn_act *a, size_t count, dn_act *out) {
    uniform u = uniform_of(p->multiplier, p->shift);
    finish f = finish_of(p->zero_out, DN_ACT_MIN, DN_ACT_MAX);
    size_t c = 0;
    for (; c + 32 <= count; c += 32) {
        __m256i base = _mm256_set1_epi32(p->base), sum[4] = {base, base, base, base};
        sum_channels(p, a + c, sum);
        for (int v = 0; v < 4; v++) sum[v] = requantise_uniform(sum[v], &u);
        _mm256_storeu_si256((__m256i *)(void *)(out + c), narrow_lanes(sum[0], sum[1], sum[2], sum[3], &f));
    }
    dn_kernels_scalar.mean(p, a + c, count - c, out + c);
}

/* Sixteen tables of sixteen: each looks up what lies in its range, and zeros the rest. */
static void dn_u8_lut(const uint8_t table[256], const dn_act *a, size_t count, dn_act *out) {
    size_t i = 0;
    for (; i + 32 <= count; i += 32) {
        __m256i x = load(a + i), q = _mm256_setzero_si256();
        for (int k = 0; k < 16; k++) {
            __m256i t = _mm256_broadcastsi128_si256(bytes16(table + 16 * k));
            __m256i inside = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(15)),
                                               _mm256_set1_epi8((char)k));
            __m256i found = _mm256_shuffle_epi8(t, _mm256_and_si256(x, _mm256_set1_epi8(15)));
            q = _mm256_or_si256(q, _mm256_and_si256(found, inside));
        }
        _mm256_storeu_si256((__m256i *)(void *)(out + i), q);
    }
    dn_kernels_scalar.lut(table, a + i, count - i, out + i);
}

#ifdef __AVXVNNI__
const dn_kernels dn_kernels_avxvnni = {
    .name = "avxvnni",
#else
const dn_kernels dn_kernels_avx2 = {
    .name = "avx2",
#endif
    .nr = LANES,
    .kr = GROUP,
    .weight_bytes = WEIGHT_BYTES,
    .windows = MAX_K,
    .lowest_weight = -128,
    .find_quick = dn_quick_find,
    .gemm = dn_u8_gemm,
    .depthwise_bytes = depthwise_bytes,
    .pack_depthwise = pack_depthwise,
    .depthwise = dn_u8_depthwise,
    .window = &window,
    .add = dn_u8_add,
    .mul = dn_u8_mul,
    .mean = dn_u8_mean,
    .lut = dn_u8_lut,
};
