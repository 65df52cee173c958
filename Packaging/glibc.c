/*
 * What glibc has had since 2.35 and 2.36 only, by means of what it had before: so the package's program also runs with glibc 2.34 (RHEL 9,
 * Ubuntu 22.04). Linked into the package; Tests/Package checks that nothing newer is left.
 */
#define _GNU_SOURCE
#include <link.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The versions of before: the newer ones differ in how they report a range error. */
#if defined(__x86_64__)
#define OLDEST "GLIBC_2.2.5"
#else
#define OLDEST "GLIBC_2.17"
#endif
extern double hypot_of_before(double x, double y);
extern float hypotf_of_before(float x, float y);
__asm__(".symver hypot_of_before, hypot@" OLDEST);
__asm__(".symver hypotf_of_before, hypotf@" OLDEST);
double hypot(double x, double y) { return hypot_of_before(x, y); }
float hypotf(float x, float y) { return hypotf_of_before(x, y); }

int epoll_pwait2(int fd, struct epoll_event *events, int most, const struct timespec *timeout, const sigset_t *set) {
    return (int)syscall(SYS_epoll_pwait2, fd, events, most, timeout, set, (size_t)8);
}

/* getrandom(2) blocks until the kernel has enough, and then never fails for 256 bytes. */
void arc4random_buf(void *memory, size_t count) {
    for (uint8_t *at = memory; count > 0;) {
        ssize_t part = getrandom(at, count < 256 ? count : 256, 0);
        if (part <= 0) continue;
        at += part;
        count -= (size_t)part;
    }
}

uint32_t arc4random(void) {
    uint32_t value;
    arc4random_buf(&value, sizeof value);
    return value;
}

uint32_t arc4random_uniform(uint32_t bound) {
    if (bound < 2) return 0;
    uint32_t value, least = -bound % bound;   /* Below it some results would be likelier than others. */
    do value = arc4random(); while (value < least);
    return value % bound;
}

/* For the unwinder of C++ and C: which object has this address, and where its table of frames is. */
typedef struct { uintptr_t address; struct dl_find_object *found; } search;

static int look(struct dl_phdr_info *object, size_t size, void *context) {
    (void)size;
    search *search = context;
    uintptr_t start = UINTPTR_MAX, end = 0, frames = 0;
    for (size_t i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        uintptr_t at = object->dlpi_addr + part->p_vaddr;
        if (part->p_type == PT_GNU_EH_FRAME) frames = at;
        if (part->p_type != PT_LOAD) continue;
        if (at < start) start = at;
        if (at + part->p_memsz > end) end = at + part->p_memsz;
    }
    if (!frames || search->address < start || search->address >= end) return 0;
    search->found->dlfo_flags = 0;
    search->found->dlfo_map_start = (void *)start;
    search->found->dlfo_map_end = (void *)end;
    search->found->dlfo_link_map = NULL;
    search->found->dlfo_eh_frame = (void *)frames;
    return 1;
}

int _dl_find_object(void *address, struct dl_find_object *found) {
    search search = { (uintptr_t)address, found };
    return dl_iterate_phdr(look, &search) == 1 ? 0 : -1;
}
