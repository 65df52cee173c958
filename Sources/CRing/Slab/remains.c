/*
 * Reads what a dead process kept. Whoever wrote it may have been broken, so nothing is believed: every address is looked
 * up in the mapping, every length is judged, and what does not fit is not there.
 */
#include "kept.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct remains {
    const uint8_t *memory;
    size_t bytes;
    struct kept_head head;
    uint64_t committed;
    uint32_t *latest;                             /* By record: its last entry in the valid journal, + 1, in units of eight bytes. */
    uint32_t record_count;
};

const void *remains_find(const remains *remains, uint64_t address, size_t bytes)
{
    uint64_t offset = address - remains->head.base;
    if (offset > remains->bytes || bytes > remains->bytes - offset) return NULL;
    return remains->memory + offset;
}

static bool index_journal(remains *remains, const uint8_t *journal)
{
    uint64_t count = remains->head.records;
    for (int pass = 0; pass < 2; pass++) {
        for (uint64_t place = 0; place < remains->committed;) {
            struct journal_entry entry;
            if (remains->committed - place < sizeof entry) return false;
            memcpy(&entry, journal + place, sizeof entry);
            size_t whole = entry.length == JOURNAL_DROPPED ? 0 : ((size_t)entry.length + 7) / 8 * 8;
            if (entry.length < JOURNAL_DROPPED || whole > remains->committed - place - sizeof entry) return false;
            if (pass == 0 && entry.record >= count) count = (uint64_t)entry.record + 1;
            if (pass == 1) remains->latest[entry.record] = (uint32_t)(place / 8 + 1);
            place += sizeof entry + whole;
        }
        if (pass == 1) break;
        if (count > RECORDS_MAXIMUM) return false;
        remains->record_count = (uint32_t)count;
        remains->latest = calloc(count + 1, sizeof *remains->latest);
        if (remains->latest == NULL) return false;
    }
    return true;
}

int remains_open(remains **remains_out, const void *memory, size_t bytes)
{
    if (bytes < sizeof(struct kept_head) || bytes % 8 != 0) return -EINVAL;
    remains *opened = calloc(1, sizeof *opened);
    if (opened == NULL) return -ENOMEM;
    opened->memory = memory;
    opened->bytes = bytes;
    memcpy(&opened->head, opened->memory + bytes - sizeof opened->head, sizeof opened->head);
    const struct kept_head *head = &opened->head;
    opened->committed = atomic_load_explicit(&head->committed, memory_order_relaxed);
    const uint8_t *journal = remains_find(opened, head->journal, opened->committed);
    bool fits = head->version == KEPT_VERSION && head->records <= RECORDS_MAXIMUM && journal != NULL
             && opened->committed / 8 < UINT32_MAX
             && (head->records == 0
                 || remains_find(opened, head->directory, head->records * sizeof(struct directory_entry)) != NULL);
    if (!fits || !index_journal(opened, journal)) {
        remains_close(opened);
        return -EINVAL;
    }
    *remains_out = opened;
    return 0;
}

void remains_close(remains *remains)
{
    if (remains == NULL) return;
    free(remains->latest);
    free(remains);
}

uint64_t remains_root(const remains *remains, unsigned which) { return remains->head.roots[which]; }

size_t remains_bytes(const remains *remains) { return remains->bytes; }

uint32_t remains_count(const remains *remains) { return remains->record_count; }

const void *remains_record(const remains *remains, uint32_t record, size_t *count)
{
    *count = 0;
    if (record >= remains->record_count) return NULL;
    if (remains->latest[record] > 0) {
        const uint8_t *place = (const uint8_t *)remains_find(remains, remains->head.journal, remains->committed)
                             + (size_t)(remains->latest[record] - 1) * 8;
        struct journal_entry entry;
        memcpy(&entry, place, sizeof entry);
        if (entry.length == JOURNAL_DROPPED) return NULL;
        *count = (size_t)entry.length;
        return place + sizeof entry;
    }
    if (record >= remains->head.records) return NULL;
    struct directory_entry home;
    const uint8_t *directory =
        remains_find(remains, remains->head.directory, remains->head.records * sizeof home);
    memcpy(&home, directory + record * sizeof home, sizeof home);
    if (!home.isThere || home.length > RECORD_BYTES_MAXIMUM) return NULL;
    *count = home.length;
    return remains_find(remains, home.home, home.length);
}

/* Where a byte of a piece lies is `bytes - start + position`, however much of the piece has been cut off or added since. */
int remains_copy_queue(const remains *remains, const queue_words *words, void *memory, remains_source *source, void *context)
{
    uint64_t left = words->tail - words->head, position = words->head;
    if (left == 0) return 0;
    if (words->capacity == 0 || (words->capacity & (words->capacity - 1)) != 0 || words->length > words->capacity) return -EINVAL;
    const uint8_t *ring = remains_find(remains, words->pieces, (size_t)words->capacity * sizeof(queue_piece));
    if (ring == NULL) return -EINVAL;
    for (uint32_t index = 0; index < words->length && left > 0; index++) {
        queue_piece piece;
        memcpy(&piece, ring + (size_t)((words->first + index) & (words->capacity - 1)) * sizeof piece, sizeof piece);
        uint64_t end = piece.start + piece.count - position;
        if (end == 0 || (piece.bytes != NULL && end > SLAB_BYTES)) return -EINVAL;
        size_t taken = end < left ? (size_t)end : (size_t)left;
        if (piece.bytes == NULL) {
            if (source == NULL || !source(context, memory, taken)) return -EINVAL;
        } else {
            const void *bytes = remains_find(remains, (uintptr_t)piece.bytes - (piece.start - position), taken);
            if (bytes == NULL) return -EINVAL;
            memcpy(memory, bytes, taken);
        }
        memory = (uint8_t *)memory + taken;
        position += taken;
        left -= taken;
    }
    return left == 0 ? 0 : -EINVAL;
}
