/*
 * The io_uring driver. One-shot operations only: no credit to keep, nothing to re-arm, and what is not asked
 * for does not flow. Takes the features of Linux 6.1; the ring starts disabled so that the thread that first
 * waits owns it.
 */
#include "ring_internal.h"

#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SILENT_MAXIMUM = 256, COMPLETIONS_PER_ENTRY = 8, POOL_GROUP = 0, CLOSE_ROUNDS = 20, CLOSE_ROUND_MS = 50 };

/* Slots that are none: what completes under these names stays inside. */
enum { INTERNAL_WAKE = UINT32_MAX - 1, INTERNAL_WATCHES = UINT32_MAX - 2, INTERNAL_CANCEL = UINT32_MAX - 3 };

typedef struct {
    struct io_uring           ring;
    struct io_uring_buf_ring *buffers;
    size_t                    buffers_bytes;
    bool                      enabled;
    bool                      wake_armed, watches_armed;
    int                       watch_set;      /* See hangup.c; -1 until the first watch. */
    size_t                    in_kernel;      /* Operations whose entry is made and has not completed. */
    operation_list            hungry;         /* Pooled receives that wait for a buffer, first come, first served. */
    operation_list            held;           /* Kept: operations that begin with the next turn. */
    bool                      is_kept, is_turning;
    uint32_t                  cursor;         /* Completions before it were seen. */
    uint64_t                  silent[SILENT_MAXIMUM];   /* Names of sends whose entries are made since the last turn, and complete without a word. */
    uint32_t                  silent_count;
    bool                      tells_at_once;  /* An unhurried send that is not silent has been queued since the last turn. */
} uring;

static int check_features(const struct io_uring *ring, const struct io_uring_params *parameters) {
    static const unsigned needed = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_FAST_POLL;
    static const int operations[] = { IORING_OP_ACCEPT, IORING_OP_CONNECT, IORING_OP_RECV, IORING_OP_SENDMSG,
                                      IORING_OP_POLL_ADD, IORING_OP_ASYNC_CANCEL };
    if ((parameters->features & needed) != needed) return -EOPNOTSUPP;
    struct io_uring_probe *probe = io_uring_get_probe_ring((struct io_uring *)ring);
    if (!probe) return -EOPNOTSUPP;
    bool all = true;
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        all = all && io_uring_opcode_supported(probe, operations[i]);
    }
    io_uring_free_probe(probe);
    return all ? 0 : -EOPNOTSUPP;
}

static void give_buffer(ring *ring, uint16_t buffer) {
    uring *state = ring->state;
    io_uring_buf_ring_add(state->buffers, pool_at(&ring->pool, buffer), ring->pool.bytes, buffer,
                          io_uring_buf_ring_mask(ring->pool.count), 0);
    io_uring_buf_ring_advance(state->buffers, 1);
}

static int open_pool(ring *ring) {
    uring *state = ring->state;
    state->buffers_bytes = ring->pool.count * sizeof(struct io_uring_buf);
    void *memory = mmap(NULL, state->buffers_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                        -1, 0);
    if (memory == MAP_FAILED) return -errno;
    state->buffers = memory;
    struct io_uring_buf_reg registration = {
        .ring_addr = (uintptr_t)memory, .ring_entries = ring->pool.count, .bgid = POOL_GROUP };
    int error = io_uring_register_buf_ring(&state->ring, &registration, 0);
    if (error) {
        munmap(memory, state->buffers_bytes);
        return error;
    }
    io_uring_buf_ring_init(state->buffers);
    for (uint32_t i = 0; i < ring->pool.count; i++) give_buffer(ring, (uint16_t)i);
    return 0;
}

static int uring_open(ring *ring, const ring_options *options) {
    uring *state = calloc(1, sizeof *state);
    if (!state) return -ENOMEM;
    state->watch_set = -1;
    state->hungry = state->held = (operation_list){ RING_NONE, RING_NONE };
    struct io_uring_params parameters = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_R_DISABLED
               | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
        .cq_entries = options->entries * COMPLETIONS_PER_ENTRY };
    int error = io_uring_queue_init_params(options->entries, &state->ring, &parameters);
    if (error) {
        free(state);
        return error;
    }
    ring->state = state;
    state->is_kept = ring->table.trace != NULL;
    if (state->is_kept) {
        trace *trace = ring->table.trace;
        trace->head = parameters.cq_off.head;
        trace->tail = parameters.cq_off.tail;
        trace->mask = parameters.cq_off.ring_mask;
        trace->entries = parameters.cq_off.cqes;
        trace->bytes = (uint32_t)(parameters.cq_off.cqes + parameters.cq_entries * sizeof(struct io_uring_cqe));
        trace->ring_fd = state->ring.ring_fd;
    }
    error = check_features(&state->ring, &parameters);
    if (!error) error = open_pool(ring);
    if (error) {
        io_uring_queue_exit(&state->ring);
        free(state);
        ring->state = NULL;
    }
    return error;
}

static int enable(uring *state) {
    if (state->enabled) return 0;
    int error = io_uring_enable_rings(&state->ring);
    state->enabled = error == 0;
    /* Spares each turn the look-up of the descriptor; of the thread that turns. */
    if (state->enabled) io_uring_register_ring_fd(&state->ring);
    return error;
}

/* Room for one more entry; a full queue is submitted first. NULL when the kernel takes nothing now. */
static struct io_uring_sqe *next_entry(uring *state) {
    for (;;) {
        struct io_uring_sqe *entry = io_uring_get_sqe(&state->ring);
        if (entry) return entry;
        if (state->is_kept && !state->is_turning) return NULL;   /* Nothing begins before the commit. */
        if (enable(state)) return NULL;
        int submitted = io_uring_submit(&state->ring);
        if (submitted <= 0 && submitted != -EINTR) return NULL;
    }
}

/* Whether it completes without a word when all was sent. A successor must find completions. */
static bool is_silent(const uring *state, const operation *operation) {
    return operation->flags & OPERATION_UNHURRIED && (!state->is_kept || operation->is_forgotten);
}

/* Makes the entry of an operation: at first, and again where the kernel's result only means "once more". */
static int make_entry(ring *ring, uint32_t slot) {
    uring *state = ring->state;
    operation *operation = table_at(&ring->table, slot);
    struct io_uring_sqe *entry = next_entry(state);
    if (!entry) return -ENOMEM;
    switch ((operation_kind)operation->kind) {
    case OPERATION_ACCEPT:
        io_uring_prep_accept(entry, operation->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        break;
    case OPERATION_CONNECT:
        io_uring_prep_connect(entry, operation->fd, (const struct sockaddr *)&operation->message->address,
                              operation->bytes);
        break;
    case OPERATION_RECEIVE:
        io_uring_prep_recv(entry, operation->fd, operation->memory, operation->bytes, 0);
        /* A receive that finds nothing is made twice. */
        if (!ring->table.descriptors[operation->fd].has_more) entry->ioprio |= IORING_RECVSEND_POLL_FIRST;
        break;
    case OPERATION_RECEIVE_POOLED:
        io_uring_prep_recv(entry, operation->fd, NULL, operation->bytes, 0);
        entry->flags |= IOSQE_BUFFER_SELECT;
        entry->buf_group = POOL_GROUP;
        /* Without it an empty pool would fail the receive of an idle socket, too. */
        entry->ioprio |= IORING_RECVSEND_POLL_FIRST;
        break;
    case OPERATION_SEND: {
        if (state->silent_count == SILENT_MAXIMUM) operation->flags &= (uint8_t)~OPERATION_UNHURRIED;
        unsigned flags = operation->flags & OPERATION_DONTWAIT ? MSG_DONTWAIT : 0;
        /* It ends while it is submitted; less than all is a failure, of which we are told. */
        if (operation->flags & OPERATION_UNHURRIED) flags = MSG_DONTWAIT | MSG_WAITALL;
        io_uring_prep_sendmsg(entry, operation->fd, &operation->message->header, MSG_NOSIGNAL | flags);
        if (operation->flags & OPERATION_UNHURRIED) {
            if (is_silent(state, operation)) {
                entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
                state->silent[state->silent_count++] = operation_name(ring, slot);
            } else {
                state->tells_at_once = true;
            }
        }
        break;
    }
    case OPERATION_WRITABLE:
        io_uring_prep_poll_add(entry, operation->fd, POLLOUT);
        break;
    default:
        io_uring_prep_poll_add(entry, operation->fd, POLLIN);
        break;
    }
    io_uring_sqe_set_data64(entry, operation_name(ring, slot));
    state->in_kernel++;
    return 0;
}

/* The pool */

/* The kernel gives the last buffer to whoever comes first and fails the rest. Those wait here, and who comes later waits
 * behind them: else the same few would take every buffer that comes back. */
static void wait_for_buffer(ring *ring, uint32_t slot) {
    uring *state = ring->state;
    table_at(&ring->table, slot)->flags |= OPERATION_HUNGRY;
    list_append(&ring->table, &state->hungry, slot);
}

/* As many go to the kernel as there are buffers. When the caller holds them all, everybody goes, to be told. */
static void feed_hungry(ring *ring) {
    uring *state = ring->state;
    uint32_t most = ring->pool.free_count;
    if (most == 0 && ring->ready.head == RING_NONE) most = UINT32_MAX;
    uint32_t slot;
    while (most-- > 0 && (slot = list_take(&ring->table, &state->hungry)) != RING_NONE) {
        operation *operation = table_at(&ring->table, slot);
        operation->flags &= ~OPERATION_HUNGRY;
        int error = operation->flags & OPERATION_CANCELLING ? -ECANCELED : make_entry(ring, slot);
        if (error) operation_finish(ring, slot, error);
    }
}

/* Keeps the polls of the wake descriptor and of the watches armed. */
static void arm_internal(ring *ring) {
    uring *state = ring->state;
    struct io_uring_sqe *entry;
    if (!state->wake_armed && (entry = next_entry(state))) {
        io_uring_prep_poll_add(entry, ring->wake_fd, POLLIN);
        io_uring_sqe_set_data64(entry, INTERNAL_WAKE);
        state->wake_armed = true;
    }
    if (!state->watches_armed && state->watch_set >= 0 && (entry = next_entry(state))) {
        io_uring_prep_poll_add(entry, state->watch_set, POLLIN);
        io_uring_sqe_set_data64(entry, INTERNAL_WATCHES);
        state->watches_armed = true;
    }
}

/* The calls of the front */

static int uring_queue(ring *ring, uint32_t slot) {
    uring *state = ring->state;
    operation_kind kind = table_at(&ring->table, slot)->kind;
    if (kind == OPERATION_WATCH_HANGUP) return hangup_watch(ring, &state->watch_set, slot);
    if (state->is_kept && !state->is_turning) {
        table_at(&ring->table, slot)->flags |= OPERATION_HELD;
        list_append(&ring->table, &state->held, slot);
        return 0;
    }
    if (kind != OPERATION_RECEIVE_POOLED || state->hungry.head == RING_NONE) return make_entry(ring, slot);
    wait_for_buffer(ring, slot);
    return 0;
}

static int uring_cancel(ring *ring, uint32_t slot) {
    uring *state = ring->state;
    operation *operation = table_at(&ring->table, slot);
    if (operation->kind == OPERATION_WATCH_HANGUP) {
        hangup_unwatch(state->watch_set, operation->fd);
        operation_finish(ring, slot, -ECANCELED);
        return 0;
    }
    if (operation->flags & (OPERATION_HUNGRY | OPERATION_HELD)) {
        operation->flags |= OPERATION_CANCELLING;
        return 0;
    }
    struct io_uring_sqe *entry = next_entry(state);
    if (!entry) return -ENOMEM;
    /* By name, which is a hash look-up; by descriptor the kernel walks everything that is armed. */
    io_uring_prep_cancel64(entry, operation_name(ring, slot), 0);
    io_uring_sqe_set_data64(entry, INTERNAL_CANCEL);
    operation->flags |= OPERATION_CANCELLING;
    return 0;
}

static void uring_forget(ring *ring, int fd) { ring->table.descriptors[fd].has_more = false; }

/* An empty pool hides what a receive would have said; only data may be answered with -ENOBUFS. */
static int32_t peek(int fd) {
    char byte;
    ssize_t count = recv(fd, &byte, sizeof byte, MSG_PEEK | MSG_DONTWAIT);
    if (count == 0) return 0;
    return count > 0 || errno == EAGAIN || errno == EINTR ? -ENOBUFS : -errno;
}

static void complete(ring *ring, const struct io_uring_cqe *completion) {
    uring *state = ring->state;
    uint64_t name = completion->user_data;
    int32_t result = completion->res;
    switch ((uint32_t)name) {
    case INTERNAL_CANCEL:
        return;
    case INTERNAL_WAKE:
        state->wake_armed = false;
        ring_take_wake(ring);
        return;
    case INTERNAL_WATCHES:
        state->watches_armed = false;
        hangup_take(ring, state->watch_set);
        return;
    }
    if (!operation_is_current(ring, name)) return;
    state->in_kernel--;
    uint32_t slot = (uint32_t)name;
    operation *operation = table_at(&ring->table, slot);
    if (operation->kind == OPERATION_RECEIVE || operation->kind == OPERATION_RECEIVE_POOLED)
        ring->table.descriptors[operation->fd].has_more = completion->flags & IORING_CQE_F_SOCK_NONEMPTY;
    if (completion->flags & IORING_CQE_F_BUFFER) {
        uint16_t buffer = (uint16_t)(completion->flags >> IORING_CQE_BUFFER_SHIFT);
        if (result > 0) {
            operation->buffer = buffer;
            operation->flags |= OPERATION_HAS_BUFFER;
            ring->pool.free_count--;
        } else {
            give_buffer(ring, buffer);
        }
    }
    bool cancelling = operation->flags & OPERATION_CANCELLING;
    bool is_full = result == -EAGAIN && operation->kind == OPERATION_SEND && !(operation->flags & OPERATION_DONTWAIT);
    bool again = result == -EINTR || is_full || (result == -ECONNABORTED && operation->kind == OPERATION_ACCEPT);
    if (is_full) operation->flags &= (uint8_t)~OPERATION_UNHURRIED;   /* It waits for room like any other. */
    if (again && !cancelling && make_entry(ring, slot) == 0) return;
    if (again && cancelling) result = -ECANCELED;   /* -EINTR: a worker of the kernel had it. */
    if (result == -ENOBUFS && operation->kind == OPERATION_RECEIVE_POOLED) {
        /* The completions that hold the buffers came before this one. */
        if (ring->ready.head != RING_NONE && !cancelling) return wait_for_buffer(ring, slot);
        result = peek(operation->fd);
    }
    /* An ICMP error that arrives while connect(2) still holds the socket, as from this machine's own firewall, is kept as a soft
     * error; the kernel (measured: 6.18) then completes the connect with 0 while the SYN is unanswered. */
    if (result == 0 && operation->kind == OPERATION_CONNECT) result = connect_outcome(operation->fd);
    if (result > 0 && operation->kind == OPERATION_READABLE) result &= RING_READABLE_BITS;
    if (result > 0 && operation->kind == OPERATION_WRITABLE) result &= RING_WRITABLE_BITS;
    operation_finish(ring, slot, result);
}

/* The kernel does not overwrite what is not committed. */
static void reap_kept(ring *ring) {
    uring *state = ring->state;
    uint32_t tail = io_uring_smp_load_acquire(state->ring.cq.ktail);
    for (; state->cursor != tail; state->cursor++) {
        ring->ended_mark = state->cursor + 1;
        complete(ring, &state->ring.cq.cqes[state->cursor & *state->ring.cq.kring_mask]);
    }
}

static void uring_committed(ring *ring) {
    uring *state = ring->state;
    io_uring_smp_store_release(state->ring.cq.khead, ring->handed_mark);
}

static bool uring_has_queued(const ring *ring) {
    const uring *state = ring->state;
    return state->held.head != RING_NONE || state->hungry.head != RING_NONE || io_uring_sq_ready(&state->ring) > 0;
}

static void reap(ring *ring) {
    uring *state = ring->state;
    struct io_uring_cqe *completion;
    unsigned head, count = 0;
    if (state->is_kept) return reap_kept(ring);
    io_uring_for_each_cqe(&state->ring, head, completion) {
        complete(ring, completion);
        count++;
    }
    io_uring_cq_advance(&state->ring, count);
}

/* Kept: operations of this iteration begin, now that it is committed. */
static void begin_held(ring *ring) {
    uring *state = ring->state;
    operation_list held = state->held;
    state->held = (operation_list){ RING_NONE, RING_NONE };
    uint32_t slot;
    while ((slot = list_take(&ring->table, &held)) != RING_NONE) {
        operation *operation = table_at(&ring->table, slot);
        operation->flags &= (uint8_t)~OPERATION_HELD;
        int error = operation->flags & OPERATION_CANCELLING ? -ECANCELED : uring_queue(ring, slot);
        if (error) operation_finish(ring, slot, error);
    }
}

static bool unseen(uring *state) {
    if (state->is_kept) return io_uring_smp_load_acquire(state->ring.cq.ktail) != state->cursor;
    return io_uring_cq_ready(&state->ring) > 0;
}

/* Silent sends that the kernel took are over: all of those of which it says nothing was sent. Before it is read what else has completed,
 * which may be an answer. */
static void finish_silent(ring *ring) {
    uring *state = ring->state;
    /* What the kernel says may be where it waits for room in the queue. */
    if (state->silent_count == 0 || io_uring_sq_ready(&state->ring) > 0 || io_uring_cq_has_overflow(&state->ring)) return;
    uint32_t tail = io_uring_smp_load_acquire(state->ring.cq.ktail);
    for (uint32_t seen = state->is_kept ? state->cursor : *state->ring.cq.khead; seen != tail; seen++) {
        uint64_t name = state->ring.cq.cqes[seen & *state->ring.cq.kring_mask].user_data;
        if (operation_is_current(ring, name)) table_at(&ring->table, (uint32_t)name)->flags &= (uint8_t)~OPERATION_UNHURRIED;
    }
    for (uint32_t i = 0; i < state->silent_count; i++) {
        uint64_t name = state->silent[i];
        if (!operation_is_current(ring, name)) continue;
        operation *operation = table_at(&ring->table, (uint32_t)name);
        if (!(operation->flags & OPERATION_UNHURRIED)) continue;
        state->in_kernel--;
        operation_finish(ring, (uint32_t)name, (int32_t)operation->bytes);
    }
    state->silent_count = 0;
}

static int uring_turn(ring *ring, int64_t timeout) {
    uring *state = ring->state;
    int result = enable(state);
    if (result) return result;
    state->is_turning = true;
    if (state->is_kept) {
        /* What was seen and handed out to nobody changed nothing; the kernel would not wait. */
        if (ring->ready.head == RING_NONE && ring->handed_out.head == RING_NONE) {
            ring->handed_mark = ring->committed_mark = ring->ended_mark;
            uring_committed(ring);
        }
        begin_held(ring);
    }
    arm_internal(ring);
    feed_hungry(ring);
    bool more = unseen(state) || io_uring_cq_has_overflow(&state->ring) || state->hungry.head != RING_NONE || ring->ready.head != RING_NONE;
    if (more) timeout = 0;
    if (state->tells_at_once && timeout != 0) {
        /* What comes next is waited for after that. */
        result = io_uring_submit(&state->ring);
        finish_silent(ring);
        reap(ring);
        if (result < 0 || ring->is_hurried || state->hungry.head != RING_NONE) timeout = 0;
    }
    state->tells_at_once = false;
    if (state->silent_count > 0 || ring->ready.head != RING_NONE) timeout = unhurried_timeout(timeout);
    /* Kept: those that were seen and are not committed stay in the queue. */
    unsigned awaited = 1 + (state->is_kept ? state->cursor - *state->ring.cq.khead : 0);
    if (timeout == 0) {
        result = io_uring_submit_and_get_events(&state->ring);
    } else if (timeout < 0) {
        result = io_uring_submit_and_wait(&state->ring, awaited);
    } else {
        struct __kernel_timespec limit = { .tv_sec = timeout / 1000000000, .tv_nsec = timeout % 1000000000 };
        struct io_uring_cqe *first;
        result = io_uring_submit_and_wait_timeout(&state->ring, &first, awaited, &limit, NULL);
    }
    finish_silent(ring);
    reap(ring);
    state->is_turning = false;
    if (result >= 0 || result == -ETIME || result == -EINTR) return 0;
    if (result == -EAGAIN || result == -EBUSY) {
        /* The kernel is short of memory. What was not taken stays queued; do not spin on it. */
        usleep(1000);
        return 0;
    }
    return result;
}

static void uring_pool_return(ring *ring, uint16_t buffer) {
    ring->pool.free_count++;
    give_buffer(ring, buffer);
}

/* The kernel takes a ring down at its leisure, but the caller is about to free what operations write to, and
 * to bind listeners anew: so end everything first. From a foreign thread that is refused, and only the exit
 * below remains. */
static void end_operations(ring *ring) {
    uring *state = ring->state;
    struct io_uring_sqe *entry = state->enabled ? next_entry(state) : NULL;
    if (!entry) return;
    io_uring_prep_cancel64(entry, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
    io_uring_sqe_set_data64(entry, INTERNAL_CANCEL);
    for (int round = 0; round < CLOSE_ROUNDS; round++) {
        /* Nobody commits any more what was seen, and the kernel would not wait. */
        if (state->is_kept) io_uring_smp_store_release(state->ring.cq.khead, state->cursor);
        struct __kernel_timespec limit = { .tv_nsec = CLOSE_ROUND_MS * 1000000 };
        struct io_uring_cqe *first;
        int result = io_uring_submit_and_wait_timeout(&state->ring, &first, 1, &limit, NULL);
        finish_silent(ring);
        reap(ring);
        bool ended = state->in_kernel == 0 && !state->wake_armed && !state->watches_armed;
        if (ended || (result < 0 && result != -ETIME && result != -EINTR)) return;
    }
}

static void uring_close(ring *ring) {
    uring *state = ring->state;
    end_operations(ring);
    if (state->watch_set >= 0) close(state->watch_set);
    io_uring_queue_exit(&state->ring);
    munmap(state->buffers, state->buffers_bytes);
    free(state);
}

const ring_driver_calls ring_uring_calls = {
    .open = uring_open, .close = uring_close, .queue = uring_queue, .cancel = uring_cancel,
    .forget = uring_forget, .turn = uring_turn, .pool_return = uring_pool_return, .committed = uring_committed,
    .has_queued = uring_has_queued,
};
