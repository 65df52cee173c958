/*
 * Memory that a successor can read when this process has died (docs/internals/outliving.md).
 *
 *     the mapping   | slabs | entries | references | kept area: rings of pieces, records, whoever asks | head |
 *
 * Records are bytes under a number. Their homes in the kept area change in three steps, so that at every instruction all
 * of them are as one commit left them:
 *
 *     put, drop ──▶ journal ──commit: one store──▶ journal, valid ──copied into the homes──▶ journal, empty
 *
 * A reader takes the homes, and over them a journal that is valid (remains.c). What was committed refers to blocks and to
 * kept memory: nothing that is given back is given out again before the next commit.
 */
#include "internal.h"
#include "kept.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { CLASS_LEAST_BITS = 6, CLASSES = 34, JOURNAL_LEAST_BYTES = 4096 };

struct kept {
    struct kept_head *head;
    uint8_t *area;
    size_t area_bytes, area_used;
    void *free[CLASSES];                          /* Memory of 2^(i + CLASS_LEAST_BITS) bytes, each holds the next. */
    struct given { void *memory; uint32_t class; } *given;   /* Given back since the last commit. */
    size_t given_count, given_capacity;
    uint32_t *pages;                              /* Blocks of the arena, likewise. */
    size_t page_count, page_capacity;
    uint32_t *numbers;                            /* Records that are free, and behind them those dropped since the last commit. */
    size_t free_numbers, number_count, number_capacity;
    uint32_t next_number;
    size_t journal_count, journal_capacity;
    bool failed;                                  /* There was no memory: nothing can be promised any more. */
};

/* Memory. */

static uint32_t class_of(size_t bytes)
{
    uint32_t class = 0;
    while (((size_t)1 << (class + CLASS_LEAST_BITS)) < bytes) class++;
    return class;
}

static void *allocate(struct kept *kept, size_t bytes)
{
    uint32_t class = class_of(bytes);
    void *memory = kept->free[class];
    if (memory != NULL) {
        memcpy(&kept->free[class], memory, sizeof memory);
        return memory;
    }
    size_t whole = (size_t)1 << (class + CLASS_LEAST_BITS);
    if (whole > kept->area_bytes - kept->area_used) return NULL;
    memory = kept->area + kept->area_used;
    kept->area_used += whole;
    return memory;
}

/* Makes place for one more. False: out of memory, and then it is never used again. */
static bool grow(void *array, size_t count, size_t *capacity, size_t element_bytes)
{
    if (count < *capacity) return true;
    size_t larger = *capacity ? *capacity * 2 : 64;
    void *memory = realloc(*(void **)array, larger * element_bytes);
    if (memory == NULL) return false;
    *(void **)array = memory;
    *capacity = larger;
    return true;
}

static void give_back(struct kept *kept, void *memory, size_t bytes)
{
    if (!grow(&kept->given, kept->given_count, &kept->given_capacity, sizeof *kept->given)) return;
    kept->given[kept->given_count++] = (struct given){ memory, class_of(bytes) };
}

void *arena_keep(arena *arena, size_t bytes)
{
    struct kept *kept = arena_kept(arena);
    return kept != NULL ? allocate(kept, bytes) : malloc(bytes);
}

void arena_unkeep(arena *arena, void *memory, size_t bytes)
{
    struct kept *kept = arena_kept(arena);
    if (kept == NULL) free(memory);
    else if (memory != NULL) give_back(kept, memory, bytes);
}

bool kept_hold_back(struct kept *kept, uint32_t page)
{
    if (!grow(&kept->pages, kept->page_count, &kept->page_capacity, sizeof *kept->pages)) return false;
    kept->pages[kept->page_count++] = page;
    return true;
}

/* Opening and ending. */

struct kept *kept_open(uint8_t *area, size_t area_bytes, const void *slabs, size_t slabs_bytes)
{
    struct kept *kept = calloc(1, sizeof *kept);
    if (kept == NULL) return NULL;
    kept->area = area;
    kept->area_bytes = area_bytes - sizeof *kept->head;
    kept->head = (struct kept_head *)(area + kept->area_bytes);
    *kept->head = (struct kept_head){
        .version = KEPT_VERSION, .base = (uintptr_t)slabs, .slabs_bytes = slabs_bytes, .area = (uintptr_t)area };
    kept->next_number = 1;
    return kept;
}

void kept_close(struct kept *kept)
{
    if (kept == NULL) return;
    free(kept->given);
    free(kept->pages);
    free(kept->numbers);
    free(kept);
}

void arena_set_root(arena *arena, unsigned which, uint64_t value)
{
    struct kept *kept = arena_kept(arena);
    MUST(kept != NULL && which < KEPT_ROOTS, "a root that there is not");
    kept->head->roots[which] = value;
}

/* Records. */

static bool journal_reserve(struct kept *kept, size_t more)
{
    size_t needed = kept->journal_count + more;
    if (needed <= kept->journal_capacity) return true;
    size_t larger = kept->journal_capacity ? kept->journal_capacity : JOURNAL_LEAST_BYTES;
    while (larger < needed) larger *= 2;
    uint8_t *memory = allocate(kept, larger);
    if (memory == NULL) return false;
    uint8_t *old = (uint8_t *)(uintptr_t)kept->head->journal;
    if (old != NULL) {
        memcpy(memory, old, kept->journal_count);
        give_back(kept, old, kept->journal_capacity);
    }
    kept->head->journal = (uintptr_t)memory;      /* Nothing in it is valid now. */
    kept->journal_capacity = larger;
    return true;
}

static void journal(struct kept *kept, uint32_t record, const void *bytes, size_t count, int32_t length)
{
    size_t whole = sizeof(struct journal_entry) + (count + 7) / 8 * 8;
    if (!journal_reserve(kept, whole)) {
        kept->failed = true;
        return;
    }
    uint8_t *place = (uint8_t *)(uintptr_t)kept->head->journal + kept->journal_count;
    memcpy(place, &(struct journal_entry){ record, length }, sizeof(struct journal_entry));
    if (count > 0) memcpy(place + sizeof(struct journal_entry), bytes, count);
    kept->journal_count += whole;
}

uint32_t record_take(arena *arena)
{
    struct kept *kept = arena_kept(arena);
    if (kept->free_numbers > 0) {
        uint32_t number = kept->numbers[--kept->free_numbers];
        /* Those that were dropped since stand behind the free ones: the last fills the gap. */
        kept->numbers[kept->free_numbers] = kept->numbers[--kept->number_count];
        return number;
    }
    return kept->next_number++;
}

void record_put(arena *arena, uint32_t record, const void *bytes, size_t count)
{
    MUST(record != 0 && count <= RECORD_BYTES_MAXIMUM, "a record that cannot be kept");
    journal(arena_kept(arena), record, bytes, count, (int32_t)count);
}

void record_drop(arena *arena, uint32_t record)
{
    struct kept *kept = arena_kept(arena);
    MUST(record != 0, "a record was dropped that there is not");
    journal(kept, record, NULL, 0, JOURNAL_DROPPED);
    if (grow(&kept->numbers, kept->number_count, &kept->number_capacity, sizeof *kept->numbers))
        kept->numbers[kept->number_count++] = record;
}

static bool directory_reserve(struct kept *kept, uint32_t record)
{
    struct kept_head *head = kept->head;
    if (record < head->records) return true;
    uint64_t records = head->records ? head->records : 256;
    while (records <= record) records *= 2;
    struct directory_entry *old = (struct directory_entry *)(uintptr_t)head->directory;
    struct directory_entry *larger = allocate(kept, records * sizeof *larger);
    if (larger == NULL) return false;
    memset(larger, 0, records * sizeof *larger);
    if (old != NULL) {
        memcpy(larger, old, head->records * sizeof *larger);
        give_back(kept, old, head->records * sizeof *larger);
    }
    head->directory = (uintptr_t)larger;          /* As good as the old one, whatever of this a reader sees. */
    atomic_signal_fence(memory_order_seq_cst);
    head->records = records;
    return true;
}

#ifdef SIMULATION
/* Stores of a commit until the process dies, in a simulation. Below zero: it lives. */
static int stores_left = -1;

void records_die_after(int stores) { stores_left = stores; }

static bool dies_here(void) { return stores_left >= 0 && stores_left-- == 0; }
#else
void records_die_after(int stores) { (void)stores; }

static bool dies_here(void) { return false; }
#endif

/* What a death in here leaves half done is done by the reader from the journal. 0, -ENOMEM, or RECORDS_DIED. */
static int bring_home(struct kept *kept, const uint8_t *place)
{
    struct journal_entry entry;
    memcpy(&entry, place, sizeof entry);
    if (!directory_reserve(kept, entry.record)) return -ENOMEM;
    struct directory_entry *home = (struct directory_entry *)(uintptr_t)kept->head->directory + entry.record;
    if (entry.length == JOURNAL_DROPPED) {
        if (home->capacity > 0) give_back(kept, (void *)(uintptr_t)home->home, home->capacity);
        *home = (struct directory_entry){ 0 };
        return 0;
    }
    uint32_t length = (uint32_t)entry.length;
    if (length > home->capacity) {
        void *memory = allocate(kept, length);
        if (memory == NULL) return -ENOMEM;
        if (home->capacity > 0) give_back(kept, (void *)(uintptr_t)home->home, home->capacity);
        home->home = (uintptr_t)memory;
        home->capacity = (uint32_t)1 << (class_of(length) + CLASS_LEAST_BITS);
    }
    memcpy((void *)(uintptr_t)home->home, place + sizeof entry, length);
    if (dies_here()) return RECORDS_DIED;
    home->length = length;
    home->isThere = 1;
    return 0;
}

static void give_out_again(arena *arena, struct kept *kept)
{
    for (size_t i = 0; i < kept->given_count; i++) {
        struct given given = kept->given[i];
        memcpy(given.memory, &kept->free[given.class], sizeof(void *));
        kept->free[given.class] = given.memory;
    }
    kept->given_count = 0;
    for (size_t i = 0; i < kept->page_count; i++) arena_give_out_again(arena, kept->pages[i]);
    kept->page_count = 0;
    kept->free_numbers = kept->number_count;
}

/* No successor takes this for a whole. This process goes on as one that keeps nothing. */
static int give_up(arena *arena, struct kept *kept)
{
    kept->failed = true;
    kept->head->version = 0;
    atomic_store_explicit(&kept->head->committed, 0, memory_order_release);
    kept->journal_count = 0;
    give_out_again(arena, kept);
    return -ENOMEM;
}

void records_give_up(arena *arena)
{
    arena_kept(arena)->failed = true;
    arena_kept(arena)->head->version = 0;
}

int records_commit(arena *arena, uint64_t mark)
{
    struct kept *kept = arena_kept(arena);
    struct kept_head *head = kept->head;
    if (!kept->failed) journal(kept, 0, &mark, sizeof mark, sizeof mark);
    if (kept->failed) return give_up(arena, kept);
    atomic_signal_fence(memory_order_seq_cst);
    if (dies_here()) return RECORDS_DIED;
    /* The commit. */
    atomic_store_explicit(&head->committed, kept->journal_count, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    if (dies_here()) return RECORDS_DIED;
    const uint8_t *journal = (const uint8_t *)(uintptr_t)head->journal;
    for (size_t place = 0; place < kept->journal_count;) {
        struct journal_entry entry;
        memcpy(&entry, journal + place, sizeof entry);
        int failed = bring_home(kept, journal + place);
        if (failed) return failed == RECORDS_DIED ? failed : give_up(arena, kept);
        if (dies_here()) return RECORDS_DIED;
        place += sizeof entry + (entry.length < 0 ? 0 : ((size_t)entry.length + 7) / 8 * 8);
    }
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&head->committed, 0, memory_order_release);
    kept->journal_count = 0;
    give_out_again(arena, kept);
    return 0;
}

size_t kept_used(arena *arena) { return arena_kept(arena)->area_used; }
