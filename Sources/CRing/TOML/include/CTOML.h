/* A TOML document as a flat list, by toml++: every value with the keys that lead to it and its line. */
#ifndef CTOML_H
#define CTOML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { TOML_DEPTH_MAXIMUM = 4 };

typedef enum toml_kind {
    TOML_TABLE,   /* its members follow */
    TOML_ARRAY,   /* its elements follow, with the same keys and `is_element` */
    TOML_STRING,
    TOML_INTEGER,
    TOML_BOOLEAN,
    TOML_OTHER    /* a kind that nobody here wants: a float, a date */
} toml_kind;

typedef struct toml_entry {
    const char *keys[TOML_DEPTH_MAXIMUM]; /* UTF-8; deeper ones are left out */
    uint32_t depth;                       /* how many there are, at least 1, also when it is more than the maximum */
    uint32_t line;                        /* from 1 on */
    toml_kind kind;
    bool is_element;
    const char *string;                   /* of TOML_STRING */
    int64_t integer;                      /* of TOML_INTEGER, and 0 or 1 of TOML_BOOLEAN */
} toml_entry;

typedef struct toml_document toml_document;

/* Reads `count` bytes at `text`. NULL: it is no TOML, or there is no memory; then `why` holds what is wrong and `line`
 * where. */
toml_document *toml_read(const char *text, size_t count, char *why, size_t why_size, uint32_t *line);
void toml_close(toml_document *document);

/* In the order of their lines. Entries live as long as their document. */
size_t toml_count(const toml_document *document);
toml_entry toml_at(const toml_document *document, size_t index);

#ifdef __cplusplus
}
#endif

#endif
