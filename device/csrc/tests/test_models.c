/* Whole models, from files: each X.tflite in the directories given runs with every instruction set and 1 to 3 threads and
 * must give the bytes of X.expected, which LiteRT's reference kernels made from the same noise; so must its operators in
 * parts, however small, whichever part of a section comes first; then cut short at many places, and with single bytes changed, it loads or is refused with a reason.
 * Files without X.expected need only that. */
#include <dirent.h>
#include <string.h>

#include "../prepare.h"
#include "check.h"

typedef struct {
    uint8_t *data;
    size_t size;
} file;

static file read_file(const char *path) {
    file f = {NULL, 0};
    FILE *in = fopen(path, "rb");
    if (in == NULL) return f;
    fseek(in, 0, SEEK_END);
    f.size = (size_t)ftell(in);
    rewind(in);
    f.data = malloc(f.size + 1);
    CHECK(f.data != NULL && fread(f.data, 1, f.size, in) == f.size);
    fclose(in);
    return f;
}

/* The model's answer to the noise; size 0 when it is refused. */
static file answer(const uint8_t *data, size_t size, const char *kernels, int threads) {
    dn_error error;
    dn_options options = {threads, 1 << 20, kernels};
    file output = {NULL, 0};
    uint8_t *copy = malloc(size ? size : 1); /* exactly so long: a byte beyond is a finding */
    CHECK(copy != NULL);
    memcpy(copy, data, size);
    dn_model *m = dn_model_load(copy, size, &options, &error);
    free(copy);
    CHECK((m == NULL) == (error.status != DN_OK) && (m != NULL || error.text[0] != '\0'));
    if (m == NULL) return output;
    dn_info info;
    dn_model_info(m, &info);
    noise n = {1};
    uint8_t *input = malloc(info.input.bytes);
    output = (file){malloc(info.output.bytes), info.output.bytes};
    CHECK(input != NULL && output.data != NULL);
    for (size_t i = 0; i < info.input.bytes; i++) input[i] = noise_byte(&n);
    uint64_t macs = 0;
    for (int i = 0; i < info.layers; i++) {
        dn_layer layer;
        dn_model_layer(m, i, &layer);
        macs += layer.macs;
    }
    CHECK(dn_model_run(m, input, info.input.bytes + 1, output.data, output.size) == DN_BAD_CALL);
    if (macs < 1 << 24) CHECK(dn_model_run(m, input, info.input.bytes, output.data, output.size) == DN_OK);
    free(input);
    dn_model_free(m);
    return output;
}

/* One part runs all of a section before the next begins. */
static void run_in_parts(dn_model *m, int parts, bool backwards) {
    for (const dn_section *s = m->section; s < m->section + m->sections; s++)
        for (int k = 0; k < parts; k++)
            for (int i = s->first; i <= s->last; i++)
                if (m->op[i].run != NULL) m->op[i].run(m, i, backwards ? parts - 1 - k : k, parts);
}

static void test_parts(const file *model, const file *expected, const char *path, const char *kernels, int threads,
                       int parts, bool backwards) {
    dn_error error;
    dn_options options = {threads, 1 << 20, kernels};
    dn_model *m = dn_model_load(model->data, model->size, &options, &error);
    CHECK(m != NULL);
    dn_info info;
    dn_model_info(m, &info);
    if (info.input.type == DN_INT8 && info.output.type == DN_INT8 && info.output.bytes == expected->size) {
        noise n = {1};
        dn_act *input = dn_data(m, m->input);
        for (size_t i = 0; i < info.input.bytes; i++) input[i] = (dn_act)((int8_t)noise_byte(&n) + DN_FROM_INT8);
        run_in_parts(m, parts, backwards);
        const dn_act *output = dn_data(m, m->output);
        for (size_t i = 0; i < expected->size; i++)
            if ((uint8_t)(output[i] - DN_FROM_INT8) != expected->data[i]) {
                fprintf(stderr, "%s: %s in %d parts differs from LiteRT's reference at %zu\n", path, kernels, parts, i);
                exit(1);
            }
    }
    dn_model_free(m);
}

static void test_answers(const file *model, const file *expected, const char *path) {
    for (const char *const *name = dn_kernel_names(); *name != NULL; name++) {
        for (int threads = 1; threads <= 3; threads++) {
            file got = answer(model->data, model->size, *name, threads);
            if (got.size != expected->size || memcmp(got.data, expected->data, got.size) != 0) {
                fprintf(stderr, "%s: %s with %d threads differs from LiteRT's reference\n", path, *name, threads);
                exit(1);
            }
            free(got.data);
            for (int parts = threads; parts <= 2 * threads; parts += threads) {
                test_parts(model, expected, path, *name, threads, parts, false);
                test_parts(model, expected, path, *name, threads, parts, true);
            }
        }
    }
}

static void test_damage(const file *model) {
    noise n = {3};
    for (size_t cut = 0; cut < model->size; cut += 1 + model->size / 97) free(answer(model->data, cut, NULL, 1).data);
    for (int i = 0; i < 200; i++) {
        size_t at = (size_t)noise_between(&n, 0, (int32_t)model->size - 1);
        uint8_t before = model->data[at];
        model->data[at] = noise_byte(&n);
        free(answer(model->data, model->size, NULL, 1).data);
        model->data[at] = before;
    }
}

static int test_directory(const char *directory) {
    DIR *d = opendir(directory);
    CHECK(d != NULL);
    int models = 0;
    for (struct dirent *entry; (entry = readdir(d)) != NULL;) {
        char path[4096];
        size_t length = strlen(entry->d_name);
        if (entry->d_name[0] == '.' || (length > 9 && strcmp(entry->d_name + length - 9, ".expected") == 0)) continue;
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        file model = read_file(path);
        char *dot = strrchr(path, '.');
        file expected = {NULL, 0};
        if (dot != NULL && strcmp(dot, ".tflite") == 0) {
            snprintf(dot, sizeof path - (size_t)(dot - path), ".expected");
            expected = read_file(path);
        }
        if (expected.data != NULL) test_answers(&model, &expected, path);
        if (model.size > 0) test_damage(&model);
        free(expected.data);
        free(model.data);
        models++;
    }
    closedir(d);
    return models;
}

int main(int argc, char **argv) {
    int models = 0;
    for (int i = 1; i < argc; i++) models += test_directory(argv[i]);
    printf("%d models\n", models);
    return argc > 1 && models == 0;
}
