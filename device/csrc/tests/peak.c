/* See peak.h: independent sums in registers, no memory; the best of some rounds. */
#define _POSIX_C_SOURCE 200809L
#include "peak.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

enum { ROUNDS = 40, STEPS = 20000 };

#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

#if defined(__x86_64__)
/* vpdpbusd zmm: 64 products an instruction */
#define DOT_512(i) "vpdpbusd %%zmm30, %%zmm31, %%zmm" #i "\n\t"
#define WIPED(i) "xmm" #i,
static uint64_t multiply_vnni(void) {
    for (int i = 0; i < STEPS; i++) __asm__ volatile(TWELVE(DOT_512)::: TWELVE(WIPED) "memory");
    return (uint64_t)STEPS * 12 * 64;
}

/* vpdpbusd ymm: 32 */
#define DOT_256(i) "%{vex%} vpdpbusd %%ymm14, %%ymm15, %%ymm" #i "\n\t"
static uint64_t multiply_avxvnni(void) {
    for (int i = 0; i < STEPS; i++) __asm__ volatile(TWELVE(DOT_256)::: TWELVE(WIPED) "memory");
    return (uint64_t)STEPS * 12 * 32;
}

/* vpmaddwd ymm + vpaddd: 16 products in two instructions */
#define MADD_256(i) "vpmaddwd %%ymm14, %%ymm15, %%ymm12\n\tvpaddd %%ymm12, %%ymm" #i ", %%ymm" #i "\n\t"
static uint64_t multiply_avx2(void) {
    for (int i = 0; i < STEPS; i++) __asm__ volatile(TWELVE(MADD_256)::: TWELVE(WIPED) "xmm12", "memory");
    return (uint64_t)STEPS * 12 * 16;
}
#elif defined(__aarch64__)
#define DOT_128(i) ".inst 0x4e9e97e0 + " #i "\n\t" /* sdot v<i>.4s, v31.16b, v30.16b */
#define LONG_128(i) "smlal v" #i ".8h, v30.8b, v31.8b\n\t"
#define WIPED(i) "v" #i,
static uint64_t multiply_dot(void) {
    for (int i = 0; i < STEPS; i++) __asm__ volatile(TWELVE(DOT_128)::: TWELVE(WIPED) "memory");
    return (uint64_t)STEPS * 12 * 16;
}

static uint64_t multiply_neon(void) {
    for (int i = 0; i < STEPS; i++) __asm__ volatile(TWELVE(LONG_128)::: TWELVE(WIPED) "memory");
    return (uint64_t)STEPS * 12 * 8;
}
#endif

static const struct {
    const char *kernels;
    uint64_t (*multiply)(void);
} peaks[] = {
#if defined(__x86_64__)
    {"avx512vnni", multiply_vnni},
    {"avxvnni", multiply_avxvnni},
    {"avx2", multiply_avx2},
#elif defined(__aarch64__)
    {"neondot", multiply_dot},
    {"neon", multiply_neon},
#endif
    {NULL, NULL},
};

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

double dn_peak_gmacs(const char *kernels) {
    for (size_t i = 0; peaks[i].kernels != NULL; i++) {
        if (strcmp(kernels, peaks[i].kernels) != 0) continue;
        double best = 0;
        for (int round = 0; round < ROUNDS; round++) {
            double before = now_ns();
            double speed = (double)peaks[i].multiply() / (now_ns() - before);
            if (speed > best) best = speed;
        }
        return best;
    }
    return 0;
}
