/* Message authentication for resumes, by OpenSSL's libcrypto. */
#ifndef CPROOF_H
#define CPROOF_H

#include <stddef.h>
#include <stdint.h>

enum { PROOF_BYTES = 32 };

/* HMAC-SHA-256 (RFC 2104) over `count` bytes with a 32-byte key. 0, or -1 when libcrypto fails. */
int proof_hmac(const uint8_t key[PROOF_BYTES], const void *bytes, size_t count, uint8_t proof[PROOF_BYTES]);

#endif
