/* Faults on purpose: rules strike operations between the verb and the driver, so both drivers meet the same
 * ones. */
#include "ring_internal.h"

#ifdef RING_FAULTS

static _Thread_local ring_fault_plan plan_of_next_ring;

static ring_fault_plan *plan_of(ring *ring) {
    return ring ? &ring->faults : &plan_of_next_ring;
}

static int add(ring *ring, ring_fault_rule rule) {
    ring_fault_plan *plan = plan_of(ring);
    if (rule.kind >= RING_FAULT_KINDS) return -EINVAL;
    if (plan->rule_count == RING_FAULT_RULES) return -ENOSPC;
    plan->rules[plan->rule_count++] = rule;
    return 0;
}

int ring_fault_fail(ring *ring, ring_fault_kind kind, uint64_t ordinal, int error) {
    if (error <= 0) return -EINVAL;
    return add(ring, (ring_fault_rule){ .ordinal = ordinal, .kind = (uint8_t)kind, .error = error });
}

int ring_fault_shorten(ring *ring, ring_fault_kind kind, uint64_t ordinal, uint32_t bytes) {
    bool moves_bytes = kind == RING_FAULT_RECEIVE || kind == RING_FAULT_RECEIVE_POOLED
                    || kind == RING_FAULT_SEND;
    if (!moves_bytes || bytes == 0) return -EINVAL;
    return add(ring, (ring_fault_rule){ .ordinal = ordinal, .kind = (uint8_t)kind, .bytes = bytes });
}

void ring_fault_clear(ring *ring) {
    *plan_of(ring) = (ring_fault_plan){ .rule_count = 0 };
}

uint64_t ring_fault_count(const ring *ring, ring_fault_kind kind) {
    const ring_fault_plan *plan = ring ? &ring->faults : &plan_of_next_ring;
    return kind < RING_FAULT_KINDS ? plan->seen[kind] : 0;
}

void faults_adopt(ring *ring) {
    ring->faults = plan_of_next_ring;
    plan_of_next_ring = (ring_fault_plan){ .rule_count = 0 };
}

static const ring_fault_rule *strike(ring_fault_plan *plan, ring_fault_kind kind) {
    uint64_t ordinal = ++plan->seen[kind];
    for (uint32_t i = 0; i < plan->rule_count; i++) {
        const ring_fault_rule *rule = &plan->rules[i];
        bool is_its_turn = rule->ordinal == ordinal || rule->ordinal == RING_FAULT_EVERY;
        if (rule->kind == kind && is_its_turn) return rule;
    }
    return NULL;
}

static void shorten(operation *operation, uint32_t bytes) {
    if (operation->kind != OPERATION_SEND) {
        if (operation->bytes > bytes) operation->bytes = bytes;
        return;
    }
    struct msghdr *header = &operation->message->header;
    for (size_t i = 0; i < header->msg_iovlen; i++) {
        struct iovec *iovec = &header->msg_iov[i];
        if (iovec->iov_len >= bytes) {
            iovec->iov_len = bytes;
            header->msg_iovlen = i + 1;
            return;
        }
        bytes -= (uint32_t)iovec->iov_len;
    }
}

int32_t faults_apply(ring *ring, operation *operation) {
    /* The kinds of operations and of faults have the same order. */
    const ring_fault_rule *rule = strike(&ring->faults, (ring_fault_kind)operation->kind);
    if (!rule) return 0;
    if (rule->error) return -rule->error;
    shorten(operation, rule->bytes);
    return 0;
}

int faults_apply_to(ring *ring, int kind) {
    const ring_fault_rule *rule = strike(&ring->faults, (ring_fault_kind)kind);
    return rule ? -rule->error : 0;
}

#else
typedef int faults_are_for_debug_builds;
#endif
