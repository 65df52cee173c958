/* The shared receive pool: equal buffers, lent to the caller one completion at a time. */
#include "ring_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int pool_open(receive_pool *pool, uint32_t count, uint32_t bytes, void *memory) {
    *pool = (receive_pool){ .count = count, .bytes = bytes, .free_count = count, .is_kept = memory != NULL };
    if (!memory) memory = mmap(NULL, (size_t)count * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return -errno;
    pool->memory = memory;
    pool->lent = calloc(count, sizeof *pool->lent);
    pool->free_stack = calloc(count, sizeof *pool->free_stack);
    pool->returned = calloc(count, sizeof *pool->returned);
    if (!pool->lent || !pool->free_stack || !pool->returned) {
        pool_close(pool);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < count; i++) pool->free_stack[i] = (uint16_t)(count - 1 - i);
    return 0;
}

void pool_close(receive_pool *pool) {
    if (pool->memory && !pool->is_kept) munmap(pool->memory, (size_t)pool->count * pool->bytes);
    free(pool->lent);
    free(pool->free_stack);
    free(pool->returned);
    memset(pool, 0, sizeof *pool);
}

void pool_committed(ring *ring) {
    receive_pool *pool = &ring->pool;
    for (uint32_t i = 0; i < pool->returned_count; i++) ring->driver->pool_return(ring, pool->returned[i]);
    pool->returned_count = 0;
}

const void *ring_pool_bytes(const ring *ring, uint16_t buffer) {
    return pool_at(&ring->pool, buffer);
}

void ring_pool_return(ring *ring, uint16_t buffer) {
    /* A buffer returned twice would receive two sockets' bytes at once: better to end than to mix them. */
    if (buffer >= ring->pool.count || !ring->pool.lent[buffer]) abort();
    ring->pool.lent[buffer] = 0;
    /* A kept one holds the only copy of its bytes until they are committed. */
    if (ring->table.trace) ring->pool.returned[ring->pool.returned_count++] = buffer;
    else ring->driver->pool_return(ring, buffer);
}
