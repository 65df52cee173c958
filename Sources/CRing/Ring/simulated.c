/* The driver of simulations: operations are tried against a world (CRingWorld.h), which never blocks and never waits. */
#include "ring_internal.h"

#include "CRingWorld.h"

#ifdef SIMULATION

#include <poll.h>
#include <stdlib.h>

static _Thread_local const ring_world *world_of_thread;

typedef struct {
    const ring_world *world;
    operation_list    queued;   /* To be tried with the next turn, in the order of the verbs. */
} simulated_driver;

bool ring_simulate(const ring_world *world) {
    world_of_thread = world;
    return true;
}

bool ring_is_simulated(void) {
    return world_of_thread != NULL;
}

static int simulated_open(ring *ring, const ring_options *options) {
    (void)options;
    simulated_driver *state = calloc(1, sizeof *state);
    if (!state) return -ENOMEM;
    state->world = world_of_thread;
    state->queued = (operation_list){ RING_NONE, RING_NONE };
    ring->state = state;
    return 0;
}

static void simulated_close(ring *ring) {
    /* Descriptors that were accepted and never told of are the world's, not the kernel's. */
    ring->ready = (operation_list){ RING_NONE, RING_NONE };
    free(ring->state);
}

static int32_t receive_pooled(ring *ring, const ring_world *world, operation *operation) {
    receive_pool *pool = &ring->pool;
    if (pool->free_count == 0) {
        ssize_t result = world->receive(world->context, operation->fd, NULL, 1);
        return result > 0 ? -ENOBUFS : (int32_t)result;
    }
    uint16_t buffer = pool->free_stack[pool->free_count - 1];
    ssize_t result = world->receive(world->context, operation->fd, pool_at(pool, buffer), operation->bytes);
    if (result > 0) {
        pool->free_count--;
        operation->buffer = buffer;
        operation->flags |= OPERATION_HAS_BUFFER;
    }
    return (int32_t)result;
}

static int32_t poll_for(const ring_world *world, int fd, int wanted, int shown) {
    int bits = world->poll(world->context, fd, wanted);
    if (bits < 0) return bits;
    return bits & shown ? bits & shown : -EAGAIN;
}

/* What the operation came to; -EAGAIN: it would block. */
static int32_t try(ring *ring, const ring_world *world, operation *operation) {
    int fd = operation->fd;
    switch ((operation_kind)operation->kind) {
    case OPERATION_ACCEPT: return world->accept(world->context, fd);
    case OPERATION_CONNECT: {
        const struct sockaddr *address = (const struct sockaddr *)&operation->message->address;
        int result = operation->flags & OPERATION_PARKED ? world->connected(world->context, fd)
                                                         : world->connect(world->context, fd, address, operation->bytes);
        return result == -EINPROGRESS ? -EAGAIN : result;
    }
    case OPERATION_RECEIVE: return (int32_t)world->receive(world->context, fd, operation->memory, operation->bytes);
    case OPERATION_RECEIVE_POOLED: return receive_pooled(ring, world, operation);
    case OPERATION_SEND: {
        const struct msghdr *header = &operation->message->header;
        return (int32_t)world->send(world->context, fd, header->msg_iov, header->msg_iovlen);
    }
    case OPERATION_READABLE: return poll_for(world, fd, POLLIN, RING_READABLE_BITS);
    case OPERATION_WRITABLE: return poll_for(world, fd, POLLOUT, RING_WRITABLE_BITS);
    default: return poll_for(world, fd, 0, RING_HANGUP_BITS);
    }
}

static bool blocks(const operation *operation, int32_t result) {
    return result == -EAGAIN && !(operation->kind == OPERATION_SEND && operation->flags & OPERATION_DONTWAIT);
}

/* In the log of a kept ring, which has room for all of a turn. */
static int32_t try_noted(ring *ring, const ring_world *world, uint32_t slot) {
    operation *operation = table_at(&ring->table, slot);
    log_entry *entry = log_begin(ring, slot);
    if (!entry) return -ENOBUFS;
    int32_t result = try(ring, world, operation);
    if (world->died_in_call(world->context)) return -EAGAIN;
    log_end(ring, entry, result, blocks(operation, result));
    return result;
}

static void try_queued(ring *ring, simulated_driver *state, uint32_t slot) {
    operation *operation = table_at(&ring->table, slot);
    int32_t result = try_noted(ring, state->world, slot);
    if (blocks(operation, result)) {
        if (!(operation->flags & OPERATION_CANCELLING)) {
            operation->flags |= OPERATION_PARKED;
            return;
        }
        result = -ECANCELED;
    }
    operation_finish(ring, slot, result);
}

static void try_parked(ring *ring, simulated_driver *state, int fd, operation_direction direction) {
    if ((uint32_t)fd >= ring->table.descriptor_count) return;
    uint32_t slot = ring->table.descriptors[fd].slots[direction];
    if (slot == RING_NONE || !(table_at(&ring->table, slot)->flags & OPERATION_PARKED)) return;
    operation *operation = table_at(&ring->table, slot);
    int32_t result = try_noted(ring, state->world, slot);
    if (!blocks(operation, result)) operation_finish(ring, slot, result);
}

static int simulated_queue(ring *ring, uint32_t slot) {
    simulated_driver *state = ring->state;
    int error = state->world->queued(state->world->context);
    if (!error) list_append(&ring->table, &state->queued, slot);
    return error;
}

static int simulated_cancel(ring *ring, uint32_t slot) {
    simulated_driver *state = ring->state;
    operation *operation = table_at(&ring->table, slot);
    if (!(operation->flags & OPERATION_PARKED)) {
        operation->flags |= OPERATION_CANCELLING;
        return 0;
    }
    int32_t result = state->world->cancel_comes_late(state->world->context) ? try_noted(ring, state->world, slot) : -EAGAIN;
    operation_finish(ring, slot, result == -EAGAIN ? -ECANCELED : result);
    return 0;
}

static void simulated_forget(ring *ring, int fd) {
    (void)ring, (void)fd;
}

static int simulated_turn(ring *ring, int64_t timeout) {
    (void)timeout;
    simulated_driver *state = ring->state;
    bool were_held = ring->holds_back;
    ring->holds_back = false;
    operation_list queued = state->queued;
    state->queued = (operation_list){ RING_NONE, RING_NONE };
    uint32_t slot;
    while ((slot = list_take(&ring->table, &queued)) != RING_NONE) try_queued(ring, state, slot);
    int descriptors[64];
    size_t count;
    do {
        count = state->world->take_ready(state->world->context, descriptors, 64);
        for (size_t i = 0; i < count; i++) {
            for (unsigned direction = 0; direction < DIRECTIONS; direction++) try_parked(ring, state, descriptors[i], direction);
        }
    } while (count == 64);
    /* The real drivers would wait on. */
    if (!ring->is_hurried && !were_held && ring->ready.head != RING_NONE) ring->holds_back = state->world->holds_back(state->world->context);
    ring_take_wake(ring);
    ring->woken = true;   /* ring_wait returns also when nothing completed. */
    return 0;
}

static bool simulated_has_queued(const ring *ring) { return ((const simulated_driver *)ring->state)->queued.head != RING_NONE; }

static void simulated_pool_return(ring *ring, uint16_t buffer) {
    ring->pool.free_stack[ring->pool.free_count++] = buffer;
}

const ring_driver_calls ring_simulated_calls = {
    .open = simulated_open, .close = simulated_close, .queue = simulated_queue, .cancel = simulated_cancel,
    .forget = simulated_forget, .turn = simulated_turn, .pool_return = simulated_pool_return, .has_queued = simulated_has_queued,
};

#else
bool ring_simulate(const ring_world *world) { return world == NULL; }
#endif
