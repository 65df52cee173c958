/*
 * Faults on purpose, for tests. Only debug builds carry them (RING_FAULTS); a release build does not define
 * these functions. A rule strikes operations by their number, counted per kind from 1 on, in the order they
 * are queued.
 *
 * A failed operation never reaches the kernel; a shortened one asks the kernel for fewer bytes, and so moves
 * what it says. Rules for `ring` = NULL go to the next ring that the calling thread opens.
 */
#ifndef CRING_FAULTS_H
#define CRING_FAULTS_H

#include <stdint.h>

#include "CRing.h"

typedef enum {
    RING_FAULT_ACCEPT, RING_FAULT_CONNECT, RING_FAULT_RECEIVE, RING_FAULT_RECEIVE_POOLED, RING_FAULT_SEND,
    RING_FAULT_READABLE, RING_FAULT_WRITABLE, RING_FAULT_WATCH_HANGUP,
    RING_FAULT_QUEUE,          /* Any verb that queues: it returns the error, no completion comes. */
    RING_FAULT_CANCEL,         /* The driver has no room to cancel one operation. */
    RING_FAULT_WAIT,           /* ring_wait returns the error and does nothing. */
    RING_FAULT_KINDS
} ring_fault_kind;

enum { RING_FAULT_RULES = 16, RING_FAULT_EVERY = 0 };

typedef struct {
    uint64_t ordinal;          /* RING_FAULT_EVERY, or the number of the one operation. */
    uint8_t  kind;
    int32_t  error;            /* errno, above zero; 0: shorten. */
    uint32_t bytes;            /* Most bytes that it moves, at least 1. */
} ring_fault_rule;

typedef struct {
    ring_fault_rule rules[RING_FAULT_RULES];
    uint32_t        rule_count;
    uint64_t        seen[RING_FAULT_KINDS];
} ring_fault_plan;

/* Each returns 0, -EINVAL for a rule that makes no sense, or -ENOSPC after RING_FAULT_RULES rules. */
int ring_fault_fail(ring *ring, ring_fault_kind kind, uint64_t ordinal, int error);
/* Receives, pooled receives and sends. */
int ring_fault_shorten(ring *ring, ring_fault_kind kind, uint64_t ordinal, uint32_t bytes);
/* Drops every rule and starts counting anew. */
void ring_fault_clear(ring *ring);
/* How many of the kind the ring has seen. */
uint64_t ring_fault_count(const ring *ring, ring_fault_kind kind);

#endif
