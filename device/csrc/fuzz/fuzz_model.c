/* libFuzzer target: any bytes through reader, planner and runner; every instruction set must give the scalar answers, and so
 * must two threads.
 * The mutator knows that a flatbuffer is 32-bit words: offsets, counts, dimensions, codes. See run.sh. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "distillnet.h"

enum { MAX_ARENA = 4 << 20, MAX_OUTPUT = 1 << 20 };
static const uint64_t max_macs = 20u << 20;

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

static uint64_t macs_of(const dn_model *m) {
    dn_info info;
    uint64_t macs = 0;
    dn_model_info(m, &info);
    for (int i = 0; i < info.layers; i++) {
        dn_layer layer;
        dn_model_layer(m, i, &layer);
        macs += layer.macs;
    }
    return macs;
}

static uint8_t *run(dn_model *m, const dn_info *info) {
    uint8_t *input = malloc(info->input.bytes), *output = malloc(info->output.bytes);
    if (input == NULL || output == NULL) abort();
    uint32_t noise = 1;
    for (size_t i = 0; i < info->input.bytes; i++) input[i] = (uint8_t)((noise = noise * 1664525u + 1013904223u) >> 24);
    if (dn_model_run(m, input, info->input.bytes, output, info->output.bytes) != DN_OK) abort();
    free(input);
    return output;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    dn_error error;
    dn_options options = {1, MAX_ARENA, "scalar"};
    dn_model *scalar = dn_model_load(data, size, &options, &error);
    if (scalar == NULL) {
        if (error.status == DN_OK || error.text[0] == '\0') abort();
        return 0;
    }
    dn_info info;
    dn_model_info(scalar, &info);
    if (macs_of(scalar) <= max_macs && info.output.bytes <= MAX_OUTPUT) {
        uint8_t *expected = run(scalar, &info);
        const char *const *names = dn_kernel_names();
        for (int i = -1; i < 0 || names[i] != NULL; i++) {
            options.kernels = names[i < 0 ? 0 : i];
            options.threads = i < 0 ? 2 : 1;
            dn_model *fast = dn_model_load(data, size, &options, &error);
            if (fast == NULL) { /* packing rounds up, so it may be the larger one */
                if (error.status != DN_TOO_LARGE) abort();
                continue;
            }
            uint8_t *got = run(fast, &info);
            if (memcmp(got, expected, info.output.bytes) != 0) {
                fprintf(stderr, "%s on %d threads and scalar differ\n", options.kernels, options.threads);
                abort();
            }
            free(got);
            dn_model_free(fast);
        }
        free(expected);
    }
    dn_model_free(scalar);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    static const uint32_t telling[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 64, 127, 128, 255, 256, 1000, 65535, 1u << 20,
                                       0x7fffffff, 0x80000000, 0xffffffff, 0x3f800000, 0x7f800000};
    uint32_t r = seed * 2654435761u + 12345;
    if (size < 16 || r % 8 == 0) return LLVMFuzzerMutate(data, size, max_size);
    for (int edits = 1 + (int)(r >> 4 & 3); edits > 0; edits--) {
        r = r * 1664525u + 1013904223u;
        size_t at = (r >> 8) % (size / 4) * 4;
        uint32_t word;
        memcpy(&word, data + at, 4);
        r = r * 1664525u + 1013904223u;
        switch (r >> 28) {
            case 0: case 1: case 2: case 3: word = telling[(r >> 8) % (sizeof telling / sizeof *telling)]; break;
            case 4: case 5: word += (r >> 8 & 31) - 16; break;
            case 6: word ^= 1u << (r >> 8 & 31); break;
            case 7: memcpy(&word, data + (r >> 8) % (size / 4) * 4, 4); break;
            case 8: word = (uint32_t)size - (r >> 8 & 255); break;
            case 9: word = word << 1 | word >> 31; break;
            default: { /* one byte: types, codes, padding, activation */
                data[at + (r & 3)] = (uint8_t)telling[(r >> 8) % 16];
                continue;
            }
        }
        memcpy(data + at, &word, 4);
    }
    return size;
}
