/* The operation table: slots that never move, rows of descriptors, and the free lists of message blocks. */
#include "ring_internal.h"

#include <stdlib.h>
#include <string.h>

/* Iovecs per block. Most sends are a header and a body or two; an address fits the smallest. */
static const unsigned message_iovecs[MESSAGE_SIZE_CLASSES] = { 8, 64, RING_IOVECS_MAXIMUM };

_Static_assert(8 * sizeof(struct iovec) >= sizeof(struct sockaddr_storage), "an address fits every block");

void table_open(operation_table *table) {
    *table = (operation_table){ .free_head = RING_NONE };
}

void table_close(operation_table *table) {
    for (uint32_t i = 0; i < table->chunk_count; i++) {
        for (uint32_t j = 0; j < OPERATION_CHUNK; j++) {
            operation *operation = &table->chunks[i][j];
            bool has_message = operation->kind == OPERATION_SEND || operation->kind == OPERATION_CONNECT;
            if (has_message) free(operation->message);   /* NULL unless in flight. */
        }
        if (!table->trace) free(table->chunks[i]);
    }
    free(table->chunks);
    free(table->descriptors);
    for (unsigned class = 0; class < MESSAGE_SIZE_CLASSES; class++) {
        for (message *block = table->free_messages[class], *next; block; block = next) {
            next = block->next;
            free(block);
        }
    }
}

static bool add_chunk(operation_table *table, ring *ring) {
    if (table->chunk_count == table->chunk_capacity) {
        uint32_t capacity = table->chunk_capacity ? table->chunk_capacity * 2 : 16;
        operation **chunks = realloc(table->chunks, capacity * sizeof *chunks);
        if (!chunks) return false;
        table->chunks = chunks;
        table->chunk_capacity = capacity;
    }
    trace *trace = table->trace;
    if (trace && table->chunk_count == TRACE_CHUNKS) return false;
    operation *chunk = trace ? ring->keep(ring->keep_context, OPERATION_CHUNK * sizeof *chunk) : malloc(OPERATION_CHUNK * sizeof *chunk);
    if (!chunk) return false;
    memset(chunk, 0, OPERATION_CHUNK * sizeof *chunk);
    if (trace) {
        trace->chunks[table->chunk_count] = (uintptr_t)chunk;
        trace->chunk_count = table->chunk_count + 1;
    }
    uint32_t first = table->chunk_count << OPERATION_CHUNK_BITS;
    table->chunks[table->chunk_count++] = chunk;
    for (uint32_t i = OPERATION_CHUNK; i-- > 0;) {
        chunk[i].next = table->free_head;
        table->free_head = first + i;
    }
    return true;
}

uint32_t table_take(ring *ring) {
    operation_table *table = &ring->table;
    if (table->free_head == RING_NONE && !add_chunk(table, ring)) return RING_NONE;
    uint32_t slot = table->free_head;
    table->free_head = table_at(table, slot)->next;
    table->in_use++;
    return slot;
}

void table_give_back(operation_table *table, uint32_t slot) {
    operation *operation = table_at(table, slot);
    operation->generation++;
    operation->next = table->free_head;
    table->free_head = slot;
    table->in_use--;
}

descriptor *table_descriptor(operation_table *table, int fd) {
    if ((uint32_t)fd >= table->descriptor_count) {
        uint32_t count = table->descriptor_count ? table->descriptor_count : 64;
        while (count <= (uint32_t)fd) count *= 2;
        descriptor *rows = realloc(table->descriptors, count * sizeof *rows);
        if (!rows) return NULL;
        for (uint32_t i = table->descriptor_count; i < count; i++) {
            rows[i] = (descriptor){ .slots = { RING_NONE, RING_NONE, RING_NONE } };
        }
        table->descriptors = rows;
        table->descriptor_count = count;
    }
    return &table->descriptors[fd];
}

message *table_take_message(operation_table *table, unsigned iovec_count) {
    unsigned class = 0;
    while (message_iovecs[class] < iovec_count) class++;
    message *block = table->free_messages[class];
    if (block) {
        table->free_messages[class] = block->next;
    } else {
        block = malloc(offsetof(message, iovecs) + message_iovecs[class] * sizeof(struct iovec));
        if (!block) return NULL;
        block->size_class = class;
    }
    return block;
}

void table_give_back_message(operation_table *table, message *message) {
    message->next = table->free_messages[message->size_class];
    table->free_messages[message->size_class] = message;
}

void list_append(const operation_table *table, operation_list *list, uint32_t slot) {
    table_at(table, slot)->next = RING_NONE;
    if (list->head == RING_NONE) {
        list->head = slot;
    } else {
        table_at(table, list->tail)->next = slot;
    }
    list->tail = slot;
}

uint32_t list_take(const operation_table *table, operation_list *list) {
    uint32_t slot = list->head;
    if (slot != RING_NONE) list->head = table_at(table, slot)->next;
    return slot;
}
