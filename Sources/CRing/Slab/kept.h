/* How kept memory is laid out: what its writer (kept.c) and its reader (remains.c) agree on. */
#ifndef SLAB_KEPT_H
#define SLAB_KEPT_H

#include "internal.h"

enum { KEPT_VERSION = 1, JOURNAL_DROPPED = -1 };

/* At the end of the mapping, whose last bytes it is. Addresses are those of the process that wrote. */
struct kept_head {
    uint64_t base, slabs_bytes;                   /* The slabs, at the start of the mapping. */
    uint64_t area;
    uint64_t journal, directory;
    uint64_t records;                             /* The directory has entries for those below. */
    uint64_t roots[KEPT_ROOTS];
    _Atomic uint64_t committed;                   /* Bytes of the journal that are valid; 0: none. */
    uint64_t version;                             /* 0: do not use. */
};

struct directory_entry { uint64_t home; uint32_t capacity, length; uint64_t isThere; };

/* Behind it the bytes, padded to eight. */
struct journal_entry { uint32_t record; int32_t length; };

struct kept;
struct kept *arena_kept(arena *arena);
struct kept *kept_open(uint8_t *area, size_t area_bytes, const void *slabs, size_t slabs_bytes);
void kept_close(struct kept *kept);
/* A block to be given out again after the next commit. False: no memory to note it. */
bool kept_hold_back(struct kept *kept, uint32_t page);
/* It may be given out again. */
void arena_give_out_again(arena *arena, uint32_t page);

#endif
