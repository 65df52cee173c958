#include "CProof.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

int proof_hmac(const uint8_t key[PROOF_BYTES], const void *bytes, size_t count, uint8_t proof[PROOF_BYTES]) {
    unsigned length = PROOF_BYTES;
    return HMAC(EVP_sha256(), key, PROOF_BYTES, bytes, count, proof, &length) && length == PROOF_BYTES ? 0 : -1;
}
