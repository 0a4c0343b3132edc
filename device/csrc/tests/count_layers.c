/* Runs models so that an instruction counter can tell them apart: after each one's second run comes a system call, getppid,
 * and another before it. See tests/engine/count_instructions.c and deploy/board_cycles.py.
 *
 *     count_layers KERNELS MODEL.tflite… */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "distillnet.h"
#include "file.h"

static int run(const char *path, const char *kernels) {
    size_t size = 0;
    uint8_t *bytes = read_file(path, &size);
    if (bytes == NULL) return fprintf(stderr, "cannot read %s\n", path), 1;
    dn_error error;
    dn_options options = {.threads = 1, .max_arena_bytes = (size_t)1 << 30, .kernels = kernels};
    dn_model *m = dn_model_load(bytes, size, &options, &error);
    free(bytes);
    if (m == NULL) return fprintf(stderr, "%s: %s\n", path, error.text), 1;
    dn_info info;
    dn_model_info(m, &info);
    uint8_t *input = malloc(info.input.bytes), *output = malloc(info.output.bytes);
    if (input == NULL || output == NULL) return 1;
    for (size_t i = 0; i < info.input.bytes; i++) input[i] = (uint8_t)(i * 2654435761u >> 13);
    for (int i = 0; i < 2; i++) {
        getppid();
        dn_model_run(m, input, info.input.bytes, output, info.output.bytes);
    }
    getppid();
    dn_model_free(m);
    free(input);
    free(output);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: %s KERNELS MODEL.tflite…\n", argv[0]), 2;
    for (int i = 2; i < argc; i++) {
        if (run(argv[i], argv[1]) != 0) return 1;
    }
    return 0;
}
