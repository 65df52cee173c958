/*
 * A path between two hosts: carries IP packets between a TUN device in each of two network namespaces, with delay, rate, a
 * bounded queue, loss, and a switch for each direction. (Linux has netem for this, where the kernel was built with it.)
 *
 *     link CLIENT_PID SERVER_PID [DEVICE]      the namespaces are those of two processes; path0 in each, or the device of this name
 *
 * Reads lines from standard input, answers each with "ok", and ends when that closes:
 *     up RATE DELAY QUEUE LOSS     client to server: bits a second (0: none), delay in microseconds, longest wait in the queue in
 *     down RATE DELAY QUEUE LOSS   microseconds, packets lost in a million
 *     on both|up|down, off both|up|down
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { PACKETS = 1 << 16, PACKET_BYTES = 9216, ROUND = 64 };

typedef struct { int64_t due; uint32_t bytes; uint8_t *data; } packet;

/* One direction. Packets leave in the order in which they came. */
typedef struct {
    int      from, to;
    bool     on;
    uint64_t rate, loss;
    int64_t  delay, queue;
    int64_t  free_at;           /* When the line has sent what it was given. */
    packet  *packets;
    uint32_t head, tail;
} direction;

static uint64_t chance = 88172645463325252ull;

static uint64_t random_number(void) {
    chance ^= chance << 13;
    chance ^= chance >> 7;
    return chance ^= chance << 17;
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "link: %s: %s\n", what, strerror(errno));
    exit(1);
}

static const char *device = "path0";

static int open_device(const char *pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/ns/net", pid);
    int namespace = open(path, O_RDONLY | O_CLOEXEC);
    if (namespace < 0 || setns(namespace, CLONE_NEWNET)) fail(path);
    close(namespace);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) fail("/dev/net/tun");
    struct ifreq request = { .ifr_flags = IFF_TUN | IFF_NO_PI };
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
    if (ioctl(fd, TUNSETIFF, &request)) fail("TUNSETIFF");
    return fd;
}

static void take(direction *way, const uint8_t *data, size_t bytes, int64_t now) {
    if (!way->on || way->head - way->tail == PACKETS) return;
    if (way->loss && random_number() % 1000000 < way->loss) return;
    int64_t start = way->free_at > now ? way->free_at : now;
    if (way->rate) {
        if (start - now > way->queue) return;
        start += (int64_t)(bytes * 8 * 1000000000ull / way->rate);
    }
    way->free_at = start;
    packet *packet = &way->packets[way->head % PACKETS];
    packet->data = malloc(bytes);
    if (!packet->data) return;
    memcpy(packet->data, data, bytes);
    packet->bytes = (uint32_t)bytes;
    packet->due = start + way->delay;
    way->head++;
}

static void receive(direction *way, int64_t now) {
    uint8_t data[PACKET_BYTES];
    for (int i = 0; i < ROUND; i++) {
        ssize_t bytes = read(way->from, data, sizeof data);
        if (bytes <= 0) return;
        take(way, data, (size_t)bytes, now);
    }
}

/* What is switched off dies on the way, also what was sent before. */
static void deliver(direction *way, int64_t now) {
    while (way->tail != way->head) {
        packet *packet = &way->packets[way->tail % PACKETS];
        if (packet->due > now) return;
        /* A device that is down, or full, loses it. */
        if (way->on && write(way->to, packet->data, packet->bytes) < 0) { }
        free(packet->data);
        way->tail++;
    }
}

static bool obey(direction *up, direction *down, char *line) {
    char word[8], which[8];
    unsigned long long rate, delay, queue, loss;
    if (sscanf(line, "%7s %llu %llu %llu %llu", word, &rate, &delay, &queue, &loss) == 5) {
        direction *way = !strcmp(word, "up") ? up : !strcmp(word, "down") ? down : NULL;
        if (!way) return false;
        way->rate = rate;
        way->delay = (int64_t)delay * 1000;
        way->queue = (int64_t)queue * 1000;
        way->loss = loss;
        return true;
    }
    if (sscanf(line, "%7s %7s", word, which) != 2) return false;
    bool on = !strcmp(word, "on");
    if (!on && strcmp(word, "off")) return false;
    if (strcmp(which, "down")) up->on = on;
    if (strcmp(which, "up")) down->on = on;
    return true;
}

/* False: the owner is gone. */
static bool listen_to_owner(direction *up, direction *down) {
    static char text[4096];
    static size_t filled;
    ssize_t count = read(STDIN_FILENO, text + filled, sizeof text - 1 - filled);
    if (count <= 0) return false;
    filled += (size_t)count;
    text[filled] = 0;
    char *line = text, *end;
    while ((end = strchr(line, '\n'))) {
        *end = 0;
        puts(obey(up, down, line) ? "ok" : "what?");
        line = end + 1;
    }
    fflush(stdout);
    filled = strlen(line);
    memmove(text, line, filled + 1);
    return filled < sizeof text - 1;
}

int main(int count, char **words) {
    if (count != 3 && count != 4) {
        fputs("usage: link CLIENT_PID SERVER_PID [DEVICE]\n", stderr);
        return 64;
    }
    if (count == 4) device = words[3];
    prctl(PR_SET_TIMERSLACK, 1000);
    int client = open_device(words[1]), server = open_device(words[2]);
    direction up = { .from = client, .to = server, .on = true }, down = { .from = server, .to = client, .on = true };
    up.packets = calloc(PACKETS, sizeof *up.packets);
    down.packets = calloc(PACKETS, sizeof *down.packets);
    if (!up.packets || !down.packets) fail("memory");
    puts("ready");
    fflush(stdout);
    for (;;) {
        int64_t now = now_ns(), next = INT64_MAX;
        deliver(&up, now);
        deliver(&down, now);
        if (up.tail != up.head) next = up.packets[up.tail % PACKETS].due;
        if (down.tail != down.head && down.packets[down.tail % PACKETS].due < next) next = down.packets[down.tail % PACKETS].due;
        struct timespec wait = { 0 };
        if (next != INT64_MAX && next > now) {
            wait.tv_sec = (next - now) / 1000000000;
            wait.tv_nsec = (next - now) % 1000000000;
        }
        struct pollfd events[] = { { client, POLLIN, 0 }, { server, POLLIN, 0 }, { STDIN_FILENO, POLLIN, 0 } };
        if (ppoll(events, 3, next == INT64_MAX ? NULL : &wait, NULL) < 0 && errno != EINTR) fail("poll");
        now = now_ns();
        if (events[0].revents) receive(&up, now);
        if (events[1].revents) receive(&down, now);
        if (events[2].revents && !listen_to_owner(&up, &down)) return 0;
    }
}
