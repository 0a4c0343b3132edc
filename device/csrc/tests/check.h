/* CHECK(condition) ends the test program with the place; noise() is a fixed stream of bytes. */
#ifndef DN_TESTS_CHECK_H
#define DN_TESTS_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                    \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                        \
        }                                                                   \
    } while (0)

typedef struct {
    uint32_t state;
} noise;

static inline uint32_t noise_word(noise *n) {
    n->state = n->state * 1664525u + 1013904223u;
    return n->state;
}

static inline uint8_t noise_byte(noise *n) { return (uint8_t)(noise_word(n) >> 24); }

static inline int32_t noise_between(noise *n, int32_t low, int32_t high) {
    return low + (int32_t)((uint64_t)noise_word(n) * (uint64_t)(high - low + 1) >> 32);
}

#endif
