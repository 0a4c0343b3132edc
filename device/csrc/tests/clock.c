/* Prints this core's clock in GHz, as a chain of operations of one cycle each runs: the best of some rounds. */
#define _POSIX_C_SOURCE 200809L
#include <stdint.h>
#include <stdio.h>
#include <time.h>

enum { ROUNDS = 50, STEPS = 20000, LINKS = 100 };

#define TEN(X) X X X X X X X X X X
#if defined(__x86_64__)
#define LINK "xor %1, %0\n\t"
#else
#define LINK "eor %0, %0, %1\n\t"
#endif

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int main(void) {
    uint64_t x = 1, y = 3;
    double best = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double before = now_ns();
        for (int i = 0; i < STEPS; i++) __asm__ volatile(TEN(TEN(LINK)) : "+r"(x) : "r"(y));
        double ghz = STEPS * LINKS / (now_ns() - before);
        if (ghz > best) best = ghz;
    }
    printf("%.3f\n", best);
    return 0;
}
