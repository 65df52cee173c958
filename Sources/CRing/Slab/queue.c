/*
 * The byte queue: a ring of pieces over blocks of an arena.
 *
 *     [ page, 300 bytes ][ slab, 80 000 bytes ][ page, 1200 bytes | room 2896 ]
 *     head                                                        tail
 *
 * Always: the pieces are not empty, lie without gaps between head and tail, and each that lies here holds one
 * reference on its block. The bytes of a piece's room belong to no piece anywhere and to no other room: room is handed on
 * with its piece, never doubled. append.c puts bytes in; here they are read and forgotten.
 */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CAPACITY_LEAST = 4 };

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* The ring of pieces. */

static void ring_free(byte_queue *queue, arena *arena)
{
    if (keeps(arena)) arena_unkeep(arena, queue->pieces, queue->capacity * sizeof *queue->pieces);
    else free(queue->pieces);
}

static int ring_resize(byte_queue *queue, arena *arena, uint32_t capacity)
{
    size_t bytes = capacity * sizeof(queue_piece);
    queue_piece *pieces = keeps(arena) ? arena_keep(arena, bytes) : malloc(bytes);
    if (pieces == NULL) return -ENOMEM;
    if (queue->length > 0) {
        uint32_t unwrapped = (uint32_t)least(queue->length, queue->capacity - queue->first);
        memcpy(pieces, queue->pieces + queue->first, unwrapped * sizeof *pieces);
        memcpy(pieces + unwrapped, queue->pieces, (queue->length - unwrapped) * sizeof *pieces);
    }
    ring_free(queue, arena);
    queue->pieces = pieces;
    queue->capacity = capacity;
    queue->first = queue->popped = 0;
    return 0;
}

int ring_reserve(byte_queue *queue, arena *arena, size_t more)
{
    size_t needed = queue->length + more;
    if (needed + queue->popped <= queue->capacity) return 0;
    if (keeps(arena)) needed += queue->popped;
    else queue->popped = 0;
    if (needed <= queue->capacity) return 0;
    if (needed > (size_t)1 << 31) return -ENOMEM;
    size_t capacity = queue->capacity > 0 ? queue->capacity : CAPACITY_LEAST;
    while (capacity < needed) capacity *= 2;
    return ring_resize(queue, arena, (uint32_t)capacity);
}

void ring_settle(byte_queue *queue, arena *arena)
{
    if (queue->length == 0) {
        ring_free(queue, arena);
        queue->pieces = NULL;
        queue->capacity = queue->first = queue->popped = 0;
    } else if (queue->capacity > 8 * CAPACITY_LEAST && queue->length <= queue->capacity / 8) {
        (void)ring_resize(queue, arena, queue->capacity / 4);    /* Without memory for a smaller ring, keep it. */
    }
}

void queue_init(byte_queue *queue, uint64_t position)
{
    *queue = (byte_queue){ .head = position, .tail = position };
}

void queue_clear(byte_queue *queue, arena *arena)
{
    queue_release(queue, arena, queue->tail);
}

/* Reading and forgetting. */

/* The piece that holds the byte at `position`, head ≤ position < tail. */
static uint32_t piece_find(const byte_queue *queue, uint64_t position)
{
    uint32_t low = 0, high = queue->length;           /* pieces[low].start ≤ position < pieces[high].start */
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        /* Counted from the head, so that positions may wrap. */
        if (piece_at(queue, middle)->start - queue->head <= position - queue->head) low = middle;
        else high = middle;
    }
    return low;
}

unsigned queue_gather(const byte_queue *queue, uint64_t position, size_t limit,
                      struct iovec *iovecs, unsigned maximum, size_t *gathered)
{
    MUST(position - queue->head <= queue_count(queue), "bytes were gathered that the queue does not hold");
    size_t wanted = least(limit, (size_t)(queue->tail - position)), total = 0;
    unsigned count = 0;
    uint32_t index = wanted > 0 ? piece_find(queue, position) : 0;
    while (total < wanted && count < maximum) {
        const queue_piece *piece = piece_at(queue, index++);
        uint32_t skipped = (uint32_t)(position + total - piece->start);
        size_t taken = least(piece->count - skipped, wanted - total);
        MUST(piece->bytes != NULL, "bytes were gathered that lie outside");
        iovecs[count++] = (struct iovec){ .iov_base = piece->bytes + skipped, .iov_len = taken };
        total += taken;
    }
    *gathered = total;
    return count;
}

void queue_release(byte_queue *queue, arena *arena, uint64_t position)
{
    size_t count = (size_t)(position - queue->head);
    MUST(count <= queue_count(queue), "bytes were released that the queue does not hold");
    while (count > 0) {
        const queue_piece *piece = piece_at(queue, 0);
        if (count < piece->count) {
            piece_cut(queue, (uint32_t)count);
            break;
        }
        count -= piece->count;
        if (piece->bytes != NULL) arena_release(arena, piece->bytes);
        piece_pop(queue);
    }
    ring_settle(queue, arena);
}

bool seam_merges(const struct seam *seam, const arena *arena, const uint8_t *bytes)
{
    if (seam->room > 0 || seam->end != bytes) return false;
    if ((uintptr_t)bytes % PAGE_BYTES != 0) return true;          /* Only there could a block begin. */
    size_t reach = arena_reach(arena, bytes);
    return reach != PAGE_BYTES && reach != SLAB_BYTES;
}

/* The checker. */

const char *queue_check(const byte_queue *queue, const arena *arena)
{
    if (queue->capacity & (queue->capacity - 1)) return "the capacity is no power of two";
    if ((queue->capacity == 0) != (queue->pieces == NULL)) return "the capacity contradicts the ring";
    if ((queue->length == 0) != (queue->capacity == 0)) return "an empty queue owns a ring";
    if (queue->length > queue->capacity || (queue->capacity > 0 && queue->first >= queue->capacity))
        return "the ring points outside itself";
    uint64_t position = queue->head;
    size_t outside = 0;
    struct seam seam = { 0 };
    for (uint32_t index = 0; index < queue->length; index++) {
        const queue_piece *piece = piece_at(queue, index);
        if (piece->start != position) return "a gap between two pieces";
        if (piece->count == 0) return "an empty piece";
        position += piece->count;
        if (piece->bytes == NULL) {
            if (piece->room > 0) return "room behind a piece that lies outside";
            outside += piece->count;
            seam = (struct seam){ 0 };
            continue;
        }
        if (arena_references(arena, piece->bytes) == 0) return "a piece of a dead block";
        size_t reach = arena_reach(arena, piece->bytes);
        if (piece->count > reach) return "a piece that leaves its block";
        if (piece->room > 0 && (reach > PAGE_BYTES || piece->count + piece->room != reach))
            return "room that does not end with a page";
        if (seam_merges(&seam, arena, piece->bytes)) return "two pieces that should be one";
        seam = (struct seam){ .end = piece->bytes + piece->count, .room = piece->room };
    }
    if (outside != queue->outside) return "the bytes outside are miscounted";
    return position == queue->tail ? NULL : "the pieces do not end at the tail";
}
