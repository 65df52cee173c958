/* What the files of this room share with each other and with nobody else. */
#ifndef SLAB_INTERNAL_H
#define SLAB_INTERNAL_H

#include "CSlab.h"

enum { SLAB_PAGES = SLAB_BYTES / PAGE_BYTES };

/* Ends the process with a sentence: our own bookkeeping is wrong, and a wrong byte could reach a user. */
_Noreturn void slab_trap(const char *sentence) __attribute__((cold, noinline));

/* Holds in every build. */
#define MUST(condition, sentence) \
    do { if (__builtin_expect(!(condition), 0)) slab_trap(sentence); } while (0)

/* A memfd of so many bytes, or -1 where there can be none: seccomp, descriptors, a limit on file sizes. */
int mapping_descriptor(size_t bytes);

/* Maps so many zero bytes, whole pages, aligned to a slab; `descriptor` may be -1. NULL with errno. */
uint8_t *mapping_open(size_t bytes, int descriptor);

/* How many bytes its block holds from `bytes` on. Traps for a pointer into no block of the arena. */
size_t arena_reach(const arena *arena, const void *bytes);

/* Whether so many slabs and so many pages could be given out now. */
bool arena_can_give(const arena *arena, size_t slabs, size_t pages);

/* An arena begins with what it keeps: NULL, nothing outlives the process. */
struct arena_front { struct kept *kept; };
static inline bool keeps(const arena *arena) { return ((const struct arena_front *)arena)->kept != NULL; }

/* The ring of pieces. */

static inline queue_piece *piece_at(const byte_queue *queue, uint32_t index)
{
    return &queue->pieces[(queue->first + index) & (queue->capacity - 1)];
}

/* Makes place for so many more pieces. 0 or -ENOMEM. */
int ring_reserve(byte_queue *queue, arena *arena, size_t more);

/* After bytes left: an idle queue holds nothing, a calm one not much. */
void ring_settle(byte_queue *queue, arena *arena);

/* Takes over one reference on the block of `bytes`. */
static inline void piece_push(byte_queue *queue, uint8_t *bytes, uint32_t count, uint32_t room)
{
    MUST(queue->length < queue->capacity, "a piece without a reserved place");
    *piece_at(queue, queue->length) =
        (queue_piece){ .start = queue->tail, .bytes = bytes, .count = count, .room = room };
    queue->length++;
    queue->tail += count;
}

/* Forgets the oldest piece, not its reference. */
static inline void piece_pop(byte_queue *queue)
{
    const queue_piece *piece = piece_at(queue, 0);
    queue->popped++;
    queue->head += piece->count;
    if (piece->bytes == NULL) queue->outside -= piece->count;
    queue->first = (queue->first + 1) & (queue->capacity - 1);
    queue->length--;
}

/* Forgets the first bytes of the oldest piece, not all of them. */
static inline void piece_cut(byte_queue *queue, uint32_t count)
{
    queue_piece *piece = piece_at(queue, 0);
    piece->start += count;
    if (piece->bytes != NULL) piece->bytes += count;
    else queue->outside -= count;
    piece->count -= count;
    queue->head += count;
}

/* The end of a queue as it is or will be: behind its newest byte (NULL: where no range could follow), and how
 * much room is there. */
struct seam {
    const uint8_t *end;                       /* NULL also behind bytes that lie outside. */
    uint32_t room;
};

/* Whether a range can become part of the piece before the seam: it follows directly, within the same block.
 * Never across room, which is no part of any other range. */
bool seam_merges(const struct seam *seam, const arena *arena, const uint8_t *bytes);

#endif
