/*
 * The mapping under an arena: shared memory by a descriptor that can be handed on, or without one where that
 * is forbidden. Memory is committed when it is touched.
 */
#include "internal.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL                           /* Linux 6.3; without it the kernel logs a complaint. */
#define MFD_NOEXEC_SEAL 0x0008U
#endif

int mapping_descriptor(size_t bytes)
{
    /* Past RLIMIT_FSIZE ftruncate(2) would not only fail but raise SIGXFSZ. */
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bytes) return -1;
    int descriptor = memfd_create("tele", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (descriptor < 0 && errno == EINVAL) descriptor = memfd_create("tele", MFD_CLOEXEC);
    if (descriptor < 0) return -1;
    if (ftruncate(descriptor, (off_t)bytes) == 0) return descriptor;
    close(descriptor);
    return -1;
}

uint8_t *mapping_open(size_t bytes, int descriptor)
{
    size_t reserved = bytes + SLAB_BYTES;
    uint8_t *start = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return NULL;
    size_t before = -(uintptr_t)start % SLAB_BYTES;
    /* Shared also without a descriptor, so that holes can be punched into either in the same way. */
    int flags = MAP_SHARED | MAP_NORESERVE | MAP_FIXED | (descriptor < 0 ? MAP_ANONYMOUS : 0);
    uint8_t *mapping = mmap(start + before, bytes, PROT_READ | PROT_WRITE, flags, descriptor, 0);
    if (mapping == MAP_FAILED) {
        int error = errno;
        munmap(start, reserved);
        errno = error;
        return NULL;
    }
    if (before > 0) munmap(start, before);
    munmap(mapping + bytes, SLAB_BYTES - before);
    return mapping;
}
