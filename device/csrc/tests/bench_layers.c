/* Where a model's time goes: every layer's share, and how near it comes to the multiplications this CPU can do, measured
 * on the spot.
 *
 *     bench_layers MODEL.tflite [KERNELS [SECONDS]]
 *
 * The peak is that of the instruction the kernels multiply with (vpdpbusd, vpmaddwd, …) on registers alone. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../internal.h"
#include "file.h"
#include "peak.h"

enum { MAX_RUNS = 20000, WARM_UP = 20 };

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void print_shape(const dn_model *m, int tensor) {
    const dn_tensor *t = &m->tensor[tensor];
    char text[64];
    int at = 0;
    for (int i = t->rank > 1 ? 1 : 0; i < t->rank; i++)
        at += snprintf(text + at, sizeof text - (size_t)at, "%s%d", at ? "x" : "", t->dim[i]);
    printf(" %-14s", text);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL.tflite [KERNELS [SECONDS]]\n", argv[0]);
        return 2;
    }
    size_t size = 0;
    uint8_t *bytes = read_file(argv[1], &size);
    if (bytes == NULL) {
        fprintf(stderr, "cannot read %s\n", argv[1]);
        return 1;
    }
    dn_error error;
    dn_options options = {.threads = 1, .max_arena_bytes = (size_t)1 << 30, .kernels = argc > 2 ? argv[2] : NULL};
    double begun = now_ms();
    dn_model *m = dn_model_load(bytes, size, &options, &error);
    double load_ms = now_ms() - begun;
    if (m == NULL) {
        fprintf(stderr, "%s: %s\n", argv[1], error.text);
        return 1;
    }
    dn_info info;
    dn_model_info(m, &info);
    uint8_t *input = malloc(info.input.bytes), *output = malloc(info.output.bytes);
    double *times = malloc(sizeof *times * MAX_RUNS * (size_t)(m->ops + 1));
    if (input == NULL || output == NULL || times == NULL) return 1;
    for (size_t i = 0; i < info.input.bytes; i++) input[i] = (uint8_t)(i * 2654435761u >> 13);
    int runs = 0;
    double peak = dn_peak_gmacs(info.kernels), end = now_ms() + 1e3 * (argc > 3 ? atof(argv[3]) : 2.0);
    for (int i = 0; i < WARM_UP; i++) dn_model_run(m, input, info.input.bytes, output, info.output.bytes);
    for (; runs < MAX_RUNS && (now_ms() < end || runs < 5); runs++) {
        double before = now_ms();
        dn_model_run(m, input, info.input.bytes, output, info.output.bytes);
        times[(size_t)m->ops * MAX_RUNS + (size_t)runs] = now_ms() - before;
        for (int i = 0; i < m->ops; i++) times[(size_t)i * MAX_RUNS + (size_t)runs] = m->op[i].ms;
    }
    for (int i = 0; i <= m->ops; i++) qsort(times + (size_t)i * MAX_RUNS, (size_t)runs, sizeof *times, by_value);
    double total = times[(size_t)m->ops * MAX_RUNS + (size_t)(runs / 2)];
    uint64_t macs = 0;
    printf("    operator                 in             out                 us  share  GMAC/s  of peak\n");
    for (int i = 0; i < m->ops; i++) {
        const dn_op *op = &m->op[i];
        double ms = times[(size_t)i * MAX_RUNS + (size_t)(runs / 2)], speed = ms > 0 ? (double)op->macs / ms * 1e-6 : 0;
        if (op->run == NULL) continue;
        macs += op->macs;
        printf("%3d %-24s", i, dn_op_name(op->code));
        print_shape(m, op->input[0]);
        print_shape(m, op->output[0]);
        printf(" %8.2f %5.1f%% %7.1f  %5.1f%%\n", ms * 1e3, 100 * ms / total, speed, 100 * speed / peak);
    }
    double speed = (double)macs / total * 1e-6;
    printf("%s, %s, one thread: %.4f ms (best %.4f), %.1f M MACs, %.1f GMAC/s = %.1f%% of the peak of %.1f; load %.2f ms\n", argv[1],
           info.kernels, total, times[(size_t)m->ops * MAX_RUNS], (double)macs * 1e-6, speed, 100 * speed / peak, peak, load_ms);
    dn_model_free(m);
    free(times);
    free(input);
    free(output);
    free(bytes);
    return 0;
}
