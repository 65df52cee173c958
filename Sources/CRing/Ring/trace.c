/* What a dead process's operations came to, of which its last commit says nothing. */
#include "ring_internal.h"

#include <liburing.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

/* Writing */

log_entry *log_begin(ring *ring, uint32_t slot) {
    static log_entry nowhere;
    trace *trace = ring->table.trace;
    if (!trace) return &nowhere;
    if (trace->log_tail - ring->handed_mark >= LOG_ENTRIES) return NULL;
    log_entry *entry = (log_entry *)(uintptr_t)trace->log + (trace->log_tail & (LOG_ENTRIES - 1));
    /* The buffer that the drivers with a log will take. */
    const receive_pool *pool = &ring->pool;
    bool takes_buffer = table_at(&ring->table, slot)->kind == OPERATION_RECEIVE_POOLED && pool->free_count > 0;
    *entry = (log_entry){ .name = operation_name(ring, slot), .result = RING_UNKNOWN,
                          .buffer = takes_buffer ? pool->free_stack[pool->free_count - 1] + 1u : 0 };
    atomic_signal_fence(memory_order_seq_cst);
    trace->log_tail++;
    atomic_signal_fence(memory_order_seq_cst);
    return entry;
}

void log_end(ring *ring, log_entry *entry, int32_t result, bool blocked) {
    trace *trace = ring->table.trace;
    if (!trace) return;
    atomic_signal_fence(memory_order_seq_cst);
    if (blocked) {
        trace->log_tail--;
        return;
    }
    const operation *operation = table_at(&ring->table, (uint32_t)entry->name);
    entry->buffer = operation->flags & OPERATION_HAS_BUFFER ? operation->buffer + 1u : 0;
    atomic_signal_fence(memory_order_seq_cst);
    entry->result = result;
    ring->ended_mark = trace->log_tail;
}

/* Reading */

typedef struct {
    trace        trace;
    ring_finder *find;
    void        *context;
    void       (*tell)(void *context, const ring_ended *ended);
} reading;

static bool find_operation(const reading *reading, uint64_t name, operation *found) {
    uint32_t chunk = (uint32_t)name >> OPERATION_CHUNK_BITS;
    if (chunk >= reading->trace.chunk_count) return false;
    const uint8_t *place = reading->find(reading->context, reading->trace.chunks[chunk], OPERATION_CHUNK * sizeof *found);
    if (!place) return false;
    memcpy(found, place + ((uint32_t)name & (OPERATION_CHUNK - 1)) * sizeof *found, sizeof *found);
    return found->generation == name >> 32;
}

/* The process would have gone on as if it had not been tried. */
static bool means_nothing(int32_t result) {
    return result == -ECANCELED || result == -EINTR || result == -EAGAIN || result == -ENOBUFS || result == -ECONNABORTED;
}

static void tell(const reading *reading, uint64_t name, int32_t result, uint32_t buffer) {
    operation operation;
    if (means_nothing(result) || !find_operation(reading, name, &operation) || operation.is_forgotten) return;
    ring_ended ended = { .token = operation.token, .fd = operation.fd, .result = result };
    switch ((operation_kind)operation.kind) {
    case OPERATION_ACCEPT: ended.kind = RING_ENDED_ACCEPT; break;
    case OPERATION_SEND: ended.kind = RING_ENDED_SEND; break;
    case OPERATION_RECEIVE:
        ended.kind = RING_ENDED_RECEIVE;
        ended.memory = (uintptr_t)operation.memory;
        break;
    case OPERATION_RECEIVE_POOLED:
        ended.kind = RING_ENDED_RECEIVE;
        if (buffer > 0) ended.memory = reading->trace.pool + (uint64_t)(buffer - 1) * reading->trace.pool_bytes;
        break;
    default: break;
    }
    reading->tell(reading->context, &ended);
}

static int read_log(const reading *reading, uint32_t mark) {
    uint32_t count = reading->trace.log_tail - mark;
    const log_entry *log = reading->find(reading->context, reading->trace.log, LOG_ENTRIES * sizeof *log);
    if (!log || count > LOG_ENTRIES) return -EINVAL;
    for (uint32_t i = 0; i < count; i++) {
        const log_entry *entry = &log[(mark + i) & (LOG_ENTRIES - 1)];
        tell(reading, entry->name, entry->result, entry->buffer);
    }
    return 0;
}

static bool names_an_operation(uint64_t name) { return (uint32_t)name < TRACE_CHUNKS << OPERATION_CHUNK_BITS; }

/* The ring lives on while its descriptor is open. */
static int read_kernel(const reading *reading, uint32_t mark) {
    const trace *trace = &reading->trace;
    if (trace->bytes < trace->entries || trace->bytes > 64u << 20) return -EINVAL;
    uint8_t *memory = mmap(NULL, trace->bytes, PROT_READ, MAP_SHARED, trace->ring_fd, IORING_OFF_CQ_RING);
    if (memory == MAP_FAILED) return -errno;
    uint32_t offsets[] = { trace->head, trace->tail, trace->mask }, words[3];
    int error = 0;
    for (unsigned i = 0; i < 3 && !error; i++) {
        if (offsets[i] > trace->bytes - sizeof words[i]) error = -EINVAL;
        else memcpy(&words[i], memory + offsets[i], sizeof words[i]);
    }
    uint32_t size = error ? 0 : words[2] + 1;
    if (!error && (size == 0 || (uint64_t)size * sizeof(struct io_uring_cqe) > trace->bytes - trace->entries)) error = -EINVAL;
    if (!error) {
        /* What the dead process let the kernel overwrite was committed, or nothing. */
        if ((int32_t)(words[0] - mark) > 0) mark = words[0];
        uint32_t count = words[1] - mark;
        if (count > size) error = -EINVAL;
        for (uint32_t i = 0; i < count && !error; i++) {
            struct io_uring_cqe completion;
            memcpy(&completion, memory + trace->entries + (size_t)((mark + i) & words[2]) * sizeof completion, sizeof completion);
            uint32_t buffer = completion.flags & IORING_CQE_F_BUFFER ? (completion.flags >> IORING_CQE_BUFFER_SHIFT) + 1 : 0;
            if (names_an_operation(completion.user_data)) tell(reading, completion.user_data, completion.res, buffer);
        }
    }
    munmap(memory, trace->bytes);
    return error;
}

int ring_ended_since(uint64_t trace_address, uint32_t mark, ring_finder *find, void *context,
                     void (*tell)(void *context, const ring_ended *ended)) {
    reading reading = { .find = find, .context = context, .tell = tell };
    const void *place = find(context, trace_address, sizeof reading.trace);
    if (!place) return -EINVAL;
    memcpy(&reading.trace, place, sizeof reading.trace);
    if (reading.trace.chunk_count > TRACE_CHUNKS || reading.trace.pool_bytes > 65536) return -EINVAL;
    return reading.trace.ring_fd < 0 ? read_log(&reading, mark) : read_kernel(&reading, mark);
}
