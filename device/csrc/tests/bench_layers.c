/* Where a model's time goes: every layer's share on one thread, how near it comes to the multiplications this CPU can do,
 * and what it takes on two threads, all measured on the spot.
 *
 *     bench_layers MODEL.tflite [KERNELS [SECONDS]]
 *
 * The peak is that of the instruction the kernels multiply with (vpdpbusd, vpmaddwd, …) on registers alone. Runs of one and
 * two threads take turns. On two threads a layer's time is the caller's; `=` marks where they meet, and the wait for the
 * slower one counts there. The limit of two threads is half of one's time and what the meetings take without any work. */
#define _POSIX_C_SOURCE 200809L
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../internal.h"
#include "file.h"
#include "peak.h"

enum { MAX_RUNS = 20000, TURN = 8, WARM_UP = 2, LEAST_RUNS = 5, MEETINGS = 20000 };

typedef struct {
    dn_model *model;
    double load_ms;
    uint8_t *input, *output;
    double *times; /* ms, [ops + 1][MAX_RUNS]; the last is the whole inference */
    int runs;
} timed;

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static bool load(const uint8_t *bytes, size_t size, int threads, const char *kernels, timed *t) {
    dn_error error;
    dn_options options = {.threads = threads, .max_arena_bytes = (size_t)1 << 30, .kernels = kernels};
    double begun = now_ms();
    t->model = dn_model_load(bytes, size, &options, &error);
    t->load_ms = now_ms() - begun;
    if (t->model == NULL) {
        fprintf(stderr, "%s\n", error.text);
        return false;
    }
    dn_info info;
    dn_model_info(t->model, &info);
    t->input = malloc(info.input.bytes);
    t->output = malloc(info.output.bytes);
    t->times = malloc(sizeof *t->times * MAX_RUNS * (size_t)(t->model->ops + 1));
    if (t->input == NULL || t->output == NULL || t->times == NULL) return false;
    for (size_t i = 0; i < info.input.bytes; i++) t->input[i] = (uint8_t)(i * 2654435761u >> 13);
    return true;
}

static void take_turn(timed *t) {
    dn_info info;
    dn_model_info(t->model, &info);
    for (int i = -WARM_UP; i < TURN && t->runs < MAX_RUNS; i++) {
        double before = now_ms();
        dn_model_run(t->model, t->input, info.input.bytes, t->output, info.output.bytes);
        if (i < 0) continue;
        t->times[(size_t)t->model->ops * MAX_RUNS + (size_t)t->runs] = now_ms() - before;
        for (int op = 0; op < t->model->ops; op++) t->times[(size_t)op * MAX_RUNS + (size_t)t->runs] = t->model->op[op].ms;
        t->runs++;
    }
}

static void sort_times(timed *t) {
    for (int i = 0; i <= t->model->ops; i++) qsort(t->times + (size_t)i * MAX_RUNS, (size_t)t->runs, sizeof *t->times, by_value);
}

static double median(const timed *t, int op) { return t->times[(size_t)op * MAX_RUNS + (size_t)(t->runs / 2)]; }

/* Next to no work, but for both: the caller's part ends when the other's has begun. */
static void next_to_nothing(void *arg, int part, int parts) {
    atomic_int *begun = arg;
    (void)parts;
    if (part > 0) atomic_fetch_add(begun, 1);
    while (part == 0 && atomic_load(begun) == 0) {}
}

static double meeting_ms(void) {
    dn_team *team = dn_team_new(2);
    if (team == NULL) return 0;
    double from = 0;
    for (int i = -MEETINGS; i < MEETINGS; i++) {
        atomic_int begun = 0;
        if (i == 0) from = now_ms();
        dn_team_run(team, 2, next_to_nothing, &begun);
    }
    double each = (now_ms() - from) / MEETINGS;
    dn_team_free(team);
    return each;
}

static void print_shape(const dn_model *m, int tensor) {
    const dn_tensor *t = &m->tensor[tensor];
    char text[64];
    int at = 0;
    for (int i = t->rank > 1 ? 1 : 0; i < t->rank; i++)
        at += snprintf(text + at, sizeof text - (size_t)at, "%s%d", at ? "x" : "", t->dim[i]);
    printf(" %-14s", text);
}

/* What two threads do when they are done with an operator: meet; or it was for one of them. */
static const char *ending(const dn_model *m, int op) {
    for (const dn_section *s = m->section; s < m->section + m->sections; s++)
        if (s->last == op) return s->parts > 1 ? "=" : "one";
    return "";
}

static void print_layers(const timed *one, const timed *two, double peak) {
    const dn_model *m = one->model;
    double total = median(one, m->ops);
    printf("    operator                 in             out                 us  share  GMAC/s  of peak  two threads  gain\n");
    for (int i = 0; i < m->ops; i++) {
        const dn_op *op = &m->op[i];
        double ms = median(one, i), both = median(two, i), speed = ms > 0 ? (double)op->macs / ms * 1e-6 : 0;
        if (op->run == NULL) continue;
        printf("%3d %-24s", i, dn_op_name(op->code));
        print_shape(m, op->input[0]);
        print_shape(m, op->output[0]);
        printf(" %8.2f %5.1f%% %7.1f  %5.1f%%  %11.2f %5.2f %s\n", ms * 1e3, 100 * ms / total, speed, 100 * speed / peak, both * 1e3,
               both > 0 ? ms / both : 0, ending(two->model, i));
    }
}

static void print_sums(const char *path, const timed *one, const timed *two, double peak, double meeting) {
    const dn_model *m = one->model;
    double total = median(one, m->ops), both = median(two, m->ops), alone = 0;
    uint64_t macs = 0;
    int meetings = 0;
    for (int i = 0; i < m->ops; i++) macs += m->op[i].macs;
    for (const dn_section *s = two->model->section; s < two->model->section + two->model->sections; s++) {
        meetings += s->parts > 1;
        for (int i = s->first; i <= s->last && s->parts == 1; i++) alone += median(one, i);
    }
    double speed = (double)macs / total * 1e-6, limit = (total + alone) / 2 + meetings * meeting;
    printf("%s, %s, one thread: %.4f ms (best %.4f), %.1f M MACs, %.1f GMAC/s = %.1f%% of the peak of %.1f; load %.2f ms\n", path,
           m->kernels->name, total, one->times[(size_t)m->ops * MAX_RUNS], (double)macs * 1e-6, speed, 100 * speed / peak, peak,
           one->load_ms);
    printf("two threads: %.4f ms, %.2f times as fast; limit %.4f ms, %.2f times: half of one thread's, %.4f ms of it alone, and %d"
           " meetings of %.2f us\n", both, total / both, limit, total / limit, alone, meetings, meeting * 1e3);
}

static void forget(timed *t) {
    dn_model_free(t->model);
    free(t->input);
    free(t->output);
    free(t->times);
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
    timed one = {0}, two = {0};
    const char *kernels = argc > 2 ? argv[2] : NULL;
    bool fine = load(bytes, size, 1, kernels, &one) && load(bytes, size, 2, kernels, &two);
    if (fine) {
        double peak = dn_peak_gmacs(one.model->kernels->name), meeting = meeting_ms();
        double end = now_ms() + 1e3 * (argc > 3 ? atof(argv[3]) : 4.0);
        while (one.runs < MAX_RUNS && (now_ms() < end || one.runs < LEAST_RUNS)) {
            take_turn(&one);
            take_turn(&two);
        }
        sort_times(&one);
        sort_times(&two);
        print_layers(&one, &two, peak);
        print_sums(argv[1], &one, &two, peak, meeting);
    }
    forget(&one);
    forget(&two);
    free(bytes);
    return fine ? 0 : 1;
}
