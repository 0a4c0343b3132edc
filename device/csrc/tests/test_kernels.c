/* Every vector kernel against its scalar twin, bit for bit: tiles, remainders, strides, extremes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels.h"
#include "check.h"
#include "distillnet.h"

enum { MAX_CHANNELS = 200, MAX_K = 300, MAX_ROWS = 40, SLACK = 128 };

static int32_t bias[256], multiplier[256], shift[256];

/* Scales from absurdly small to one half; biases up to the ends of int32. */
static dn_requant random_requant(noise *n, int once) {
    for (int c = 0; c < 256; c++) {
        multiplier[c] = noise_between(n, 0, 15) == 0 ? 0 : (1 << 30) + noise_between(n, 0, (1 << 30) - 1);
        if (noise_between(n, 0, 20) == 0) multiplier[c] = 1 << 30;
        shift[c] = noise_between(n, 0, 3) == 0 ? -noise_between(n, 1, 31) : -noise_between(n, 3, 10);
        bias[c] = noise_between(n, -20000, 20000);
        if (noise_between(n, 0, 9) == 0) bias[c] = noise_between(n, 0, 1) ? INT32_MAX : INT32_MIN;
    }
    int32_t low = noise_between(n, DN_ACT_MIN, DN_ACT_MAX), high = noise_between(n, low, DN_ACT_MAX);
    if (noise_between(n, 0, 1)) {
        low = DN_ACT_MIN;
        high = DN_ACT_MAX;
    }
    return (dn_requant){.bias = bias, .multiplier = multiplier, .shift = shift, .zero_point = noise_between(n, DN_ACT_MIN, DN_ACT_MAX),
                        .min = low, .max = high, .once = once};
}

static void fill_weights(noise *n, const dn_kernels *kernels, int8_t *w, size_t count) {
    int extremes = noise_between(n, 0, 3) == 0;
    for (size_t i = 0; i < count; i++) {
        w[i] = (int8_t)noise_byte(n);
        if (extremes) w[i] = w[i] < 0 ? INT8_MIN : INT8_MAX;
        if (w[i] < kernels->lowest_weight) w[i] = (int8_t)kernels->lowest_weight;
    }
}

static void fill(noise *n, void *to, size_t bytes, int extremes) {
    uint8_t *b = to;
    for (size_t i = 0; i < bytes; i++) b[i] = extremes ? (noise_byte(n) & 1 ? 0x7f : 0x80) : noise_byte(n);
}

static void pack(const dn_kernels *kernels, const int8_t *w, int n, int k, int8_t *packed) {
    size_t nr = (size_t)kernels->nr, kr = (size_t)kernels->kr, groups = ((size_t)k + kr - 1) / kr;
    size_t bytes = (size_t)kernels->weight_bytes;
    memset(packed, 0, ((size_t)n + nr - 1) / nr * nr * groups * kr * bytes);
    for (size_t c = 0; c < (size_t)n; c++)
        for (size_t i = 0; i < (size_t)k; i++) {
            int16_t weight = w[c * (size_t)k + i]; /* little-endian: its first byte is the int8 */
            size_t at = c / nr * groups * nr * kr + i / kr * nr * kr + c % nr * kr + i % kr;
            memcpy(packed + at * bytes, &weight, bytes);
        }
}

/* The requantisation as the vector kernels get it: quick where that is found. weights: those of channel c lie at
 * w[c * next_channel + i * next_tap]. */
static dn_requant quickened(const dn_kernels *fast, const dn_requant *exact, int channels, const int8_t *w, size_t next_channel,
                            size_t next_tap, int taps) {
    static dn_quick quick[256 / DN_QUICK_LANES];
    static int32_t based[256];
    dn_requant r = *exact;
    if (fast->find_quick == NULL || r.once) return r;
    int32_t min = r.min - r.zero_point, max = r.max - r.zero_point;
    r.bias = based;
    r.quick = quick;
    r.rectified = min >= 0;
    r.centre = r.rectified ? (min + max + 1) / 2 : 0;
    memcpy(based, bias, sizeof based);
    for (int c = 0; c < 256; c += DN_QUICK_LANES) {
        dn_quick *q = &quick[c / DN_QUICK_LANES];
        dn_quick_want want = {.min = min, .max = max, .centre = r.centre, .rectified = r.rectified};
        for (int i = 0; i < DN_QUICK_LANES && c + i < channels; i++) {
            int64_t magnitude = 0;
            for (int t = 0; t < taps; t++) magnitude += 255 * abs(w[(size_t)(c + i) * next_channel + (size_t)t * next_tap]);
            want.multiplier[i] = multiplier[c + i];
            want.shift[i] = shift[c + i];
            want.low[i] = bias[c + i] - magnitude;
            want.high[i] = bias[c + i] + magnitude;
        }
        fast->find_quick(q, &want);
        for (int i = 0; q->usable && i < DN_QUICK_LANES && c + i < channels; i++) based[c + i] -= q->base[i];
    }
    return r;
}

static void test_gemm(const dn_kernels *fast, noise *n, int rows, int columns, int k) {
    static dn_act a[MAX_ROWS * (MAX_K + 8) + SLACK], got[MAX_ROWS * 210 + SLACK], expected[sizeof got];
    static int8_t w[MAX_CHANNELS * MAX_K], packed[2 * (MAX_CHANNELS + 64) * (MAX_K + 8)];
    size_t lda = (size_t)(k + noise_between(n, 0, 5)), ldo = (size_t)(columns + noise_between(n, 0, 5));
    fill(n, a, sizeof a, noise_between(n, 0, 3) == 0);
    fill_weights(n, fast, w, sizeof w);
    dn_gemm g = {.packed = packed, .n = columns, .k = k, .requant = random_requant(n, noise_between(n, 0, 1))};
    memset(got, 42, sizeof got);
    memset(expected, 42, sizeof expected);
    pack(&dn_kernels_scalar, w, columns, k, packed);
    dn_kernels_scalar.gemm(&g, a, lda, rows, expected, ldo);
    pack(fast, w, columns, k, packed);
    g.requant = quickened(fast, &g.requant, columns, w, (size_t)k, 1, k);
    fast->gemm(&g, a, lda, rows, got, ldo);
    CHECK(memcmp(got, expected, sizeof got) == 0);
}

/* Rows in segments, as a convolution's window has them, against the same rows gathered. */
static void test_segments(const dn_kernels *fast, noise *n, int rows, int columns, int k, int segments) {
    enum { NEXT = 500 };
    static dn_act a[5 * NEXT + MAX_ROWS * 40 + SLACK], gathered[MAX_ROWS * 5 * 40];
    static dn_act got[MAX_ROWS * 210 + SLACK], expected[sizeof got];
    static int8_t w[MAX_CHANNELS * 5 * 40], filled[MAX_CHANNELS * 5 * 44], packed[2 * (MAX_CHANNELS + 64) * 5 * 44];
    if (fast->windows == 0) return;
    int lda = noise_between(n, 1, k), all = k * segments, kr = fast->kr, wide = (k + kr - 1) / kr * kr;
    fill(n, a, sizeof a, noise_between(n, 0, 3) == 0);
    fill_weights(n, fast, w, sizeof w);
    for (int row = 0; row < rows; row++)
        for (int s = 0; s < segments; s++) memcpy(gathered + row * all + s * k, a + row * lda + s * NEXT, (size_t)k);
    memset(filled, 0, sizeof filled);
    for (int i = 0; i < columns * segments; i++) memcpy(filled + i * wide, w + i * k, (size_t)k);
    dn_gemm g = {.packed = packed, .n = columns, .k = all, .requant = random_requant(n, 0)};
    memset(got, 42, sizeof got);
    memset(expected, 42, sizeof expected);
    pack(&dn_kernels_scalar, w, columns, all, packed);
    dn_kernels_scalar.gemm(&g, gathered, (size_t)all, rows, expected, (size_t)columns);
    pack(fast, filled, columns, wide * segments, packed);
    g = (dn_gemm){.packed = packed, .n = columns, .k = k, .segments = segments, .next_segment = NEXT,
                  .requant = quickened(fast, &g.requant, columns, w, (size_t)all, 1, all)};
    fast->gemm(&g, a, (size_t)lda, rows, got, (size_t)columns);
    CHECK(memcmp(got, expected, sizeof got) == 0);
}

static void test_depthwise(const dn_kernels *fast, noise *n, int pixels, int channels, int k_h, int k_w, int stride, int dil) {
    static dn_act in[8 * 64 * MAX_CHANNELS + SLACK], got[20 * MAX_CHANNELS + SLACK], expected[sizeof got];
    static int8_t w[7 * 7 * MAX_CHANNELS], packed[2 * 8 * 7 * (MAX_CHANNELS + 64)];
    const dn_act *rows[8];
    fill(n, in, sizeof in, noise_between(n, 0, 3) == 0);
    fill_weights(n, fast, w, sizeof w);
    for (int y = 0; y < k_h; y++) rows[y] = in + noise_between(n, 0, 7) * 64 * channels;
    dn_depthwise d = {packed, channels, k_h, k_w, stride, dil, random_requant(n, 0)};
    memset(got, 42, sizeof got);
    memset(expected, 42, sizeof expected);
    dn_kernels_scalar.pack_depthwise(w, channels, k_h, k_w, packed);
    dn_kernels_scalar.depthwise(&d, rows, pixels, expected);
    CHECK(fast->depthwise_bytes(channels, k_h, k_w) <= sizeof packed);
    d.requant = quickened(fast, &d.requant, channels, w, 1, (size_t)channels, k_h * k_w);
    fast->pack_depthwise(w, channels, k_h, k_w, packed);
    fast->depthwise(&d, rows, pixels, got);
    CHECK(memcmp(got, expected, sizeof got) == 0);
}

/* A picture with its padding made by hand for the scalar twin. */
static void test_window(const dn_kernels *fast, noise *n, int k, int stride, int channels) {
    enum { SIDE = 60, PADDED = SIDE + 8 };
    static dn_act in[SIDE * SIDE * MAX_CHANNELS / 4 + SLACK], padded[PADDED * PADDED * MAX_CHANNELS / 4 + SLACK];
    static dn_act got[SIDE * SIDE * MAX_CHANNELS / 4 + SLACK], expected[sizeof got];
    static int8_t w[5 * 5 * MAX_CHANNELS], packed[2 * 2 * 8 * 5 * (MAX_CHANNELS + 64)];
    int top = noise_between(n, 0, k - 1), left = noise_between(n, 0, k - 1), bottom = noise_between(n, 0, k - 1);
    int right = noise_between(n, 0, k - 1), height = noise_between(n, k, 14), width = noise_between(n, k, channels > 50 ? 14 : SIDE);
    int wide = left + width + right;
    dn_depthwise d = {packed, channels, k, k, stride, 1, random_requant(n, 0)};
    if (fast->window == NULL || !fast->window->takes(&d, stride, 1)) return;
    int out_h = (top + height + bottom - k) / stride + 1, out_w = (left + width + right - k) / stride + 1;
    dn_picture p = {height, width, top, left, stride, out_w, (dn_act)noise_between(n, DN_ACT_MIN, DN_ACT_MAX)};
    fill(n, in, sizeof in, noise_between(n, 0, 3) == 0);
    fill_weights(n, fast, w, sizeof w);
    memset(padded, (uint8_t)p.zero, sizeof padded);
    size_t c = (size_t)channels;
    for (int y = 0; y < height; y++)
        memcpy(padded + (size_t)((y + top) * wide + left) * c, in + (size_t)(y * width) * c, (size_t)width * c);
    memset(got, 42, sizeof got);
    memset(expected, 42, sizeof expected);
    int from = noise_between(n, 0, out_h - 1), to = noise_between(n, from + 1, out_h);
    dn_kernels_scalar.pack_depthwise(w, channels, k, k, packed);
    for (int y = from; y < to; y++) {
        const dn_act *rows[5];
        for (int i = 0; i < k; i++) rows[i] = padded + (size_t)((y * stride + i) * wide) * c;
        dn_kernels_scalar.depthwise(&d, rows, out_w, expected + (size_t)((y - from) * out_w) * c);
    }
    d.requant = quickened(fast, &d.requant, channels, w, 1, c, k * k);
    CHECK(fast->window->bytes(&d) <= sizeof packed);
    fast->window->pack(&d, w, packed);
    size_t all = (size_t)channels, split = channels > DN_CHANNEL_BLOCK && from % 2 ? DN_CHANNEL_BLOCK : all;
    fast->window->run(&d, &p, in, from, to, 0, split, got);
    if (split < all) fast->window->run(&d, &p, in, from, to, split, all, got);
    CHECK(memcmp(got, expected, sizeof got) == 0);
}

static void test_elementwise(const dn_kernels *fast, noise *n, size_t count) {
    static dn_act a[400], b[400], got[400], expected[400];
    uint8_t table[256];
    fill(n, a, sizeof a, 0);
    fill(n, b, sizeof b, noise_between(n, 0, 3) == 0);
    fill(n, table, sizeof table, 0);
    memset(got, 42, sizeof got);
    memset(expected, 42, sizeof expected);
    int32_t m[3];
    for (int i = 0; i < 3; i++) m[i] = (1 << 30) + noise_between(n, 0, (1 << 30) - 1);
    dn_add add = {noise_between(n, DN_ACT_MIN, DN_ACT_MAX), noise_between(n, DN_ACT_MIN, DN_ACT_MAX), m[0], m[1],
                  -noise_between(n, 0, 8), -noise_between(n, 0, 31), noise_between(n, 0, 1) ? 1 : -1, m[2],
                  -noise_between(n, noise_between(n, 0, 1) ? 18 : 10, 22), noise_between(n, DN_ACT_MIN, DN_ACT_MAX), DN_ACT_MIN, DN_ACT_MAX};
    dn_kernels_scalar.add(&add, a, b, count, expected);
    fast->add(&add, a, b, count, got);
    CHECK(memcmp(got, expected, sizeof got) == 0);
    dn_mul mul = {add.zero_a, add.zero_b, m[0], noise_between(n, -20, 20), add.zero_out, DN_ACT_MIN + 10, DN_ACT_MAX};
    dn_kernels_scalar.mul(&mul, a, b, count, expected);
    fast->mul(&mul, a, b, count, got);
    CHECK(memcmp(got, expected, sizeof got) == 0);
    size_t stride = (size_t)noise_between(n, 0, 20), pixels = stride == 0 ? 700 : (sizeof a - count) / stride + 1;
    dn_mean mean = {(size_t)noise_between(n, 1, (int32_t)pixels), stride, noise_between(n, -100000, 100000), m[0],
                    -noise_between(n, 0, 20), add.zero_out};
    dn_kernels_scalar.mean(&mean, a, count, expected);
    fast->mean(&mean, a, count, got);
    CHECK(memcmp(got, expected, sizeof got) == 0);
    dn_kernels_scalar.lut(table, a, count, expected);
    fast->lut(table, a, count, got);
    CHECK(memcmp(got, expected, sizeof got) == 0);
}

/* Every sum in reach, in plain C, against the definition. */
static int test_quick(const dn_kernels *fast, noise *n) {
    dn_quick q = {0};
    dn_quick_want want = {.min = noise_between(n, 0, 1) ? noise_between(n, 0, 3) : noise_between(n, -255, 0)};
    want.max = noise_between(n, want.min, want.min + 255);
    want.rectified = want.min >= 0;
    want.centre = want.rectified ? (want.min + want.max + 1) / 2 : 0;
    for (int i = 0; i < DN_QUICK_LANES; i++) {
        want.multiplier[i] = noise_between(n, 0, 20) == 0 ? 0 : (1 << 30) + noise_between(n, 0, (1 << 30) - 1);
        want.shift[i] = -noise_between(n, 1, 12);
        want.low[i] = noise_between(n, -60000, 60000);
        want.high[i] = noise_between(n, (int32_t)want.low[i], 60000);
    }
    fast->find_quick(&q, &want);
    for (int i = 0; q.usable && i < DN_QUICK_LANES; i++) {
        for (int32_t sum = (int32_t)want.low[i]; sum <= want.high[i]; sum++) {
            int32_t exact = dn_requantise(sum, want.multiplier[i], want.shift[i]);
            float nudge = want.rectified ? q.nudge[i] : copysignf(q.nudge[i], sum < 0 ? -1.0f : 1.0f);
            int32_t got = (int32_t)lrintf(fmaf((float)(sum - q.base[i]), q.scale[i], nudge)) + want.centre;
            exact = exact < want.min ? want.min : exact > want.max ? want.max : exact;
            got = got < want.min ? want.min : got > want.max ? want.max : got;
            CHECK(got == exact);
        }
    }
    return q.usable;
}

int main(void) {
    static const int windows[][4] = {{3, 3, 1, 1}, {3, 3, 2, 1}, {5, 5, 1, 1}, {5, 5, 2, 1}, {3, 3, 1, 2},
                                     {1, 1, 1, 1}, {7, 7, 2, 1}, {2, 4, 1, 1}, {3, 3, 3, 1}, {4, 1, 1, 1}};
    noise n = {7};
    for (const char *const *name = dn_kernel_names(); *name != NULL; name++) {
        const dn_kernels *fast = dn_kernels_pick(*name);
        for (int i = 0; i < 600; i++)
            test_gemm(fast, &n, noise_between(&n, 1, MAX_ROWS), noise_between(&n, 1, i % 3 ? 70 : MAX_CHANNELS),
                      noise_between(&n, 1, i % 3 ? 40 : MAX_K));
        for (int i = 0; i < 200; i++)
            test_segments(fast, &n, noise_between(&n, 1, MAX_ROWS), noise_between(&n, 1, 70), noise_between(&n, 1, 40),
                          noise_between(&n, 1, 5));
        for (int i = 0; i < 600; i++) {
            const int *w = windows[i % 10];
            test_depthwise(fast, &n, noise_between(&n, 1, 14), noise_between(&n, 1, i % 3 ? 40 : MAX_CHANNELS), w[0], w[1],
                           w[2], w[3]);
        }
        for (int i = 0; i < 400; i++) test_window(fast, &n, i & 1 ? 3 : 5, i & 2 ? 1 : 2, noise_between(&n, 1, i % 3 ? 50 : MAX_CHANNELS));
        for (size_t i = 0; i < 400; i++) test_elementwise(fast, &n, i);
        int quick = 0;
        for (int i = 0; fast->find_quick != NULL && i < 40; i++) quick += test_quick(fast, &n);
        CHECK(fast->find_quick == NULL || quick >= 30);
        printf("%s equals scalar\n", *name);
    }
    return 0;
}
