/*
 * How bytes get into a queue: copied, by reference, or from another queue.
 *
 * Each append first finds out what it needs, then reserves that, and then cannot fail; so nothing has ever to
 * be undone.
 */
#include "internal.h"

#include <errno.h>
#include <string.h>

enum { COPY_SLAB_BYTES = SLAB_BYTES / 4 };        /* Longer copies go into slabs, shorter ones into pages. */

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* What an append needs. */

struct demand { size_t pieces, slabs, pages; };

static struct seam seam_of(const byte_queue *queue)
{
    if (queue->length == 0) return (struct seam){ 0 };
    const queue_piece *last = piece_at(queue, queue->length - 1);
    if (last->bytes == NULL) return (struct seam){ 0 };
    return (struct seam){ .end = last->bytes + last->count, .room = last->room };
}

static void demand_copy(struct demand *demand, struct seam *seam, size_t count)
{
    uint32_t filled = (uint32_t)least(count, seam->room);
    seam->room -= filled;
    seam->end = NULL;
    count -= filled;
    if (count == 0) return;
    size_t slabs = count / SLAB_BYTES, rest = count % SLAB_BYTES, pages = 0;
    if (rest >= COPY_SLAB_BYTES) slabs++;
    else pages = (rest + PAGE_BYTES - 1) / PAGE_BYTES;
    demand->pieces += slabs + pages;
    demand->slabs += slabs;
    demand->pages += pages;
    seam->room = pages > 0 ? (uint32_t)(pages * PAGE_BYTES - rest) : 0;
}

static int demand_reserve(const struct demand *demand, byte_queue *queue, arena *arena)
{
    if (!arena_can_give(arena, demand->slabs, demand->pages)) return -ENOMEM;
    return ring_reserve(queue, arena, demand->pieces);
}

/* Appending. */

/* Everything is reserved. */
static void copy_reserved(byte_queue *queue, arena *arena, const uint8_t *bytes, size_t count)
{
    if (queue->length > 0) {
        queue_piece *last = piece_at(queue, queue->length - 1);
        uint32_t filled = (uint32_t)least(count, last->room);
        memcpy(last->bytes + last->count, bytes, filled);
        last->count += filled;
        last->room -= filled;
        queue->tail += filled;
        bytes += filled;
        count -= filled;
    }
    while (count > 0) {
        bool in_slab = count >= COPY_SLAB_BYTES;
        uint32_t taken = (uint32_t)least(count, in_slab ? SLAB_BYTES : PAGE_BYTES);
        uint8_t *block = in_slab ? arena_slab(arena) : arena_page(arena);
        MUST(block != NULL, "a copy without a reserved block");
        memcpy(block, bytes, taken);
        piece_push(queue, block, taken, in_slab ? 0 : PAGE_BYTES - taken);
        bytes += taken;
        count -= taken;
    }
}

int queue_append_copy(byte_queue *queue, arena *arena, const void *bytes, size_t count)
{
    if (count == 0) return 0;
    struct demand demand = { 0 };
    struct seam seam = seam_of(queue);
    demand_copy(&demand, &seam, count);
    if (demand_reserve(&demand, queue, arena) != 0) return -ENOMEM;
    copy_reserved(queue, arena, bytes, count);
    return 0;
}

static void merge(byte_queue *queue, uint32_t count, uint32_t room)
{
    queue_piece *last = piece_at(queue, queue->length - 1);
    last->count += count;
    last->room = room;
    queue->tail += count;
}

int queue_append_block(byte_queue *queue, arena *arena, void *bytes, size_t count)
{
    if (count == 0) return 0;
    MUST(count <= arena_reach(arena, bytes), "a range that leaves its block");
    struct seam seam = seam_of(queue);
    if (seam_merges(&seam, arena, bytes)) {
        merge(queue, (uint32_t)count, 0);
        return 0;
    }
    if (ring_reserve(queue, arena, 1) != 0) return -ENOMEM;
    arena_retain(arena, bytes);
    piece_push(queue, bytes, (uint32_t)count, 0);
    return 0;
}

/* Outside. */

int queue_append_outside(byte_queue *queue, arena *arena, uint32_t count)
{
    MUST(count > 0, "an empty piece");
    if (ring_reserve(queue, arena, 1) != 0) return -ENOMEM;
    piece_push(queue, NULL, count, 0);
    queue->outside += count;
    return 0;
}

/* Slabs that are filled one after the other: pieces share them. */
struct filling {
    uint8_t *slab;
    size_t filled;
};

static void bring_in(byte_queue *queue, arena *arena, size_t count, struct filling *filling, queue_source *source,
                     void *context)
{
    while (count > 0) {
        if (filling->slab == NULL || filling->filled == SLAB_BYTES) {
            *filling = (struct filling){ .slab = arena_slab(arena) };
            MUST(filling->slab != NULL, "bytes were brought in without a reserved slab");
        }
        uint8_t *bytes = filling->slab + filling->filled;
        uint32_t taken = (uint32_t)least(count, SLAB_BYTES - filling->filled);
        source(context, bytes, taken);
        struct seam seam = seam_of(queue);
        if (seam_merges(&seam, arena, bytes)) {
            merge(queue, taken, 0);
        } else {
            if (filling->filled > 0) arena_retain(arena, bytes);
            piece_push(queue, bytes, taken, 0);
        }
        filling->filled += taken;
        count -= taken;
    }
}

int queue_bring_in(byte_queue *queue, arena *arena, queue_source *source, void *context)
{
    if (queue->outside == 0) return 0;
    size_t slabs = (queue->outside + SLAB_BYTES - 1) / SLAB_BYTES;
    byte_queue whole = { .head = queue->head, .tail = queue->head };
    /* A piece more for each border between slabs. */
    if (!arena_can_give(arena, slabs, 0) || ring_reserve(&whole, arena, queue->length + slabs) != 0) return -ENOMEM;
    struct filling filling = { 0 };
    for (uint32_t index = 0; index < queue->length; index++) {
        const queue_piece *piece = piece_at(queue, index);
        if (piece->bytes != NULL) piece_push(&whole, piece->bytes, piece->count, piece->room);
        else bring_in(&whole, arena, piece->count, &filling, source, context);
    }
    MUST(whole.tail == queue->tail, "bytes got lost on their way in");
    arena_unkeep(arena, queue->pieces, queue->capacity * sizeof *queue->pieces);
    *queue = whole;
    ring_settle(queue, arena);
    return 0;
}

/* Moving. */

enum way { MERGE, COPY, REFER };

/* How the first `count` bytes of a piece get behind a seam. */
static enum way way_of(const queue_piece *piece, size_t count, const struct seam *seam, const arena *arena,
                       size_t copy_below)
{
    if (seam_merges(seam, arena, piece->bytes)) return MERGE;
    return count < copy_below ? COPY : REFER;
}

/* Goes the way of queue_move in thought only. */
static struct demand demand_of_move(const byte_queue *to, const byte_queue *from, const arena *arena,
                                    size_t count, size_t copy_below)
{
    struct demand demand = { 0 };
    struct seam seam = seam_of(to);
    for (uint32_t index = 0; count > 0; index++) {
        const queue_piece *piece = piece_at(from, index);
        uint32_t moved = (uint32_t)least(count, piece->count);
        enum way way = way_of(piece, moved, &seam, arena, copy_below);
        if (way == COPY) {
            demand_copy(&demand, &seam, moved);
        } else {
            if (way == REFER) demand.pieces++;
            seam.end = piece->bytes + moved;
            seam.room = moved == piece->count ? piece->room : 0;
        }
        count -= moved;
    }
    return demand;
}

/* Moves the first `count` bytes of the oldest piece; everything is reserved. A piece that goes whole takes
 * its reference and its room along; a part leaves both behind. */
static void piece_move(byte_queue *to, byte_queue *from, arena *arena, uint32_t count, size_t copy_below)
{
    const queue_piece piece = *piece_at(from, 0);
    MUST(piece.bytes != NULL, "bytes were moved that lie outside");
    const bool whole = count == piece.count;
    const uint32_t room = whole ? piece.room : 0;
    struct seam seam = seam_of(to);
    enum way way = way_of(&piece, count, &seam, arena, copy_below);
    switch (way) {
    case MERGE: merge(to, count, room); break;
    case COPY:  copy_reserved(to, arena, piece.bytes, count); break;
    case REFER: piece_push(to, piece.bytes, count, room); break;
    }
    if (whole) piece_pop(from);
    else piece_cut(from, count);
    if (whole && way != REFER) arena_release(arena, piece.bytes);
    if (!whole && way == REFER) arena_retain(arena, piece.bytes);
}

int queue_move(byte_queue *to, byte_queue *from, arena *arena, size_t count, size_t copy_below)
{
    MUST(to != from, "a queue was moved to itself");
    MUST(count <= queue_count(from), "more bytes were moved than the queue holds");
    struct demand demand = demand_of_move(to, from, arena, count, copy_below);
    if (!arena_can_give(arena, demand.slabs, demand.pages)) {
        /* Bytes that only change their queue must not stand still because the arena is full: it might be full
         * of them. By reference they need no block. */
        copy_below = 0;
        demand = demand_of_move(to, from, arena, count, copy_below);
    }
    if (demand_reserve(&demand, to, arena) != 0) return -ENOMEM;
    while (count > 0) {
        uint32_t moved = (uint32_t)least(count, piece_at(from, 0)->count);
        piece_move(to, from, arena, moved, copy_below);
        count -= moved;
    }
    ring_settle(from, arena);
    return 0;
}
