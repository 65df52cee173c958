/*
 * Memory for bytes on their way: an arena of slabs in one mapping, reference counts, and byte queues over it.
 *
 * The arena is one memfd mapping, so that a later process could be handed all bytes in flight. It gives out blocks of
 * two sizes: slabs (256 KiB, filled by large receives) and pages (4 KiB, for small bytes that must wait). A block lives
 * while somebody holds a reference. One thread owns an arena and its queues.
 *
 * A byte queue is a FIFO of bytes with absolute 64-bit positions [head, tail): a ring of pieces, each a range of a
 * block. Large runs are referenced where they lie (zero-copy), small ones are copied densely into pages. It holds the
 * bytes that wait for a carrier, the bytes a carrier may have to retransmit, and the bytes that wait for a reader.
 * An empty queue owns no memory beyond its struct.
 *
 * Some pieces may lie outside: the queue knows their place and length, the owner keeps their bytes (in pipes of the
 * kernel), in the same order, and brings them in before anybody reads them.
 */
#ifndef CSLAB_H
#define CSLAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum { SLAB_BYTES = 256 * 1024, PAGE_BYTES = 4096 };

typedef struct arena arena;

/* Reserves address space for `maximum` bytes (rounded up to slabs, 1 MiB…64 GiB); memory is committed as it is used.
 * 0 or -errno. */
int   arena_create(arena **arena_out, size_t maximum);
/* The same, with memory that a successor can read when this process has died (see below). */
int   arena_create_kept(arena **arena_out, size_t maximum);
void  arena_destroy(arena *arena);
/* A block with one reference, or NULL when `maximum` is in use. Contents are undefined. */
void *arena_slab(arena *arena);
void *arena_page(arena *arena);
/* `bytes` points anywhere into a live block. Releasing the last reference gives the block back. */
void  arena_retain(arena *arena, const void *bytes);
void  arena_release(arena *arena, const void *bytes);
uint32_t arena_references(const arena *arena, const void *bytes);
/* Bytes of blocks that are given out; bytes of the mapping that may be backed by memory (in slabs: all that were
 * used since the last trim). */
size_t arena_used(const arena *arena);
size_t arena_committed(const arena *arena);
/* Gives free slabs beyond `keep` bytes back to the kernel. Bounded work (4 MiB per call); call when idle. */
void  arena_trim(arena *arena, size_t keep);
/* The whole mapping, as a successor finds it. */
const void *arena_mapping(const arena *arena, size_t *bytes);
/* The memfd, which stays the arena's, or -1 where none could be made. */
int   arena_descriptor(const arena *arena);
/* NULL, or a sentence about the invariant that does not hold. Walks every used slab: for tests and debug builds. */
const char *arena_check(const arena *arena);

typedef struct {
    uint64_t start;            /* Absolute position of the piece's first byte. */
    uint8_t *bytes;            /* In a block on which the piece holds one reference. NULL: outside. */
    uint32_t count;
    uint32_t room;             /* Bytes behind the piece, in its page, that only this queue may fill. 0 for slabs. */
} queue_piece;

typedef struct {
    queue_piece *pieces;       /* A ring of `capacity` (power of two, or 0) pieces. */
    uint32_t capacity, first, length;
    uint32_t popped;           /* Kept: places before `first` that the last commit still names. */
    uint64_t head, tail;       /* Positions of the oldest byte and behind the newest. */
    size_t outside;            /* Bytes of pieces that lie outside. */
} byte_queue;

/* An empty queue whose next byte has the given position. */
void queue_init(byte_queue *queue, uint64_t position);
/* Releases everything; the queue is then empty at its tail. */
void queue_clear(byte_queue *queue, arena *arena);
/* 0, or -ENOMEM (then nothing was appended). */
int  queue_append_copy(byte_queue *queue, arena *arena, const void *bytes, size_t count);
/* Appends a range of a live block by reference: takes one reference of its own. Merges with the last piece when the
 * range follows it directly in the same block. 0 or -ENOMEM. */
int  queue_append_block(byte_queue *queue, arena *arena, void *bytes, size_t count);
/* Moves the first `count` bytes of `from` to the end of `to`: pieces shorter than `copy_below` are copied, longer ones
 * handed over by reference. When the arena has no block left for the copies, all goes by reference, so a full arena
 * stops no queue. 0, or -ENOMEM (then nothing moved). count ≤ tail - head, to ≠ from. */
int  queue_move(byte_queue *to, byte_queue *from, arena *arena, size_t count, size_t copy_below);
/* Appends bytes that lie outside, as one piece. 0 or -ENOMEM. */
int  queue_append_outside(byte_queue *queue, arena *arena, uint32_t count);
/* Fills `memory` with the next `count` bytes that lie outside. */
typedef void queue_source(void *context, void *memory, size_t count);
/* Brings all of them in, oldest first. 0, or -ENOMEM (then nothing was asked for). */
int  queue_bring_in(byte_queue *queue, arena *arena, queue_source *source, void *context);
/* Fills iovecs with the bytes at [position, min(position + limit, tail)), head ≤ position ≤ tail. Returns how many;
 * `gathered` receives the byte count. None of them may lie outside. O(log pieces) + O(iovecs). */
unsigned queue_gather(const byte_queue *queue, uint64_t position, size_t limit,
                      struct iovec *iovecs, unsigned maximum, size_t *gathered);
/* Forgets every byte before `position` (head ≤ position ≤ tail). */
void queue_release(byte_queue *queue, arena *arena, uint64_t position);
/* NULL, or a sentence about the invariant that does not hold. O(pieces): for tests and debug builds. */
const char *queue_check(const byte_queue *queue, const arena *arena);
static inline size_t queue_count(const byte_queue *queue) { return (size_t)(queue->tail - queue->head); }

/*
 * Kept memory: records, each bytes under a number, that change together at a commit. A process that dies at any instruction
 * leaves all of them as the last commit made them, with the bytes of all queues that they describe: what was given back
 * since is not given out again before the next commit.
 */

enum { KEPT_ROOTS = 8, RECORDS_DIED = 1, RECORD_BYTES_MAXIMUM = 1 << 24, RECORDS_MAXIMUM = 1 << 26 };

bool  arena_is_kept(const arena *arena);
/* Memory that is found again by its address. NULL: none is left. Contents are undefined. Without kept memory it is the heap's. */
void *arena_keep(arena *arena, size_t bytes);
void  arena_unkeep(arena *arena, void *memory, size_t bytes);
/* A word that a reader finds by its number, from now on. */
void  arena_set_root(arena *arena, unsigned which, uint64_t value);
/* The number of a new record, from 1 on. Record 0 is the mark of the last commit. */
uint32_t record_take(arena *arena);
/* With the next commit it is these bytes; it is no more, and its number may be taken again after that. */
void  record_put(arena *arena, uint32_t record, const void *bytes, size_t count);
void  record_drop(arena *arena, uint32_t record);
/* All that was put and dropped since the last one holds from here on. -ENOMEM: nothing is kept any more, for good; what was given back is
 * given out again all the same, so it is called as before. */
int   records_commit(arena *arena, uint64_t mark);
/* For simulations: the process dies behind so many stores of the next commits, which then return RECORDS_DIED; below zero: it lives. Without
 * SIMULATION nothing happens. */
void  records_die_after(int stores);
/* Nothing is kept any more: a successor finds no whole. */
void  records_give_up(arena *arena);
/* Bytes of kept memory that were ever used. */
size_t kept_used(arena *arena);

/* What a record says of a queue. */
typedef struct {
    uint64_t pieces, head, tail;
    uint32_t capacity, first, length;
    uint32_t outside;          /* Bytes that lie outside. */
} queue_words;
/* Describes the queue as it is; to be committed before it changes. */
static inline queue_words queue_describe(byte_queue *queue) {
    queue->popped = 0;
    return (queue_words){ .pieces = (uintptr_t)queue->pieces, .head = queue->head, .tail = queue->tail,
                          .capacity = queue->capacity, .first = queue->first, .length = queue->length,
                          .outside = (uint32_t)queue->outside };
}

/* What a process left that has died: its mapping, which nobody changes any more. */
typedef struct remains remains;
/* Reads `memory` until it is closed. 0, or -EINVAL: it is no whole. */
int   remains_open(remains **remains_out, const void *memory, size_t bytes);
void  remains_close(remains *remains);
uint64_t remains_root(const remains *remains, unsigned which);
/* Of the mapping. */
size_t remains_bytes(const remains *remains);
/* Records have numbers below. */
uint32_t remains_count(const remains *remains);
/* NULL: there is none. */
const void *remains_record(const remains *remains, uint32_t record, size_t *count);
/* So many bytes of the mapping, by their address in the process that died. NULL: they are not there. */
const void *remains_find(const remains *remains, uint64_t address, size_t bytes);
/* All bytes of a queue, `tail - head` of them; `source` fills in what lies outside, oldest first, or says false. 0, or -EINVAL: they are
 * not there. */
typedef bool remains_source(void *context, void *memory, size_t count);
int   remains_copy_queue(const remains *remains, const queue_words *words, void *memory, remains_source *source, void *context);

#endif
