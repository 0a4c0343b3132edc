/* Depthwise convolutions for AVX-512 with VNNI: any window, pixel by pixel; those of 3×3 and 5×5 in strips. */
#include "kernels_avx512.h"

/* Packed: [channels / 16][kx][ceil(k_h / 4)][16 channels][4 rows]: a lane holds one channel of four window rows. */
size_t dn_depthwise_bytes__avx512vnni(int32_t channels, int32_t k_h, int32_t k_w) {
    return ((size_t)channels + LANES - 1) / LANES * (size_t)k_w * (((size_t)k_h + 3) / 4) * LANES * GROUP;
}

void dn_pack_depthwise__avx512vnni(const int8_t *w, int32_t channels, int32_t k_h, int32_t k_w, int8_t *packed) {
    size_t groups = ((size_t)k_h + 3) / 4;
    memset(packed, 0, dn_depthwise_bytes__avx512vnni(channels, k_h, k_w));
    for (size_t c = 0; c < (size_t)channels; c++)
        for (size_t y = 0; y < (size_t)k_h; y++)
            for (size_t x = 0; x < (size_t)k_w; x++)
                packed[(((c / LANES * (size_t)k_w + x) * groups + y / GROUP) * LANES + c % LANES) * GROUP + y % GROUP] =
                    w[(y * (size_t)k_w + x) * (size_t)channels + c];
}

/* 16 channels of up to four rows, interleaved; rows past k_h repeat the first: their weights are zero. */
INLINE __m512i column(const int K_H, const dn_act *const *rows, size_t at, __m512i interleave) {
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)(rows[0] + at)));
    if (K_H > 1) v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(rows[1] + at)), 1);
    if (K_H > 2) v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(rows[2] + at)), 2);
    if (K_H > 3) v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(rows[3] + at)), 3);
    return _mm512_permutexvar_epi8(interleave, v);
}

INLINE __m512i interleave_order(void) {
    uint8_t order[64];
    for (int i = 0; i < 64; i++) order[i] = (uint8_t)(i % GROUP * LANES + i / GROUP);
    return load(order);
}

/* Any window, one pixel at a time. */
void dn_u8_depthwise__avx512vnni(const dn_depthwise *d, const dn_act *const *rows, int pixels, dn_act *out) {
    const dn_requant *r = &d->requant;
    const __m512i interleave = interleave_order(), none = _mm512_setzero_si512(), centre = _mm512_set1_epi32(r->centre);
    finish f = finish_at(r);
    size_t channels = (size_t)d->channels;
    int groups = (d->k_h + 3) / 4;
    for (size_t c = 0; c < channels; c += LANES) {
        const int8_t *w = d->packed + c * (size_t)(d->k_w * groups * GROUP);
        __mmask16 mask = channels - c >= LANES ? 0xffff : (__mmask16)((1u << (channels - c)) - 1);
        scale s = scale_at(r, c);
        mode how = mode_at(r, c);
        quick q = how == EXACT ? (quick){0} : quick_at(&r->quick[c / LANES]);
        for (int x = 0; x < pixels; x++) {
            __m512i sum = load(r->bias + c);
            for (int kx = 0; kx < d->k_w; kx++) {
                size_t at = (size_t)(x * d->stride_w + kx * d->dil_w) * channels + c;
                for (int group = 0; group < groups; group++) {
                    const dn_act *four[GROUP];
                    for (int i = 0; i < GROUP; i++) {
                        int y = group * GROUP + i;
                        four[i] = rows[y < d->k_h ? y : 0];
                    }
                    sum = dot(sum, column(GROUP, four, at, interleave), load(w + (size_t)((kx * groups + group) * 64)));
                }
            }
            sum = how == RECTIFIED ? requantise_rectified(sum, &q)
                  : how == SIGNED  ? requantise_signed(sum, &q)
                                   : _mm512_sub_epi32(requantise(sum, &s), centre);
            _mm_mask_storeu_epi8(out + (size_t)x * channels + c, mask, _mm512_castsi512_si128(narrow(sum, none, none, none, &f)));
        }
    }
}

/* ---- windows of 3×3 and 5×5 ---- */

/* A strip of columns is interleaved once into a scratch tile: 32 bits are one channel of four picture rows, and one vpdpbusd
 * applies a column of a window. With stride 1 a tile serves two output rows: the second has its weights a row lower.
 *
 * Wide blocks are 64 channels in four vectors, dealt out by the unpack instructions as the pack instructions collect them
 * again: vector v holds channels 4 v .. 4 v + 3 of every 16. Paired blocks are the same of 32 channels twice, those of some
 * output rows and of the rows below. Narrow blocks are 16 channels in order. Packed weights:
 * [block][line][kx][row group][vector][16][4]. */
enum { STRIP = 24, MAX_COLUMNS = 2 * STRIP + 3, WIDE = 64, PAIRED = 32, WORTH_PAIRING = 17 };

static int lines_of(const dn_depthwise *d) { return d->stride_w == 1 ? 2 : 1; }

static int groups_of(const dn_depthwise *d) { return (d->k_h + lines_of(d) - 1 + GROUP - 1) / GROUP; }

static int takes_window(const dn_depthwise *d, int32_t stride_h, int32_t dil_h) {
    return d->k_h == d->k_w && (d->k_h == 3 || d->k_h == 5) && d->dil_w == 1 && dil_h == 1 && stride_h == d->stride_w &&
           (stride_h == 1 || stride_h == 2);
}

/* How many channels go together from c on, a multiple of 64. */
static size_t width_at(const dn_depthwise *d, size_t c) {
    size_t left = (size_t)d->channels - c;
    return left > PAIRED ? WIDE : left < WORTH_PAIRING ? LANES : PAIRED;
}

/* Sets of output rows in a block so wide. */
INLINE int sets_of(const int WIDTH) { return WIDTH == PAIRED ? 2 : 1; }

/* Lanes of a block, sets of rows and all. */
INLINE size_t lanes_of(size_t width) { return width == LANES ? LANES : WIDE; }

static size_t window_bytes(const dn_depthwise *d) {
    size_t blocks = ((size_t)d->channels + WIDE - 1) / WIDE;
    return blocks * WIDE * (size_t)(lines_of(d) * d->k_w * groups_of(d) * GROUP);
}

/* `channels` of them, of a block; w: the first one's. */
static void pack_block(const dn_depthwise *d, const int8_t *w, size_t channels, size_t width, int8_t *packed) {
    size_t lines = (size_t)lines_of(d), groups = (size_t)groups_of(d), k = (size_t)d->k_h, lanes = lanes_of(width);
    for (size_t line = 0; line < lines; line++)
        for (size_t ky = 0; ky < k; ky++)
            for (size_t kx = 0; kx < k; kx++) {
                const int8_t *from = w + (ky * k + kx) * (size_t)d->channels;
                size_t row = ky + line;
                int8_t *to = packed + ((line * k + kx) * groups + row / GROUP) * lanes * GROUP + row % GROUP;
                for (size_t i = 0; i < lanes; i++) {
                    size_t at = lanes == WIDE ? i % LANES / 4 * LANES + i / LANES * 4 + i % 4 : i;
                    if (i % width < channels) to[at * GROUP] = from[i % width];
                }
            }
}

static void pack_window(const dn_depthwise *d, const int8_t *w, int8_t *packed) {
    size_t channels = (size_t)d->channels, each = (size_t)(lines_of(d) * d->k_w * groups_of(d) * GROUP);
    memset(packed, 0, window_bytes(d));
    for (size_t c = 0, width; c < channels; c += width) {
        width = width_at(d, c);
        pack_block(d, w + c, channels - c < width ? channels - c : width, width, packed);
        packed += each * lanes_of(width);
    }
}

/* Four picture rows of a strip: where its first column lies, and how far the next; 0 in rows of padding. */
typedef struct {
    const dn_act *at[GROUP];
    size_t step[GROUP];
} four_rows;

/* 64 bytes, or 32 and 32 of the set below. */
INLINE __m512i beside(const int SETS, const dn_act *const *at) {
    if (SETS == 1) return load(at[0]);
    __m256i below = _mm256_loadu_si256((const __m256i *)(const void *)at[GROUP]);
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)at[0])), below, 1);
}

INLINE void interleave_wide(const int SETS, const dn_act *const *at, dn_act *to) {
    __m512i a = beside(SETS, at), b = beside(SETS, at + 1), c = beside(SETS, at + 2), d = beside(SETS, at + 3);
    __m512i ab_low = _mm512_unpacklo_epi8(a, b), ab_high = _mm512_unpackhi_epi8(a, b);
    __m512i cd_low = _mm512_unpacklo_epi8(c, d), cd_high = _mm512_unpackhi_epi8(c, d);
    _mm512_store_si512(to, _mm512_unpacklo_epi16(ab_low, cd_low));
    _mm512_store_si512(to + 64, _mm512_unpackhi_epi16(ab_low, cd_low));
    _mm512_store_si512(to + 128, _mm512_unpacklo_epi16(ab_high, cd_high));
    _mm512_store_si512(to + 192, _mm512_unpackhi_epi16(ab_high, cd_high));
}

/* Columns [first, last) of the tile from the picture, the others of `columns` from padding. rows: of each set. */
INLINE void fill_tile(const int WIDTH, const four_rows *rows, const dn_act *padding, int first, int last, int columns,
                      size_t pitch, __m512i order, dn_act *tile) {
    const int ROWS = sets_of(WIDTH) * GROUP;
    const dn_act *next[2 * GROUP], *at[2 * GROUP];
    for (int k = 0; k < ROWS; k++) next[k] = rows[k / GROUP].at[k % GROUP];
    for (int i = 0; i < columns; i++, tile += pitch) {
        bool inside = i >= first && i < last;
        for (int k = 0; k < ROWS; k++) at[k] = inside ? next[k] : padding;
        if (WIDTH == LANES) _mm512_store_si512(tile, column(GROUP, at, 0, order));
        else interleave_wide(sets_of(WIDTH), at, tile);
        for (int k = 0; k < ROWS && inside; k++) next[k] += rows[k / GROUP].step[k % GROUP];
    }
}

typedef struct {
    const int8_t *w;
    __m512i bias[4];
    quick q[4];
    scale s[4];
    mode how;
    finish f;
    __m512i centre;
    int width; /* channels to store */
} block;

/* a..d become lane i of each: what the pack instructions expect. Its own inverse. */
INLINE void deal(__m512i v[4]) {
    __m512i a = _mm512_shuffle_i32x4(v[0], v[1], 0x44), b = _mm512_shuffle_i32x4(v[0], v[1], 0xee);
    __m512i c = _mm512_shuffle_i32x4(v[2], v[3], 0x44), d = _mm512_shuffle_i32x4(v[2], v[3], 0xee);
    v[0] = _mm512_shuffle_i32x4(a, c, 0x88);
    v[1] = _mm512_shuffle_i32x4(a, c, 0xdd);
    v[2] = _mm512_shuffle_i32x4(b, d, 0x88);
    v[3] = _mm512_shuffle_i32x4(b, d, 0xdd);
}

static block block_at(const dn_depthwise *d, size_t c, size_t width, const int8_t *w) {
    const dn_requant *r = &d->requant;
    size_t left = (size_t)d->channels - c;
    block b;
    b.w = w;
    b.how = mode_at(r, c);
    b.f = finish_at(r);
    b.centre = _mm512_set1_epi32(r->centre);
    b.width = (int)(left < width ? left : width);
    for (size_t i = 0; i < width && i < left; i += LANES)
        if (mode_at(r, c + i) == EXACT) b.how = EXACT;
    __m512i scales[4], nudges[4], multipliers[4], shifts[4]; /* the first two, or else the last two */
    for (size_t v = 0; v < 4; v++) {
        size_t from = c + v * LANES % width;
        bool beyond = r->quick == NULL || from >= (size_t)d->channels;
        b.bias[v] = load(r->bias + from);
        if (b.how == EXACT) {
            multipliers[v] = load(r->multiplier + from);
            shifts[v] = load(r->shift + from);
            if (!beyond && r->quick[from / LANES].usable) b.bias[v] = _mm512_add_epi32(b.bias[v], load(r->quick[from / LANES].base));
        } else {
            scales[v] = beyond ? _mm512_setzero_si512() : load(r->quick[from / LANES].scale);
            nudges[v] = beyond ? _mm512_setzero_si512() : load(r->quick[from / LANES].nudge);
        }
    }
    if (width != LANES) deal(b.bias);
    if (b.how == EXACT) {
        if (width != LANES) {
            deal(multipliers);
            deal(shifts);
        }
        for (int v = 0; v < 4; v++) b.s[v] = scale_of(multipliers[v], shifts[v], r->once);
    } else {
        if (width != LANES) {
            deal(scales);
            deal(nudges);
        }
        for (int v = 0; v < 4; v++) b.q[v] = (quick){_mm512_castsi512_ps(scales[v]), nudges[v]};
    }
    return b;
}

/* Sums of P of the block's vectors; in a narrow block all four are one. */
INLINE void requantise_sums(const block *b, const int P, __m512i *s) {
    if (b->how == RECTIFIED) {
        UNROLL
        for (int v = 0; v < P; v++) s[v] = requantise_rectified(s[v], &b->q[v]);
    } else if (b->how == SIGNED) {
        UNROLL
        for (int v = 0; v < P; v++) s[v] = requantise_signed(s[v], &b->q[v]);
    } else {
        UNROLL
        for (int v = 0; v < P; v++) s[v] = _mm512_sub_epi32(requantise(s[v], &b->s[v]), b->centre);
    }
}

/* Where output goes: how far it is to the next pixel, to the next row, and to the next set of rows. */
typedef struct {
    size_t channels, row, below;
} pitches;

/* P output pixels of a wide or paired block, in LINES rows of each set. */
INLINE void wide_pixels(const int K, const int STRIDE, const int LINES, const int SETS, const int P, const block *b,
                        const dn_act *tile, dn_act *out, const pitches *to) {
    const int GROUPS = (K + (STRIDE == 1) + 3) / 4;
    __m512i sum[2][4][4];
    UNROLL
    for (int l = 0; l < LINES; l++)
        UNROLL
        for (int p = 0; p < P; p++)
            UNROLL
            for (int v = 0; v < 4; v++) sum[l][p][v] = b->bias[v];
    UNROLL
    for (int kx = 0; kx < K; kx++)
        UNROLL
        for (int g = 0; g < GROUPS; g++)
            UNROLL
            for (int v = 0; v < 4; v++) {
                __m512i x[4];
                UNROLL
                for (int p = 0; p < P; p++) x[p] = load(tile + (size_t)(((p * STRIDE + kx) * GROUPS + g) * 4 + v) * 64);
                UNROLL
                for (int l = 0; l < LINES; l++) {
                    __m512i w = load(b->w + (size_t)(((l * K + kx) * GROUPS + g) * 4 + v) * 64);
                    UNROLL
                    for (int p = 0; p < P; p++) sum[l][p][v] = dot(sum[l][p][v], x[p], w);
                }
            }
    UNROLL
    for (int l = 0; l < LINES; l++)
        UNROLL
        for (int p = 0; p < P; p++) {
            __m512i *s = sum[l][p];
            requantise_sums(b, 4, s);
            dn_act *pixel = out + (size_t)l * to->row + (size_t)p * to->channels;
            __m512i bytes = narrow_lanes(s[0], s[1], s[2], s[3], &b->f);
            if (SETS == 1) store_row(pixel, b->width, bytes);
            else store_two(pixel, to->below, b->width, bytes);
        }
}

/* Four output pixels of a narrow block, in LINES rows; or one, and nonsense for the rest, which is not stored. */
INLINE void narrow_pixels(const int K, const int STRIDE, const int LINES, const bool one, const block *b, const dn_act *tile,
                          dn_act *out, const pitches *to) {
    const int GROUPS = (K + (STRIDE == 1) + 3) / 4, P = one ? 1 : 4;
    UNROLL
    for (int l = 0; l < LINES; l++) {
        __m512i s[4] = {b->bias[0], b->bias[0], b->bias[0], b->bias[0]};
        UNROLL
        for (int kx = 0; kx < K; kx++)
            UNROLL
            for (int g = 0; g < GROUPS; g++) {
                __m512i w = load(b->w + (size_t)((l * K + kx) * GROUPS + g) * 64);
                UNROLL
                for (int p = 0; p < P; p++) s[p] = dot(s[p], load(tile + (size_t)((p * STRIDE + kx) * GROUPS + g) * 64), w);
            }
        requantise_sums(b, P, s);
        __m512i four = narrow(s[0], s[1], s[2], s[3], &b->f);
        if (one) store_row(out + (size_t)l * to->row, b->width, four);
        else store_four(out + (size_t)l * to->row, to->channels, b->width, four);
    }
}

/* P pixels, or one. */
INLINE void pixels_at(const int K, const int STRIDE, const int LINES, const int WIDTH, const int P, const block *b,
                      const dn_act *tile, dn_act *out, const pitches *to) {
    if (WIDTH == LANES) narrow_pixels(K, STRIDE, LINES, P == 1, b, tile, out, to);
    else wide_pixels(K, STRIDE, LINES, sets_of(WIDTH), P, b, tile, out, to);
}

/* Up to STRIP pixels of LINES rows of each set. A last group of pixels that is short starts earlier. */
INLINE void strip_pixels(const int K, const int STRIDE, const int LINES, const int WIDTH, const block *b, const dn_act *tile,
                         int pixels, dn_act *out, const pitches *to) {
    const int GROUPS = (K + (STRIDE == 1) + 3) / 4, P = WIDTH == LANES ? 4 : 4 / LINES;
    const size_t pitch = (size_t)(STRIDE * GROUPS * GROUP) * lanes_of(WIDTH);
    if (pixels < P) {
        for (int x = 0; x < pixels; x++)
            pixels_at(K, STRIDE, LINES, WIDTH, 1, b, tile + (size_t)x * pitch, out + (size_t)x * to->channels, to);
        return;
    }
    for (int x = 0; x < pixels; x += P) {
        if (x + P > pixels) x = pixels - P;
        pixels_at(K, STRIDE, LINES, WIDTH, P, b, tile + (size_t)x * pitch, out + (size_t)x * to->channels, to);
    }
}

INLINE four_rows rows_at(const dn_depthwise *d, const dn_picture *p, const dn_act *picture, int y, int x, size_t c,
                         const dn_act *padding) {
    four_rows r;
    for (int i = 0; i < GROUP; i++) {
        bool inside = y + i >= 0 && y + i < p->height;
        r.at[i] = inside ? picture + (size_t)((y + i) * p->width + x) * (size_t)d->channels + c : padding;
        r.step[i] = inside ? (size_t)d->channels : 0;
    }
    return r;
}

/* One block of channels, output rows [from, to). */
INLINE void window_block(const int K, const int STRIDE, const int WIDTH, const dn_depthwise *d, const dn_picture *p,
                         const dn_act *picture, int from, int to, size_t c, const int8_t *w, dn_act *out) {
    const int GROUPS = (K + (STRIDE == 1) + 3) / 4, SETS = sets_of(WIDTH);
    const size_t pitch = GROUP * lanes_of(WIDTH);
    _Alignas(64) dn_act tile[MAX_COLUMNS * 2 * GROUP * (WIDTH == LANES ? LANES : WIDE)];
    _Alignas(64) dn_act padding[64];
    memset(padding, p->zero, sizeof padding);
    const __m512i order = interleave_order();
    block b = block_at(d, c, WIDTH, w);
    size_t channels = (size_t)d->channels, row = (size_t)p->out_width * channels;
    for (int y = from, lines, below; y < to; y += lines + below) {
        lines = STRIDE == 1 && to - y > SETS ? 2 : 1;
        below = SETS == 1 ? 0 : to - y < 2 * lines ? to - y - lines : lines; /* near the end sets overlap */
        pitches next = {channels, row, (size_t)below * row};
        for (int x = 0; x < p->out_width; x += STRIP) {
            int pixels = p->out_width - x < STRIP ? p->out_width - x : STRIP, columns = (pixels - 1) * STRIDE + K;
            int left = x * STRIDE - p->pad_left, first = left < 0 ? -left : 0, top = y * STRIDE - p->pad_top;
            for (int g = 0; g < GROUPS; g++) {
                four_rows r[2];
                for (int set = 0; set < SETS; set++)
                    r[set] = rows_at(d, p, picture, top + set * below * STRIDE + g * GROUP, left + first, c, padding);
                fill_tile(WIDTH, r, padding, first, p->width - left, columns, pitch * (size_t)GROUPS, order,
                          tile + (size_t)g * pitch);
            }
            dn_act *to_x = out + (size_t)(y - from) * row + (size_t)x * channels + c;
            if (lines == 2) strip_pixels(K, STRIDE, 2, WIDTH, &b, tile, pixels, to_x, &next);
            else strip_pixels(K, STRIDE, 1, WIDTH, &b, tile, pixels, to_x, &next);
        }
    }
}

#define WINDOW(K, STRIDE, WIDTH)                                                                                        \
    static void window_##K##x##K##s##STRIDE##_##WIDTH(const dn_depthwise *d, const dn_picture *p, const dn_act *picture, \
                                                      int from, int to, size_t c, const int8_t *w, dn_act *out) {       \
        window_block(K, STRIDE, WIDTH, d, p, picture, from, to, c, w, out);                                             \
    }
#define WINDOWS(K, STRIDE) WINDOW(K, STRIDE, 16) WINDOW(K, STRIDE, 32) WINDOW(K, STRIDE, 64)
WINDOWS(3, 1) WINDOWS(3, 2) WINDOWS(5, 1) WINDOWS(5, 2)
#undef WINDOWS
#undef WINDOW

static void run_window(const dn_depthwise *d, const dn_picture *p, const dn_act *picture, int from, int to,
                                     size_t first, size_t last, dn_act *out) {
    typedef void (*kernel)(const dn_depthwise *d, const dn_picture *p, const dn_act *picture, int from, int to, size_t c,
                           const int8_t *w, dn_act *out);
    static const kernel kernels[2][2][3] = {
        {{window_3x3s1_16, window_3x3s1_32, window_3x3s1_64}, {window_3x3s2_16, window_3x3s2_32, window_3x3s2_64}},
        {{window_5x5s1_16, window_5x5s1_32, window_5x5s1_64}, {window_5x5s2_16, window_5x5s2_32, window_5x5s2_64}}};
    size_t each = (size_t)(lines_of(d) * d->k_w * groups_of(d) * GROUP);
    const int8_t *w = d->packed + first * each;
    for (size_t c = first, width; c < last; c += width) {
        width = width_at(d, c);
        kernels[d->k_h == 5][d->stride_w == 2][width / PAIRED](d, p, picture, from, to, c, w, out);
        w += each * lanes_of(width);
    }
}

const dn_window_kernels dn_u8_window__avx512vnni = {takes_window, window_bytes, pack_window, run_window};
