/*
 * What the files of the ring share: operations, descriptors, the pool, and the seam behind which the
 * drivers stand.
 *
 * An operation lives in a slot from the verb that queues it until ring_wait hands out its completion:
 *
 *     verb ──▶ queued ──driver──▶ finished (on the ready list) ──ring_wait──▶ slot is free again
 *
 * Always: a slot stands in its descriptor's row exactly while it is queued and not finished.
 */
#ifndef RING_INTERNAL_H
#define RING_INTERNAL_H

#include "CRing.h"

#include <errno.h>
#include <limits.h>

#ifdef RING_FAULTS
#include "CRingFaults.h"
#endif

#define RING_NONE UINT32_MAX

typedef enum {
    OPERATION_ACCEPT, OPERATION_CONNECT, OPERATION_RECEIVE, OPERATION_RECEIVE_POOLED, OPERATION_SEND,
    OPERATION_READABLE, OPERATION_WRITABLE, OPERATION_WATCH_HANGUP, OPERATION_KINDS
} operation_kind;

typedef enum { DIRECTION_READING, DIRECTION_WRITING, DIRECTION_WATCHING, DIRECTIONS } operation_direction;

enum {
    OPERATION_DONTWAIT = 1,     /* A send that reports -EAGAIN rather than wait. */
    OPERATION_CANCELLING = 2,   /* ring_cancel has asked it to end. */
    OPERATION_PARKED = 4,       /* epoll: was tried, waits for an event. */
    OPERATION_HAS_BUFFER = 8,   /* `buffer` is the caller's from the completion on. */
    OPERATION_CANCEL_OWED = 32, /* The same, but the driver had no room to pass it on. */
    OPERATION_HUNGRY = 16,      /* io_uring: waits with us, not in the kernel, for a buffer of the pool. */
    OPERATION_HELD = 64,        /* io_uring, kept: waits for the next turn. */
    OPERATION_UNHURRIED = 128,  /* A send whose completion may wait for the next one (UNHURRIED_NANOSECONDS). */
};

/* What a send or connect needs beyond the slot; from a free list while the operation is in flight. */
typedef struct message {
    union { struct msghdr header; struct message *next; };
    uint32_t size_class;
    union { struct iovec iovecs[1]; struct sockaddr_storage address; };
} message;

/* An idle receive costs this and nothing else on our side. */
typedef struct {
    uint64_t token;
    union { void *memory; message *message; };   /* receive: the caller's; send and connect: ours. */
    uint32_t next;                                /* On the free, the epoll driver's or the ready list. */
    uint32_t generation;
    int32_t  fd;
    int32_t  result;
    uint32_t bytes;                               /* Most to receive; to send; length of the address. */
    uint16_t buffer;
    uint8_t  kind : 7;
    uint8_t  is_forgotten : 1;                    /* A send of which a successor need not know. */
    uint8_t  flags;
    uint32_t mark;                                /* Finished: that of the ring when it is handed out. */
} operation;

_Static_assert(sizeof(operation) <= 48, "tens of thousands of these are idle");

typedef struct {
    uint32_t slots[DIRECTIONS];   /* RING_NONE, or the operation in flight. */
    bool     registered;          /* epoll: the descriptor is in the interest list. */
    bool     has_more;            /* io_uring: the last receive left something, so the next need not wait for it. */
} descriptor;

typedef struct { uint32_t head, tail; } operation_list;   /* Linked through `next`; RING_NONE when empty. */

enum { OPERATION_CHUNK_BITS = 10, OPERATION_CHUNK = 1 << OPERATION_CHUNK_BITS, MESSAGE_SIZE_CLASSES = 3 };

/* Slots come in chunks so that they never move; rows of descriptors may move. */
typedef struct {
    operation **chunks;
    uint32_t    chunk_count, chunk_capacity;
    uint32_t    free_head;
    size_t      in_use;
    descriptor *descriptors;
    uint32_t    descriptor_count;
    message    *free_messages[MESSAGE_SIZE_CLASSES];
    struct trace *trace;                          /* NULL: nothing is kept. */
} operation_table;

typedef struct {
    uint8_t  *memory;        /* count * bytes, untouched pages cost nothing. */
    uint8_t  *lent;          /* One flag per buffer: with the caller. */
    uint16_t *free_stack;    /* epoll only: last returned, first reused, so the hot ones stay in the cache. */
    uint32_t  count, bytes;
    bool      is_kept;       /* `memory` is not the pool's. */
    uint16_t *returned;      /* Kept: since the last commit. */
    uint32_t  returned_count;
    uint32_t  free_count;    /* Neither with the caller nor named by a completion that was seen. */
} receive_pool;

/* What a successor reads: which operations were tried, and what they came to. io_uring: the kernel's own completion queue, which
 * outlives the process by its descriptor; else a log, of the same form. */
enum { TRACE_CHUNKS = 2048, LOG_ENTRIES = 1 << 16 };

typedef struct { uint64_t name; int32_t result; uint32_t buffer; } log_entry;   /* `buffer`: of the pool, + 1; 0: none. */

typedef struct trace {
    int32_t  ring_fd;             /* -1: there is a log. */
    uint32_t head, tail, mask, entries, bytes;    /* Offsets in the kernel's mapping, and its size. */
    uint64_t pool;
    uint32_t pool_count, pool_bytes;
    uint64_t log;
    uint32_t log_tail;
    uint32_t chunk_count;
    uint64_t chunks[TRACE_CHUNKS];
} trace;

typedef struct ring_driver_calls {
    int  (*open)(ring *ring, const ring_options *options);
    void (*close)(ring *ring);
    /* Takes the operation in the slot over. 0, or -errno and then it was not taken. */
    int  (*queue)(ring *ring, uint32_t slot);
    /* Asks it to end; the driver finishes it sooner or later. */
    int  (*cancel)(ring *ring, uint32_t slot);
    void (*forget)(ring *ring, int fd);
    /* Submits, waits up to `timeout` ns (< 0: for ever) until at least one operation finished or the ring was
     * woken. May return early for no reason. 0 or -errno. */
    int  (*turn)(ring *ring, int64_t timeout);
    void (*pool_return)(ring *ring, uint16_t buffer);
    /* Kept: all that was handed out is committed. May be NULL. */
    void (*committed)(ring *ring);
    /* Operations wait for the next turn. */
    bool (*has_queued)(const ring *ring);
} ring_driver_calls;

struct ring {
    const ring_driver_calls *driver;
    ring_driver     driver_in_use;
    operation_table table;
    operation_list  ready;
    bool            is_hurried;   /* Some of them must be told at once. */
    receive_pool    pool;
    int             wake_fd;      /* eventfd, non-blocking; the driver reads it empty and sets `woken`. */
    bool            woken;
    bool            owes_cancels; /* Some operation has OPERATION_CANCEL_OWED. */
    /* Kept: what was handed out and is not committed, and the marks of the last that ended, the last that was handed out, and the last that
     * was committed. */
    operation_list  handed_out;
    uint32_t        ended_mark, handed_mark, committed_mark;
    ring_keeper    *keep;
    void           *keep_context;
    void           *state;        /* The driver's own. */
#ifdef SIMULATION
    bool            holds_back;   /* What is ready is told after the next turn. */
#endif
#ifdef RING_FAULTS
    ring_fault_plan faults;
#endif
};

extern const ring_driver_calls ring_uring_calls, ring_epoll_calls;
#ifdef SIMULATION
extern const ring_driver_calls ring_simulated_calls;
/* This thread opens rings in a world (simulated.c). */
bool ring_is_simulated(void);
#endif

/* table.c */
void       table_open(operation_table *table);
void       table_close(operation_table *table);
descriptor *table_descriptor(operation_table *table, int fd);          /* Grows; NULL: out of memory. */
uint32_t   table_take(ring *ring);                                     /* RING_NONE: out of memory. */
void       table_give_back(operation_table *table, uint32_t slot);
message   *table_take_message(operation_table *table, unsigned iovec_count);
void       table_give_back_message(operation_table *table, message *message);

static inline operation *table_at(const operation_table *table, uint32_t slot) {
    return &table->chunks[slot >> OPERATION_CHUNK_BITS][slot & (OPERATION_CHUNK - 1)];
}

/* Slot and generation: what the kernel gives back to us. A name of an operation that has ended names none. */
static inline uint64_t operation_name(const ring *ring, uint32_t slot) {
    return (uint64_t)table_at(&ring->table, slot)->generation << 32 | slot;
}
static inline bool operation_is_current(const ring *ring, uint64_t name) {
    return (uint32_t)name >> OPERATION_CHUNK_BITS < ring->table.chunk_count
        && table_at(&ring->table, (uint32_t)name)->generation == name >> 32;
}

void list_append(const operation_table *table, operation_list *list, uint32_t slot);
uint32_t list_take(const operation_table *table, operation_list *list);

/* trace.c. The operation is tried now: with NULL the log is full, and it is not. */
log_entry *log_begin(ring *ring, uint32_t slot);
/* `blocked`: it was as if it had not been tried. */
void       log_end(ring *ring, log_entry *entry, int32_t result, bool blocked);

/* pool.c. `memory` NULL: its own. */
int  pool_open(receive_pool *pool, uint32_t count, uint32_t bytes, void *memory);
void pool_close(receive_pool *pool);
/* Kept: buffers that were returned may be filled again. */
void pool_committed(ring *ring);
static inline void *pool_at(const receive_pool *pool, uint16_t buffer) {
    return pool->memory + (size_t)buffer * pool->bytes;
}

/* So long may an unhurried completion wait for another one. A short timer costs more than the wait that is saved: 1 ms, with which the
 * clock's hardware is set in each wait, made a round trip a third slower (measured: 6.18, in a virtual machine). */
enum { UNHURRIED_NANOSECONDS = 20 * 1000 * 1000 };
static inline int64_t unhurried_timeout(int64_t timeout) {
    return timeout < 0 || timeout > UNHURRIED_NANOSECONDS ? UNHURRIED_NANOSECONDS : timeout;
}

/* ring.c: the one way an operation ends. `result` as the completion will show it. */
void operation_finish(ring *ring, uint32_t slot, int32_t result);
/* What became of a connect that is said to have ended: 0, connected, or -errno. Takes the socket's error. */
int32_t    connect_outcome(int fd);
operation_direction operation_direction_of(operation_kind kind);
/* Reads the wake descriptor empty. */
void ring_take_wake(ring *ring);

/* hangup.c: `set` is an epoll descriptor, made by the first watch. */
int  hangup_watch(ring *ring, int *set, uint32_t slot);
void hangup_unwatch(int set, int fd);
void hangup_take(ring *ring, int set);

/* selftest.c: 0, or -errno with one sentence in `why`. */
int ring_self_test(char *why, size_t why_bytes);

/* ring.c: an io_uring ring that nothing has tested, for the self-test. */
int ring_open_untested(ring **ring_out, const ring_options *options);

/* faults.c: 0, or the -errno with which the operation, the verb or the wait shall fail. */
#ifdef RING_FAULTS
int32_t faults_apply(ring *ring, operation *operation);
int  faults_apply_to(ring *ring, int kind);
void faults_adopt(ring *ring);
#define FAULT_OF(ring, kind) faults_apply_to(ring, kind)
#else
static inline int32_t faults_apply(ring *ring, operation *operation) {
    (void)ring;
    (void)operation;
    return 0;
}
static inline void faults_adopt(ring *ring) { (void)ring; }
#define FAULT_OF(ring, kind) 0
#endif

/* What POLL results are let through, the same for both drivers. */
#define RING_READABLE_BITS (POLLIN | POLLERR | POLLHUP)
#define RING_WRITABLE_BITS (POLLOUT | POLLERR | POLLHUP)
#define RING_HANGUP_BITS   (POLLERR | POLLHUP)

#endif
