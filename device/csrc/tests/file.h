/* read_file() gives a whole file, to be freed by the caller; NULL when it cannot be read. */
#ifndef DN_TESTS_FILE_H
#define DN_TESTS_FILE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static inline uint8_t *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) return NULL;
    *size = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = malloc(*size + 1);
    if (bytes != NULL && fread(bytes, 1, *size, file) != *size) return NULL;
    fclose(file);
    return bytes;
}

#endif
