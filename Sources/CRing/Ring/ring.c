/* The front of the ring: it checks what the caller asks, keeps the operations, and chooses the driver. */
#include "ring_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* Opening and ending */

static bool is_power_of_two_within(uint32_t value, uint32_t least, uint32_t most) {
    return value >= least && value <= most && (value & (value - 1)) == 0;
}

static bool options_are_valid(const ring_options *options) {
    return options && options->driver >= RING_DRIVER_AUTO && options->driver <= RING_DRIVER_EPOLL
        && is_power_of_two_within(options->entries, 64, 4096)
        && is_power_of_two_within(options->pool_count, 16, 32768)
        && options->pool_bytes >= 512 && options->pool_bytes <= 65536;
}

/* Memory that a successor reads; NULL: it will have none. */
typedef struct { ring_keeper *keep; void *context; } keeping;

static int open_trace(ring *ring, const keeping *keeping, void **pool, const ring_options *options) {
    *pool = NULL;
    if (!keeping->keep) return 0;
    ring->keep = keeping->keep;
    ring->keep_context = keeping->context;
    trace *trace = keeping->keep(keeping->context, sizeof *trace);
    *pool = keeping->keep(keeping->context, (size_t)options->pool_count * options->pool_bytes);
    log_entry *log = keeping->keep(keeping->context, LOG_ENTRIES * sizeof *log);
    if (!trace || !*pool || !log) return -ENOMEM;
    memset(trace, 0, sizeof *trace);
    trace->ring_fd = -1;
    trace->pool = (uintptr_t)*pool;
    trace->pool_count = options->pool_count;
    trace->pool_bytes = options->pool_bytes;
    trace->log = (uintptr_t)log;
    ring->table.trace = trace;
    return 0;
}

static int open_with(ring **ring_out, const ring_driver_calls *driver, ring_driver name,
                     const ring_options *options, const keeping *keeping) {
    ring *opened = calloc(1, sizeof *opened);
    if (!opened) return -ENOMEM;
    opened->handed_out = (operation_list){ RING_NONE, RING_NONE };
    opened->driver = driver;
    opened->driver_in_use = name;
    opened->ready = (operation_list){ RING_NONE, RING_NONE };
    table_open(&opened->table);
    opened->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int error = opened->wake_fd < 0 ? -errno : 0;
    void *pool;
    if (!error) error = open_trace(opened, keeping, &pool, options);
    if (!error) error = pool_open(&opened->pool, options->pool_count, options->pool_bytes, pool);
    if (!error) error = driver->open(opened, options);
    if (error) {
        pool_close(&opened->pool);
        if (opened->wake_fd >= 0) close(opened->wake_fd);
        free(opened);
        return error;
    }
    *ring_out = opened;
    return 0;
}

static const keeping nothing_kept;

int ring_open_untested(ring **ring_out, const ring_options *options) {
    return open_with(ring_out, &ring_uring_calls, RING_DRIVER_URING, options, &nothing_kept);
}

static const char *reason_of(int error) {
    switch (-error) {
    case EPERM:  return "io_uring is forbidden here (EPERM)";
    case ENOSYS: return "the kernel has no io_uring, or a seccomp filter forbids it (ENOSYS)";
    case EINVAL: case EOPNOTSUPP: return "io_uring of this kernel is too old, it takes Linux 6.1";
    case ENOMEM: return "io_uring got no memory (ENOMEM)";
    case EMFILE: case ENFILE: return "io_uring got no descriptor";
    default:     return NULL;
    }
}

static int open_tested(ring **ring_out, const ring_options *options, const keeping *keeping, char *why, size_t why_bytes) {
    char sentence[160] = "";
    if (why && why_bytes) why[0] = 0;
    if (!ring_out || !options_are_valid(options)) return -EINVAL;
    *ring_out = NULL;
#ifdef SIMULATION
    if (ring_is_simulated()) return open_with(ring_out, &ring_simulated_calls, RING_DRIVER_EPOLL, options, keeping);
#endif
    int error = 0;
    if (options->driver != RING_DRIVER_EPOLL) {
        error = ring_self_test(sentence, sizeof sentence);
        if (!error) error = open_with(ring_out, &ring_uring_calls, RING_DRIVER_URING, options, keeping);
    }
    if (error && !sentence[0]) {
        const char *reason = reason_of(error);
        if (reason) snprintf(sentence, sizeof sentence, "%s", reason);
        else snprintf(sentence, sizeof sentence, "io_uring failed with error %d", -error);
    }
    if (options->driver == RING_DRIVER_EPOLL || (error && options->driver == RING_DRIVER_AUTO)) {
        error = open_with(ring_out, &ring_epoll_calls, RING_DRIVER_EPOLL, options, keeping);
    }
    if (why && why_bytes) snprintf(why, why_bytes, "%s", sentence);
    if (!error) faults_adopt(*ring_out);
    return error;
}

int ring_open(ring **ring_out, const ring_options *options, char *why, size_t why_bytes) {
    return open_tested(ring_out, options, &nothing_kept, why, why_bytes);
}

int ring_open_kept(ring **ring_out, const ring_options *options, ring_keeper *keep, void *context, char *why, size_t why_bytes) {
    keeping keeping = { keep, context };
    return open_tested(ring_out, options, &keeping, why, why_bytes);
}

/* Connections that were accepted and never told of have no other owner. */
static void close_accepted(ring *ring) {
    uint32_t slot;
    while ((slot = list_take(&ring->table, &ring->ready)) != RING_NONE) {
        const operation *operation = table_at(&ring->table, slot);
        if (operation->kind == OPERATION_ACCEPT && operation->result >= 0) close(operation->result);
    }
}

void ring_close(ring *ring) {
    if (!ring) return;
    ring->driver->close(ring);
    close_accepted(ring);
    table_close(&ring->table);
    pool_close(&ring->pool);
    close(ring->wake_fd);
    free(ring);
}

ring_driver ring_driver_in_use(const ring *ring) {
    return ring->driver_in_use;
}

/* Queueing */

operation_direction operation_direction_of(operation_kind kind) {
    switch (kind) {
    case OPERATION_CONNECT: case OPERATION_SEND: case OPERATION_WRITABLE: return DIRECTION_WRITING;
    case OPERATION_WATCH_HANGUP: return DIRECTION_WATCHING;
    default: return DIRECTION_READING;
    }
}

static bool has_message(const operation *operation) {
    return operation->kind == OPERATION_SEND || operation->kind == OPERATION_CONNECT;
}

/* A slot for an operation on the descriptor, in its row. */
static int reserve(ring *ring, int fd, operation_direction direction, uint32_t *slot) {
    int fault = FAULT_OF(ring, RING_FAULT_QUEUE);
    if (fault) return fault;
    descriptor *row = table_descriptor(&ring->table, fd);
    if (!row) return -ENOMEM;
    if (row->slots[direction] != RING_NONE) return -EINVAL;
    *slot = table_take(ring);
    if (*slot == RING_NONE) return -ENOMEM;
    row->slots[direction] = *slot;
    return 0;
}

/* Queues what `wanted` describes; owns its message from here on. */
static int queue(ring *ring, operation wanted) {
    operation_table *table = &ring->table;
    operation_direction direction = operation_direction_of(wanted.kind);
    uint32_t slot;
    int error = reserve(ring, wanted.fd, direction, &slot);
    if (error) {
        if (has_message(&wanted)) table_give_back_message(table, wanted.message);
        return error;
    }
    operation *operation = table_at(table, slot);
    wanted.generation = operation->generation;
    *operation = wanted;

    int32_t fault = faults_apply(ring, operation);
    if (fault) {
        operation_finish(ring, slot, fault);
        return 0;
    }
    error = ring->driver->queue(ring, slot);
    if (error) {
        table->descriptors[operation->fd].slots[direction] = RING_NONE;
        if (has_message(operation)) {
            table_give_back_message(table, operation->message);
            operation->message = NULL;
        }
        table_give_back(table, slot);
    }
    return error;
}

int ring_accept(ring *ring, int listener, uint64_t token) {
    if (listener < 0) return -EINVAL;
    return queue(ring, (operation){ .kind = OPERATION_ACCEPT, .fd = listener, .token = token });
}

int ring_connect(ring *ring, int fd, const struct sockaddr *address, socklen_t length, uint64_t token) {
    if (fd < 0 || !address || length == 0 || length > sizeof(struct sockaddr_storage)) return -EINVAL;
    message *message = table_take_message(&ring->table, 1);
    if (!message) return -ENOMEM;
    memcpy(&message->address, address, length);
    return queue(ring, (operation){
        .kind = OPERATION_CONNECT, .fd = fd, .token = token, .message = message, .bytes = length });
}

int ring_receive(ring *ring, int fd, void *memory, size_t bytes, uint64_t token) {
    if (fd < 0 || !memory || bytes == 0) return -EINVAL;
    uint32_t most = bytes < INT_MAX ? (uint32_t)bytes : INT_MAX;
    return queue(ring, (operation){
        .kind = OPERATION_RECEIVE, .fd = fd, .token = token, .memory = memory, .bytes = most });
}

int ring_receive_pooled(ring *ring, int fd, uint64_t token) {
    if (fd < 0) return -EINVAL;
    return queue(ring, (operation){
        .kind = OPERATION_RECEIVE_POOLED, .fd = fd, .token = token, .bytes = ring->pool.bytes });
}

int ring_send(ring *ring, int fd, const struct iovec *iovecs, unsigned count, int flags, uint64_t token) {
    if (fd < 0 || !iovecs || count == 0 || count > RING_IOVECS_MAXIMUM) return -EINVAL;
    bool is_unhurried = (flags & ~RING_FORGOTTEN) == RING_UNHURRIED;
    if (!is_unhurried && flags != 0 && flags != MSG_DONTWAIT) return -EINVAL;
    message *message = table_take_message(&ring->table, count);
    if (!message) return -ENOMEM;
    memcpy(message->iovecs, iovecs, count * sizeof *iovecs);
    message->header = (struct msghdr){ .msg_iov = message->iovecs, .msg_iovlen = count };
    size_t bytes = 0;
    for (unsigned i = 0; i < count; i++) bytes += iovecs[i].iov_len;
    return queue(ring, (operation){
        .kind = OPERATION_SEND, .fd = fd, .token = token, .message = message, .bytes = bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX,
        .is_forgotten = (flags & RING_FORGOTTEN) != 0, .flags = is_unhurried ? OPERATION_UNHURRIED : flags ? OPERATION_DONTWAIT : 0 });
}

int ring_readable(ring *ring, int fd, uint64_t token) {
    if (fd < 0) return -EINVAL;
    return queue(ring, (operation){ .kind = OPERATION_READABLE, .fd = fd, .token = token });
}

int ring_writable(ring *ring, int fd, uint64_t token) {
    if (fd < 0) return -EINVAL;
    return queue(ring, (operation){ .kind = OPERATION_WRITABLE, .fd = fd, .token = token });
}

int ring_watch_hangup(ring *ring, int fd, uint64_t token) {
    if (fd < 0) return -EINVAL;
    return queue(ring, (operation){ .kind = OPERATION_WATCH_HANGUP, .fd = fd, .token = token });
}

/* False: the driver has no room. */
static bool cancel_operation(ring *ring, uint32_t slot) {
    return !FAULT_OF(ring, RING_FAULT_CANCEL) && ring->driver->cancel(ring, slot) == 0;
}

int ring_cancel(ring *ring, int fd) {
    if (fd < 0) return -EINVAL;
    if ((uint32_t)fd >= ring->table.descriptor_count) return 0;
    for (unsigned direction = 0; direction < DIRECTIONS; direction++) {
        uint32_t slot = ring->table.descriptors[fd].slots[direction];
        if (slot == RING_NONE || table_at(&ring->table, slot)->flags & OPERATION_CANCELLING) continue;
        if (cancel_operation(ring, slot)) continue;
        table_at(&ring->table, slot)->flags |= OPERATION_CANCEL_OWED;
        ring->owes_cancels = true;
    }
    return 0;
}

/* What the kernel had no room for is asked again: a socket whose operation never ends is never closed. */
static void pay_cancels(ring *ring) {
    ring->owes_cancels = false;
    for (uint32_t fd = 0; fd < ring->table.descriptor_count; fd++) {
        for (unsigned direction = 0; direction < DIRECTIONS; direction++) {
            uint32_t slot = ring->table.descriptors[fd].slots[direction];
            if (slot == RING_NONE || !(table_at(&ring->table, slot)->flags & OPERATION_CANCEL_OWED)) continue;
            if (cancel_operation(ring, slot)) table_at(&ring->table, slot)->flags &= (uint8_t)~OPERATION_CANCEL_OWED;
            else ring->owes_cancels = true;
        }
    }
}

void ring_forget(ring *ring, int fd) {
    if (fd < 0 || (uint32_t)fd >= ring->table.descriptor_count) return;
    for (unsigned direction = 0; direction < DIRECTIONS; direction++) {
        /* Its number may soon be another connection's, and the operation would move that one's bytes. */
        if (ring->table.descriptors[fd].slots[direction] != RING_NONE) abort();
    }
    ring->driver->forget(ring, fd);
}

/* Completing */

int32_t connect_outcome(int fd) {
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    if (getpeername(fd, (struct sockaddr *)&peer, &length) == 0) return 0;
    int why = errno, error = 0;
    length = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0) return -errno;
    return error ? -error : -why;
}

void operation_finish(ring *ring, uint32_t slot, int32_t result) {
    operation *operation = table_at(&ring->table, slot);
    ring->table.descriptors[operation->fd].slots[operation_direction_of(operation->kind)] = RING_NONE;
    if (has_message(operation)) {
        table_give_back_message(&ring->table, operation->message);
        operation->message = NULL;
    }
    if (operation->flags & OPERATION_HAS_BUFFER) ring->pool.lent[operation->buffer] = 1;
    /* A short send has a next one, which may be waited for. */
    if (!(operation->flags & OPERATION_UNHURRIED) || result < 0 || (uint32_t)result < operation->bytes) ring->is_hurried = true;
    operation->result = result;
    operation->mark = ring->ended_mark;
    list_append(&ring->table, &ring->ready, slot);
}

static unsigned deliver(ring *ring, ring_completion *completions, unsigned capacity) {
    unsigned count = 0;
#ifdef SIMULATION
    if (ring->holds_back) return 0;
#endif
    while (count < capacity) {
        uint32_t slot = list_take(&ring->table, &ring->ready);
        if (slot == RING_NONE) {
            ring->is_hurried = false;
            break;
        }
        const operation *operation = table_at(&ring->table, slot);
        completions[count++] = (ring_completion){
            .token = operation->token, .result = operation->result, .buffer = operation->buffer,
            .flags = operation->flags & OPERATION_HAS_BUFFER ? RING_COMPLETION_BUFFER : 0 };
        ring->handed_mark = operation->mark;
        if (ring->table.trace) list_append(&ring->table, &ring->handed_out, slot);
        else table_give_back(&ring->table, slot);
    }
    return count;
}

static int64_t now_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static const int64_t CANCEL_RETRY = 10 * 1000 * 1000;   /* Nanoseconds until an operation that could not be cancelled is asked again. */

int ring_wait(ring *ring, int64_t timeout, ring_completion *completions, unsigned capacity) {
    if (!completions || capacity == 0 || capacity > INT_MAX) return -EINVAL;
    int fault = FAULT_OF(ring, RING_FAULT_WAIT);
    if (fault) return fault;
    int64_t start = timeout > 0 ? now_nanoseconds() : 0;
    int64_t remaining = timeout;
    for (;;) {
        if (ring->owes_cancels) pay_cancels(ring);
        int64_t most = ring->owes_cancels && (remaining < 0 || remaining > CANCEL_RETRY) ? CANCEL_RETRY : remaining;
        int error = ring->driver->turn(ring, ring->ready.head == RING_NONE ? most : 0);
        unsigned count = deliver(ring, completions, capacity);
        if (error && count == 0) return error;
        if (count > 0 || ring->woken || timeout == 0) {
            ring->woken = false;
            return (int)count;
        }
        if (timeout > 0) {
            remaining = timeout - (now_nanoseconds() - start);
            if (remaining <= 0) return 0;
        }
    }
}

size_t ring_in_flight(const ring *ring) {
    return ring->table.in_use;
}

/* Kept */

uint64_t ring_trace_of(const ring *ring) {
    return (uintptr_t)ring->table.trace;
}

uint32_t ring_mark(const ring *ring) {
    return ring->ready.head == RING_NONE ? ring->ended_mark : ring->handed_mark;
}

void ring_committed(ring *ring) {
    ring->handed_mark = ring->committed_mark = ring_mark(ring);
    uint32_t slot;
    while ((slot = list_take(&ring->table, &ring->handed_out)) != RING_NONE) table_give_back(&ring->table, slot);
    pool_committed(ring);
    if (ring->driver->committed) ring->driver->committed(ring);
}

/* So many completions that are not committed cost a successor nothing, and the kernel's queue little room. */
static const uint32_t UNCOMMITTED_MAXIMUM = 32;

bool ring_awaits_commit(const ring *ring) {
    return ring->driver->has_queued(ring) || ring_mark(ring) - ring->committed_mark >= UNCOMMITTED_MAXIMUM;
}

/* Waking */

void ring_wake(ring *ring) {
    int saved = errno;   /* We may be in a signal handler. */
    uint64_t one = 1;
    /* The only failure is a full counter, and then the ring is awake already. */
    ssize_t ignored = write(ring->wake_fd, &one, sizeof one);
    (void)ignored;
    errno = saved;
}

void ring_take_wake(ring *ring) {
    uint64_t count;
    if (read(ring->wake_fd, &count, sizeof count) == sizeof count) ring->woken = true;
}
