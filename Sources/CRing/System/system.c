#include "CSystem.h"
#include "CSystemWorld.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <link.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <stdlib.h>
#include <time.h>

#ifdef SIMULATION
static _Thread_local const system_world *world;

bool system_simulate(const system_world *answering) {
    world = answering;
    return true;
}

bool system_is_simulated(void) { return world != NULL; }

/* The world's addresses as getaddrinfo has them: a list, each entry with its address behind it. */
static int look_up_in_world(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **list) {
    struct { struct addrinfo entry; struct sockaddr_in address; } *found;
    uint32_t addresses[64];
    int count = 1;
    if (host == NULL) addresses[0] = INADDR_ANY;
    else if (inet_pton(AF_INET, host, addresses) != 1) {
        if (hints->ai_flags & AI_NUMERICHOST) return EAI_NONAME;
        count = world->look_up(world->context, host, addresses, sizeof addresses / sizeof *addresses);
    }
    for (int i = 0; i < count; i++) {
        found = calloc(1, sizeof *found);
        if (found == NULL) return EAI_MEMORY;
        found->address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(service)), .sin_addr.s_addr = addresses[i] };
        found->entry = (struct addrinfo){ .ai_family = AF_INET, .ai_socktype = SOCK_STREAM, .ai_addrlen = sizeof found->address,
                                          .ai_addr = (struct sockaddr *)&found->address };
        *list = &found->entry;
        list = &found->entry.ai_next;
    }
    return count < 0 ? count : 0;
}

/* Lets the world of this thread answer, if there is one. */
#define ANSWER(call, ...) if (world) return world->call(world->context __VA_OPT__(,) __VA_ARGS__)
#else
bool system_simulate(const system_world *answering) { return answering == NULL; }
bool system_is_simulated(void) { return false; }

#define ANSWER(call, ...)
#endif

/* The result of a system call that says -1 when it failed. */
static int checked(int result) { return result >= 0 ? result : -errno; }

/* Swift reads /proc/self/cmdline, and finds nothing where /proc is not mounted. glibc tells constructors what main is told. */
static int argument_count;
static char **arguments;

#ifdef __GLIBC__
__attribute__((constructor)) static void take_arguments(int count, char **words)
{
    argument_count = count;
    arguments = words;
}
#endif

int system_argument_count(void) { return argument_count; }
const char *system_argument(int index) { return index >= 0 && index < argument_count ? arguments[index] : NULL; }

/* Time and chance */

static uint64_t read_clock(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

uint64_t system_now(void) {
    ANSWER(now);
    return read_clock(CLOCK_BOOTTIME);
}

uint64_t system_slept(void) {
    ANSWER(slept);
    uint64_t awake = read_clock(CLOCK_MONOTONIC);
    return read_clock(CLOCK_BOOTTIME) - awake;
}

void system_sleep(uint64_t nanoseconds) {
    ANSWER(sleep, nanoseconds);
    struct timespec time = { .tv_sec = (time_t)(nanoseconds / 1000000000), .tv_nsec = (long)(nanoseconds % 1000000000) };
    nanosleep(&time, NULL);
}

void system_random(void *memory, size_t count) {
    ANSWER(random, memory, count);
    if (getentropy(memory, count) != 0) abort();   /* At most 256 bytes at a time, and nothing is secret without it. */
}

/* Watches */

int system_signalfd(const sigset_t *set) {
    ANSWER(watch, SYSTEM_WATCH_SIGNALS);
    signal(SIGPIPE, SIG_IGN);
    int failed = pthread_sigmask(SIG_BLOCK, set, NULL);
    return failed ? -failed : checked(signalfd(-1, set, SFD_NONBLOCK | SFD_CLOEXEC));
}

/* Whoever signals a whole group, as service managers and terminals do, means its first process, which passes the signal on: once is
 * enough. 0: anybody's. */
static pid_t signals_of;
static uint32_t wrapped_in;

uint32_t system_take_signal(int fd) {
    ANSWER(take_signal, fd);
    struct signalfd_siginfo info;
    while (read(fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (signals_of != 0 && info.ssi_pid != (uint32_t)signals_of && info.ssi_pid != (uint32_t)getpid()) continue;
        return info.ssi_signo == wrapped_in ? (uint32_t)info.ssi_int : info.ssi_signo;
    }
    return 0;
}

void system_take_signals_of(pid_t process, int wrapped)
{
    signals_of = process;
    wrapped_in = (uint32_t)wrapped;
}

void system_rearm_wake_watch(int fd) {
    ANSWER(quiet, fd);
    uint64_t nothing;
    (void)!read(fd, &nothing, sizeof nothing);
    /* It never fires by itself: in a hundred years. */
    struct itimerspec far = { .it_value.tv_sec = time(NULL) + 3153600000 };
    timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &far, NULL);
}

int system_wake_watch(void) {
    ANSWER(watch, SYSTEM_WATCH_WAKING);
    int fd = checked(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC));
    if (fd >= 0) system_rearm_wake_watch(fd);
    return fd;
}

int system_file_events(void) {
    ANSWER(watch, SYSTEM_WATCH_FILES);
    return checked(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
}

void system_watch_folder(int fd, const char *path) {
    ANSWER(quiet, fd);
    inotify_add_watch(fd, path, IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ONLYDIR);
}

int system_memory_file(const char *name) {
    int fd = memfd_create(name, MFD_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int system_exit_watch(pid_t pid) {
    int fd = (int)syscall(SYS_pidfd_open, pid, O_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

int system_no_new_privileges(void) { return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? 0 : -errno; }

/* Names */

int system_look_up(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **list) {
#ifdef SIMULATION
    if (world) return look_up_in_world(host, service, hints, list);
#endif
    return getaddrinfo(host, service, hints, list);
}

void system_free_addresses(struct addrinfo *list) {
#ifdef SIMULATION
    for (struct addrinfo *next; world && list; list = next) {
        next = list->ai_next;
        free(list);   /* As look_up_in_world allocated it. */
    }
    if (world) return;
#endif
    if (list) freeaddrinfo(list);
}

/* Sockets */

int system_socket(int family, int kind, int protocol) {
    ANSWER(socket, family, kind, protocol);
    return checked(socket(family, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol));
}

int system_bind(int fd, const struct sockaddr *address, socklen_t length) {
    ANSWER(bind, fd, address, length);
    return checked(bind(fd, address, length));
}

int system_listen(int fd, int backlog) {
    ANSWER(listen, fd, backlog);
    return checked(listen(fd, backlog));
}

int system_connect(int fd, const struct sockaddr *address, socklen_t length) {
    ANSWER(connect, fd, address, length);
    return checked(connect(fd, address, length));
}

int system_shutdown(int fd, int how) {
    ANSWER(shutdown, fd, how);
    return checked(shutdown(fd, how));
}

int system_set_option(int fd, int level, int option, const void *value, socklen_t length) {
    ANSWER(set_option, fd, level, option, value, length);
    return checked(setsockopt(fd, level, option, value, length));
}

int system_get_option(int fd, int level, int option, void *value, socklen_t *length) {
    ANSWER(get_option, fd, level, option, value, length);
    return checked(getsockopt(fd, level, option, value, length));
}

int system_local_name(int fd, struct sockaddr *address, socklen_t *length) {
    ANSWER(local_name, fd, address, length);
    return checked(getsockname(fd, address, length));
}

size_t system_interfaces(int family, system_interface *interfaces, size_t capacity) {
    ANSWER(interfaces, family, interfaces, capacity);
    struct ifaddrs *list;
    if (getifaddrs(&list) != 0) return 0;
    size_t count = 0;
    for (const struct ifaddrs *each = list; each && count < capacity; each = each->ifa_next) {
        if (!each->ifa_addr || each->ifa_addr->sa_family != family) continue;
        if (!(each->ifa_flags & IFF_UP) || !(each->ifa_flags & IFF_RUNNING) || each->ifa_flags & IFF_LOOPBACK) continue;
        uint32_t index = if_nametoindex(each->ifa_name);
        bool known = index == 0;
        for (size_t i = 0; i < count; i++) known |= interfaces[i].index == index;
        if (!known) interfaces[count++] = (system_interface){ index, (each->ifa_flags & IFF_POINTOPOINT) != 0 };
    }
    freeifaddrs(list);
    return count;
}

int system_peer_name(int fd, struct sockaddr *address, socklen_t *length) {
    ANSWER(peer_name, fd, address, length);
    return checked(getpeername(fd, address, length));
}

void system_close(int fd) {
    ANSWER(close, fd);
    close(fd);
}

int system_unacknowledged(int fd) {
    ANSWER(queued, fd, SYSTEM_QUEUED_UNACKNOWLEDGED);
    int count = 0;
    return ioctl(fd, SIOCOUTQ, &count) == 0 ? count : -errno;
}

int system_unsent(int fd) {
    ANSWER(queued, fd, SYSTEM_QUEUED_UNSENT);
    int count = 0;
    return ioctl(fd, SIOCOUTQNSD, &count) == 0 ? count : -errno;
}

int system_unread(int fd) {
    ANSWER(queued, fd, SYSTEM_QUEUED_UNREAD);
    int count = 0;
    return ioctl(fd, SIOCINQ, &count) == 0 ? count : -errno;
}

bool system_has_failed(int fd) {
    ANSWER(has_failed, fd);
    struct pollfd state = { .fd = fd };
    return poll(&state, 1, 0) < 0 || (state.revents & POLLERR) != 0;
}

int system_accept(int listener) {
    ANSWER(accept, listener);
    int fd;
    do fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC); while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
    return fd >= 0 ? fd : -errno;
}

int system_forbid_dumps(void) { return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 ? 0 : -errno; }

/* Pages of a file that nobody may write are the file's: they are read again when they are touched. */
static int forget_pages(struct dl_phdr_info *object, size_t size, void *nothing) {
    (void)size, (void)nothing;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        if (segment->p_type != PT_LOAD || segment->p_flags & PF_W) continue;
        uintptr_t start = (object->dlpi_addr + segment->p_vaddr) & ~(page - 1);
        uintptr_t end = (object->dlpi_addr + segment->p_vaddr + segment->p_memsz + page - 1) & ~(page - 1);
        madvise((void *)start, end - start, MADV_DONTNEED);
    }
    return 0;
}

void system_forget_start(void) { dl_iterate_phdr(forget_pages, NULL); }

/* The process */

size_t system_raise_descriptor_limit(void) {
    ANSWER(descriptor_limit);
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
    if (limit.rlim_cur < limit.rlim_max) {
        struct rlimit raised = { .rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max };
        if (setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
    }
    return limit.rlim_cur;
}

size_t system_descriptor_count(void) {
    ANSWER(descriptor_count);
    DIR *folder = opendir("/proc/self/fd");
    if (!folder) return 0;
    size_t count = 0;
    while (readdir(folder)) count++;
    closedir(folder);
    return count > 3 ? count - 3 : 0;   /* ".", "..", and the folder itself. */
}

unsigned system_core_count(void) {
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof cores, &cores) == 0) return (unsigned)CPU_COUNT(&cores);
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? (unsigned)count : 1;
}

/* Pipes, and what moves bytes without the ring */

int system_pipe(int ends[2], int bytes) {
    ANSWER(pipe, ends, bytes);
    if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) return -errno;
    if (fcntl(ends[1], F_SETPIPE_SZ, bytes) >= bytes) return 0;
    int error = errno;
    close(ends[0]);
    close(ends[1]);
    return -error;
}

int system_sink(void) {
    ANSWER(sink);
    return checked(open("/dev/null", O_WRONLY | O_CLOEXEC));
}

ssize_t system_splice(int from, int to, size_t count, int more) {
    ANSWER(splice, from, to, count, more);
    ssize_t moved;
    unsigned flags = SPLICE_F_NONBLOCK | SPLICE_F_MOVE | (more ? SPLICE_F_MORE : 0);
    do moved = splice(from, NULL, to, NULL, count, flags); while (moved < 0 && errno == EINTR);
    return moved >= 0 ? moved : -errno;
}

ssize_t system_tee(int from, int to, size_t count) {
    ANSWER(tee, from, to, count);
    ssize_t copied;
    do copied = tee(from, to, count, SPLICE_F_NONBLOCK); while (copied < 0 && errno == EINTR);
    return copied >= 0 ? copied : -errno;
}

ssize_t system_send_more(int fd, const struct iovec *iovecs, size_t count) {
    ANSWER(send, fd, iovecs, count);
    struct msghdr header = { .msg_iov = (struct iovec *)iovecs, .msg_iovlen = count };
    ssize_t sent;
    do sent = sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE); while (sent < 0 && errno == EINTR);
    return sent >= 0 ? sent : -errno;
}

ssize_t system_read(int fd, void *memory, size_t count) {
    ANSWER(read, fd, memory, count);
    ssize_t moved;
    do moved = read(fd, memory, count); while (moved < 0 && errno == EINTR);
    return moved >= 0 ? moved : -errno;
}

ssize_t system_write(int fd, const void *bytes, size_t count) {
    ANSWER(write, fd, bytes, count);
    ssize_t moved;
    do moved = write(fd, bytes, count); while (moved < 0 && errno == EINTR);
    return moved >= 0 ? moved : -errno;
}
