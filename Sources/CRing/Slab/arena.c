/*
 * The arena: blocks of two sizes in one mapping, each alive while somebody holds a reference.
 *
 *     the mapping   | slab 0 | slab 1 | … | slab n-1 | entries | references |
 *
 * A slab is never used, free, given out whole, or divided into pages:
 *
 *     never used ──▶ whole   ◀──▶ warm free ──trim──▶ cold free ──▶ whole or divided
 *          └───────▶ divided ◀──▶
 *
 * Never used slabs are taken in order, so nothing is touched before it is needed, the tables included: they
 * lie behind the slabs in the same mapping and are all zero at first. Free slabs are taken warmest first.
 */
#include "kept.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SLAB_POISONS 1
#include <sanitizer/asan_interface.h>
#endif
#endif
#ifndef SLAB_POISONS                              /* AddressSanitizer reports any touch of a dead block. */
#define ASAN_POISON_MEMORY_REGION(bytes, count)   ((void)(bytes), (void)(count))
#define ASAN_UNPOISON_MEMORY_REGION(bytes, count) ((void)(bytes), (void)(count))
#endif

static const size_t MAXIMUM_LEAST = (size_t)1 << 20, MAXIMUM_MOST = (size_t)1 << 40;

static const size_t TRIM_SLABS_PER_CALL = 16;     /* 4 MiB: keeps the pause below a millisecond or so. */
static const uint32_t NONE = UINT32_MAX;          /* No slab. */

enum kind { FREE = 0, WHOLE, DIVIDED };

struct entry {                                    /* One per slab. */
    uint64_t free_pages;                          /* DIVIDED: bit i says that page i is free. */
    uint32_t next, previous;                      /* Neighbours in the list that the slab is on, or NONE. */
    enum kind kind;
};

struct list { uint32_t first, last; size_t count; };

struct arena {
    struct kept *kept;                            /* The first of all (struct arena_front). NULL: nothing outlives the process. */
    uint8_t *slabs;                               /* The mapping, aligned to a slab. */
    struct entry *entries;
    uint32_t *references;                         /* One per page; a whole slab counts at its first. */
    size_t slab_count, touched_count;             /* Slabs; those below `touched_count` were used once. */
    struct list warm, cold;                       /* Free slabs with and without memory behind them. */
    struct list open;                             /* Divided slabs with at least one free page. */
    size_t open_pages;                            /* Free pages in them. */
    size_t used_pages;                            /* Given out, in pages. */
    size_t mapping_bytes;
    int descriptor;                               /* The memfd, or -1. */
};

void slab_trap(const char *sentence)
{
    fprintf(stderr, "tele: fatal: %s\n", sentence);
    abort();
}

/* Lists of slabs: the newest first. */

static void list_put_first(arena *arena, struct list *list, uint32_t slab)
{
    struct entry *entry = &arena->entries[slab];
    entry->previous = NONE;
    entry->next = list->first;
    if (list->first == NONE) list->last = slab;
    else arena->entries[list->first].previous = slab;
    list->first = slab;
    list->count++;
}

static void list_remove(arena *arena, struct list *list, uint32_t slab)
{
    const struct entry *entry = &arena->entries[slab];
    if (entry->previous == NONE) list->first = entry->next;
    else arena->entries[entry->previous].next = entry->next;
    if (entry->next == NONE) list->last = entry->previous;
    else arena->entries[entry->next].previous = entry->previous;
    list->count--;
}

static uint32_t list_take_first(arena *arena, struct list *list)
{
    uint32_t slab = list->first;
    list_remove(arena, list, slab);
    return slab;
}

/* Creation. */

static size_t whole_pages(size_t bytes) { return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES; }

/* Address space for records and rings; memory is committed as it is used. */
static size_t kept_bytes(size_t slabs_bytes) { return whole_pages(((size_t)256 << 20) + slabs_bytes / 4); }

static int create(arena **arena_out, size_t maximum, bool keeps)
{
    if (maximum < MAXIMUM_LEAST || maximum > MAXIMUM_MOST) return -EINVAL;
    arena *arena = calloc(1, sizeof *arena);
    if (arena == NULL) return -ENOMEM;

    arena->slab_count = (maximum + SLAB_BYTES - 1) / SLAB_BYTES;
    size_t slabs_bytes = arena->slab_count * SLAB_BYTES;
    size_t entries_bytes = whole_pages(arena->slab_count * sizeof *arena->entries);
    size_t references_bytes = whole_pages(arena->slab_count * SLAB_PAGES * sizeof *arena->references);
    size_t counted_bytes = slabs_bytes + entries_bytes + references_bytes;
    arena->mapping_bytes = counted_bytes + (keeps ? kept_bytes(slabs_bytes) : 0);
    arena->descriptor = mapping_descriptor(arena->mapping_bytes);
    arena->slabs = mapping_open(arena->mapping_bytes, arena->descriptor);
    if (arena->slabs == NULL) {
        int error = errno;
        if (arena->descriptor >= 0) close(arena->descriptor);
        free(arena);
        return -error;
    }
    /* Users' bytes do not belong into a core dump. Where the advice is unknown they can only be in it. */
    (void)madvise(arena->slabs, arena->mapping_bytes, MADV_DONTDUMP);

    arena->entries = (struct entry *)(arena->slabs + slabs_bytes);
    arena->references = (uint32_t *)(arena->slabs + slabs_bytes + entries_bytes);
    arena->warm = arena->cold = arena->open = (struct list){ .first = NONE, .last = NONE };
    if (keeps) {
        arena->kept = kept_open(arena->slabs + counted_bytes, kept_bytes(slabs_bytes), arena->slabs, slabs_bytes);
        if (arena->kept == NULL) {
            arena_destroy(arena);
            return -ENOMEM;
        }
    }
    *arena_out = arena;
    return 0;
}

int arena_create(arena **arena_out, size_t maximum) { return create(arena_out, maximum, false); }
int arena_create_kept(arena **arena_out, size_t maximum) { return create(arena_out, maximum, true); }

bool arena_is_kept(const arena *arena) { return arena->kept != NULL; }
struct kept *arena_kept(arena *arena) { return arena->kept; }

void arena_destroy(arena *arena)
{
    if (arena == NULL) return;
    kept_close(arena->kept);
    ASAN_UNPOISON_MEMORY_REGION(arena->slabs, arena->touched_count * SLAB_BYTES);
    munmap(arena->slabs, arena->mapping_bytes);
    if (arena->descriptor >= 0) close(arena->descriptor);
    free(arena);
}

/* Giving out. */

static uint8_t *slab_bytes(const arena *arena, uint32_t slab)
{
    return arena->slabs + (size_t)slab * SLAB_BYTES;
}

static uint32_t slab_take(arena *arena, enum kind kind)
{
    uint32_t slab;
    if (arena->warm.first != NONE) slab = list_take_first(arena, &arena->warm);
    else if (arena->cold.first != NONE) slab = list_take_first(arena, &arena->cold);
    else if (arena->touched_count < arena->slab_count) slab = (uint32_t)arena->touched_count++;
    else return NONE;
    arena->entries[slab].kind = kind;
    return slab;
}

static void slab_give_back(arena *arena, uint32_t slab)
{
    arena->entries[slab].kind = FREE;
    list_put_first(arena, &arena->warm, slab);
}

void *arena_slab(arena *arena)
{
    uint32_t slab = slab_take(arena, WHOLE);
    if (slab == NONE) return NULL;
    arena->references[(size_t)slab * SLAB_PAGES] = 1;
    arena->used_pages += SLAB_PAGES;
    ASAN_UNPOISON_MEMORY_REGION(slab_bytes(arena, slab), SLAB_BYTES);
    return slab_bytes(arena, slab);
}

void *arena_page(arena *arena)
{
    if (arena->open.first == NONE) {
        uint32_t slab = slab_take(arena, DIVIDED);
        if (slab == NONE) return NULL;
        arena->entries[slab].free_pages = UINT64_MAX;
        arena->open_pages += SLAB_PAGES;
        list_put_first(arena, &arena->open, slab);
        ASAN_POISON_MEMORY_REGION(slab_bytes(arena, slab), SLAB_BYTES);
    }
    uint32_t slab = arena->open.first;
    struct entry *entry = &arena->entries[slab];
    size_t page = (size_t)__builtin_ctzll(entry->free_pages);
    entry->free_pages &= entry->free_pages - 1;
    if (entry->free_pages == 0) list_remove(arena, &arena->open, slab);
    arena->references[(size_t)slab * SLAB_PAGES + page] = 1;
    arena->open_pages--;
    arena->used_pages++;
    uint8_t *bytes = slab_bytes(arena, slab) + page * PAGE_BYTES;
    ASAN_UNPOISON_MEMORY_REGION(bytes, PAGE_BYTES);
    return bytes;
}

bool arena_can_give(const arena *arena, size_t slabs, size_t pages)
{
    if (pages > arena->open_pages) slabs += (pages - arena->open_pages + SLAB_PAGES - 1) / SLAB_PAGES;
    return slabs <= arena->warm.count + arena->cold.count + arena->slab_count - arena->touched_count;
}

/* Counting. */

_Static_assert(SLAB_PAGES == 64, "the free pages of a slab are the bits of one word");

/* The number of the page at which the block around `bytes` counts its references. */
static inline size_t block_page(const arena *arena, const void *bytes)
{
    uintptr_t offset = (uintptr_t)bytes - (uintptr_t)arena->slabs;
    MUST(offset < arena->touched_count * SLAB_BYTES, "a pointer that is not into a block of the arena");
    size_t page = offset / PAGE_BYTES;
    return arena->entries[page / SLAB_PAGES].kind == DIVIDED ? page : page / SLAB_PAGES * SLAB_PAGES;
}

static void page_give_back(arena *arena, size_t page)
{
    uint32_t slab = (uint32_t)(page / SLAB_PAGES);
    struct entry *entry = &arena->entries[slab];
    if (entry->free_pages == 0) list_put_first(arena, &arena->open, slab);
    entry->free_pages |= UINT64_C(1) << page % SLAB_PAGES;
    arena->open_pages++;
    if (entry->free_pages != UINT64_MAX) return;
    list_remove(arena, &arena->open, slab);
    arena->open_pages -= SLAB_PAGES;
    slab_give_back(arena, slab);
}

void arena_retain(arena *arena, const void *bytes)
{
    uint32_t *references = &arena->references[block_page(arena, bytes)];
    MUST(*references != 0, "a reference was taken on a block that nobody holds");
    MUST(*references != UINT32_MAX, "too many references on one block");
    ++*references;
}

static inline void give_out_again(arena *arena, uint32_t page)
{
    uint32_t slab = page / SLAB_PAGES;
    if (arena->entries[slab].kind == WHOLE) {
        ASAN_POISON_MEMORY_REGION(slab_bytes(arena, slab), SLAB_BYTES);
        slab_give_back(arena, slab);
    } else {
        ASAN_POISON_MEMORY_REGION(arena->slabs + (size_t)page * PAGE_BYTES, PAGE_BYTES);
        page_give_back(arena, page);
    }
}

void arena_release(arena *arena, const void *bytes)
{
    size_t page = block_page(arena, bytes);
    uint32_t *references = &arena->references[page];
    MUST(*references != 0, "a block was released that nobody holds");
    if (--*references != 0) return;
    arena->used_pages -= arena->entries[page / SLAB_PAGES].kind == WHOLE ? SLAB_PAGES : 1;
    /* What cannot be noted is never given out again. */
    if (arena->kept != NULL) (void)kept_hold_back(arena->kept, (uint32_t)page);
    else give_out_again(arena, (uint32_t)page);
}

void arena_give_out_again(arena *arena, uint32_t page) { give_out_again(arena, page); }

uint32_t arena_references(const arena *arena, const void *bytes)
{
    return arena->references[block_page(arena, bytes)];
}

size_t arena_reach(const arena *arena, const void *bytes)
{
    uintptr_t offset = (uintptr_t)bytes - (uintptr_t)arena->slabs;
    size_t page = block_page(arena, bytes);
    size_t block_bytes = arena->entries[page / SLAB_PAGES].kind == DIVIDED ? PAGE_BYTES : SLAB_BYTES;
    return page * PAGE_BYTES + block_bytes - offset;
}

/* Accounts, and memory back to the kernel. */

size_t arena_used(const arena *arena) { return arena->used_pages * PAGE_BYTES; }

size_t arena_committed(const arena *arena) { return (arena->touched_count - arena->cold.count) * SLAB_BYTES; }

const void *arena_mapping(const arena *arena, size_t *bytes)
{
    *bytes = arena->mapping_bytes;
    return arena->slabs;
}

int arena_descriptor(const arena *arena) { return arena->descriptor; }

void arena_trim(arena *arena, size_t keep)
{
    for (size_t n = 0; n < TRIM_SLABS_PER_CALL && arena->warm.count * SLAB_BYTES > keep; n++) {
        uint32_t slab = arena->warm.last;
        /* MADV_REMOVE punches a hole as fallocate(2) does, also where there is no descriptor. A kernel that
         * cannot leaves the slab as it is: free, warm and still committed. */
        if (madvise(slab_bytes(arena, slab), SLAB_BYTES, MADV_REMOVE) != 0) return;
        list_remove(arena, &arena->warm, slab);
        list_put_first(arena, &arena->cold, slab);
    }
}

/* The checker: walks every slab, so it is for tests. */

static bool list_is_sound(const arena *arena, const struct list *list, enum kind kind)
{
    size_t count = 0;
    uint32_t previous = NONE;
    for (uint32_t slab = list->first; slab != NONE; slab = arena->entries[slab].next) {
        if (slab >= arena->touched_count || ++count > list->count) return false;
        if (arena->entries[slab].previous != previous || arena->entries[slab].kind != kind) return false;
        if (kind == DIVIDED && arena->entries[slab].free_pages == 0) return false;
        previous = slab;
    }
    return count == list->count && list->last == previous;
}

const char *arena_check(const arena *arena)
{
    if (!list_is_sound(arena, &arena->warm, FREE)) return "the list of warm slabs is broken";
    if (!list_is_sound(arena, &arena->cold, FREE)) return "the list of cold slabs is broken";
    if (!list_is_sound(arena, &arena->open, DIVIDED)) return "the list of open slabs is broken";
    size_t free_slabs = 0, open_slabs = 0, free_pages = 0, used_pages = 0;
    for (size_t slab = 0; slab < arena->touched_count; slab++) {
        const struct entry *entry = &arena->entries[slab];
        const uint32_t *references = &arena->references[slab * SLAB_PAGES];
        free_slabs += entry->kind == FREE;
        if (entry->kind == WHOLE) used_pages += SLAB_PAGES;
        if (entry->kind == DIVIDED && entry->free_pages == UINT64_MAX) return "a divided slab without use";
        open_slabs += entry->kind == DIVIDED && entry->free_pages != 0;
        for (size_t page = 0; page < SLAB_PAGES; page++) {
            bool given = entry->kind == DIVIDED ? !(entry->free_pages >> page & 1)
                                                : entry->kind == WHOLE && page == 0;
            if (given != (references[page] != 0)) return "a page's count contradicts its being given out";
            free_pages += entry->kind == DIVIDED && !given;
            used_pages += entry->kind == DIVIDED && given;
        }
    }
    if (free_slabs != arena->warm.count + arena->cold.count) return "a free slab is on no list";
    if (open_slabs != arena->open.count) return "a slab with free pages is on no list";
    if (free_pages != arena->open_pages) return "the account of free pages is wrong";
    if (used_pages != arena->used_pages) return "the account of used pages is wrong";
    return NULL;
}
