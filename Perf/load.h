// What the two sides of the load agree on: the first byte of a connection says what the user wants.
//
//   SINK    the user sends until its FIN; the origin answers with the count it received (u64), FIN
//   SOURCE  u32 milliseconds follow; the origin sends for that long, then its own count (u64), FIN
//   ECHO    whatever follows comes back
//   ANSWER  a request of REQUEST_BYTES in all (this byte included); the origin answers ANSWER_BYTES, FIN
//
// Both sides run on one machine, so numbers travel in host order.
#pragma once
#include <stdint.h>

enum { SINK = 'S', SOURCE = 'D', ECHO = 'E', ANSWER = 'R' };
enum { REQUEST_BYTES = 100, ANSWER_BYTES = 1024 };

// One call moves at most this much: large enough that the generator's system calls do not count, small
// enough to stay in the second-level cache together with the kernel's side of the copy.
enum { BLOCK_BYTES = 512 * 1024 };
extern char block[BLOCK_BYTES];

// Ends the process with one sentence; `errno` gives the reason.
_Noreturn void fail(const char *what);
int64_t nanoseconds(void);       // CLOCK_MONOTONIC
void send_at_once(int socket);   // TCP_NODELAY
void watch(int poll, int socket, uint32_t events, void *owner);     // first time
void rewatch(int poll, int socket, uint32_t events, void *owner);

// Listens on a free loopback port, prints it, and serves until it is killed.
_Noreturn void serve_origin(void);
