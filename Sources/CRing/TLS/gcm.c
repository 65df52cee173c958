/*
 * AES-128-GCM by intel-ipsec-mb, as a provider of OpenSSL. OpenSSL 3.0 knows AES-NI only; where the processor has the same
 * for vectors (VAES, AVX-512) this is more than four times as fast. TLS, its keys, nonces and limits stay OpenSSL's.
 *
 * Before it is used, it must agree with OpenSSL's own on what it seals, and refuse what was changed.
 */
#include "internal.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <string.h>

#ifdef __x86_64__

#include <intel-ipsec-mb.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/provider.h>
#include <stdlib.h>

enum { KEY_BYTES = 16, IV_BYTES = 12, TAG_BYTES = 16 };

#define PROPERTY "provider=tele"
static const char name[] = "AES-128-GCM:id-aes128-GCM:2.16.840.1.101.3.4.1.6";

typedef struct {
    struct gcm_key_data key;             /* First: it wants alignment. */
    struct gcm_context_data state;
    uint8_t iv[IV_BYTES], tag[TAG_BYTES];
    bool encrypts, has_key, has_iv, has_tag;
    bool has_begun;                      /* The IV is used up. */
} gcm;

/* What an IMB_MGR points to. Its table of them would bring in every algorithm of the library: 13 MiB. That they still do what
 * they did is found out before they are used. */
#define FUNCTION(type, name) extern __typeof__(*(type)0) name
FUNCTION(keyexp_t, aes_keyexp_128_avx2);
FUNCTION(aes_gcm_precomp_t, aes_gcm_precomp_128_vaes_avx512);
FUNCTION(aes_gcm_init_t, aes_gcm_init_128_vaes_avx512);
FUNCTION(aes_gcm_enc_dec_update_t, aes_gcm_enc_128_update_vaes_avx512);
FUNCTION(aes_gcm_enc_dec_update_t, aes_gcm_dec_128_update_vaes_avx512);
FUNCTION(aes_gcm_enc_dec_finalize_t, aes_gcm_enc_128_finalize_vaes_avx512);
FUNCTION(aes_gcm_enc_dec_finalize_t, aes_gcm_dec_128_finalize_vaes_avx512);

static void *gcm_new(void *provider)
{
    (void)provider;
    gcm *self = aligned_alloc(64, (sizeof *self + 63) & ~(size_t)63);
    if (self) memset(self, 0, sizeof *self);
    return self;
}

static void gcm_free(void *context)
{
    if (!context) return;
    OPENSSL_cleanse(context, sizeof(gcm));
    free(context);
}

static int gcm_init(gcm *self, bool encrypts, const uint8_t *key, size_t key_bytes, const uint8_t *iv, size_t iv_bytes)
{
    if ((key && key_bytes != KEY_BYTES) || (iv && iv_bytes != IV_BYTES)) return 0;
    self->encrypts = encrypts;
    self->has_begun = self->has_tag = false;
    if (key) {
        uint8_t for_decryption[sizeof self->key.expanded_keys];      /* GCM has no use for these. */
        aes_keyexp_128_avx2(key, self->key.expanded_keys, for_decryption);
        OPENSSL_cleanse(for_decryption, sizeof for_decryption);
        aes_gcm_precomp_128_vaes_avx512(&self->key);
        self->has_key = true;
    }
    if (iv) memcpy(self->iv, iv, IV_BYTES);
    self->has_iv = iv != NULL;
    return 1;
}

static int gcm_encrypt_init(void *context, const unsigned char *key, size_t key_bytes, const unsigned char *iv,
                            size_t iv_bytes, const OSSL_PARAM *parameters)
{
    (void)parameters;
    return gcm_init(context, true, key, key_bytes, iv, iv_bytes);
}

static int gcm_decrypt_init(void *context, const unsigned char *key, size_t key_bytes, const unsigned char *iv,
                            size_t iv_bytes, const OSSL_PARAM *parameters)
{
    (void)parameters;
    return gcm_init(context, false, key, key_bytes, iv, iv_bytes);
}

/* Once for each IV, with all that is authenticated only. */
static bool gcm_begin(gcm *self, const uint8_t *authenticated, size_t count)
{
    if (!self->has_key || !self->has_iv || self->has_begun) return false;
    aes_gcm_init_128_vaes_avx512(&self->key, &self->state, self->iv, authenticated, count);
    self->has_begun = true;
    return true;
}

static int gcm_update(void *context, unsigned char *out, size_t *written, size_t room, const unsigned char *in, size_t count)
{
    gcm *self = context;
    if (!out) {
        *written = count;
        return gcm_begin(self, in, count);
    }
    if (room < count || (!self->has_begun && !gcm_begin(self, NULL, 0))) return 0;
    if (self->encrypts) aes_gcm_enc_128_update_vaes_avx512(&self->key, &self->state, out, in, count);
    else aes_gcm_dec_128_update_vaes_avx512(&self->key, &self->state, out, in, count);
    *written = count;
    return 1;
}

static int gcm_final(void *context, unsigned char *out, size_t *written, size_t room)
{
    (void)out, (void)room;
    gcm *self = context;
    uint8_t tag[TAG_BYTES];
    *written = 0;
    if (!self->has_begun && !gcm_begin(self, NULL, 0)) return 0;
    self->has_iv = false;
    if (self->encrypts) {
        aes_gcm_enc_128_finalize_vaes_avx512(&self->key, &self->state, self->tag, TAG_BYTES);
        self->has_tag = true;
        return 1;
    }
    aes_gcm_dec_128_finalize_vaes_avx512(&self->key, &self->state, tag, TAG_BYTES);
    return self->has_tag && CRYPTO_memcmp(tag, self->tag, TAG_BYTES) == 0;
}

static const OSSL_PARAM *gettable(void *provider)
{
    static const OSSL_PARAM known[] = {
        OSSL_PARAM_uint(OSSL_CIPHER_PARAM_MODE, NULL), OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_KEYLEN, NULL),
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_IVLEN, NULL), OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_BLOCK_SIZE, NULL),
        OSSL_PARAM_int(OSSL_CIPHER_PARAM_AEAD, NULL), OSSL_PARAM_int(OSSL_CIPHER_PARAM_CUSTOM_IV, NULL), OSSL_PARAM_END
    };
    (void)provider;
    return known;
}

static int put_size(OSSL_PARAM parameters[], const char *what, size_t size)
{
    OSSL_PARAM *found = OSSL_PARAM_locate(parameters, what);
    return !found || OSSL_PARAM_set_size_t(found, size);
}

static int get_parameters(OSSL_PARAM parameters[])
{
    OSSL_PARAM *mode = OSSL_PARAM_locate(parameters, OSSL_CIPHER_PARAM_MODE);
    OSSL_PARAM *aead = OSSL_PARAM_locate(parameters, OSSL_CIPHER_PARAM_AEAD);
    OSSL_PARAM *custom = OSSL_PARAM_locate(parameters, OSSL_CIPHER_PARAM_CUSTOM_IV);
    return (!mode || OSSL_PARAM_set_uint(mode, EVP_CIPH_GCM_MODE)) && (!aead || OSSL_PARAM_set_int(aead, 1))
        && (!custom || OSSL_PARAM_set_int(custom, 1)) && put_size(parameters, OSSL_CIPHER_PARAM_BLOCK_SIZE, 1)
        && put_size(parameters, OSSL_CIPHER_PARAM_KEYLEN, KEY_BYTES) && put_size(parameters, OSSL_CIPHER_PARAM_IVLEN, IV_BYTES);
}

static const OSSL_PARAM *gettable_of_context(void *context, void *provider)
{
    static const OSSL_PARAM known[] = {
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_KEYLEN, NULL), OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_IVLEN, NULL),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, NULL, 0), OSSL_PARAM_END
    };
    (void)context, (void)provider;
    return known;
}

static int get_context(void *context, OSSL_PARAM parameters[])
{
    gcm *self = context;
    OSSL_PARAM *tag = OSSL_PARAM_locate(parameters, OSSL_CIPHER_PARAM_AEAD_TAG);
    if (tag && (!self->encrypts || !self->has_tag || tag->data_size > TAG_BYTES
                || !OSSL_PARAM_set_octet_string(tag, self->tag, tag->data_size)))
        return 0;
    return put_size(parameters, OSSL_CIPHER_PARAM_KEYLEN, KEY_BYTES) && put_size(parameters, OSSL_CIPHER_PARAM_IVLEN, IV_BYTES);
}

static const OSSL_PARAM *settable_of_context(void *context, void *provider)
{
    static const OSSL_PARAM known[] = {
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_AEAD_IVLEN, NULL),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, NULL, 0), OSSL_PARAM_END
    };
    (void)context, (void)provider;
    return known;
}

/* One length of IV, one of key, one of tag: those of TLS. */
static int set_context(void *context, const OSSL_PARAM parameters[])
{
    gcm *self = context;
    const OSSL_PARAM *found = OSSL_PARAM_locate_const(parameters, OSSL_CIPHER_PARAM_AEAD_IVLEN);
    size_t count = 0;
    if (found && (!OSSL_PARAM_get_size_t(found, &count) || count != IV_BYTES)) return 0;
    found = OSSL_PARAM_locate_const(parameters, OSSL_CIPHER_PARAM_AEAD_TAG);
    if (!found) return 1;
    if (self->encrypts || found->data_type != OSSL_PARAM_OCTET_STRING || found->data_size != TAG_BYTES || !found->data) return 0;
    memcpy(self->tag, found->data, TAG_BYTES);
    self->has_tag = true;
    return 1;
}

static const OSSL_ALGORITHM *operations(void *provider, int operation, int *may_not_be_stored)
{
    static const OSSL_DISPATCH functions[] = {
        {OSSL_FUNC_CIPHER_NEWCTX, (void (*)(void))gcm_new},
        {OSSL_FUNC_CIPHER_FREECTX, (void (*)(void))gcm_free},
        {OSSL_FUNC_CIPHER_ENCRYPT_INIT, (void (*)(void))gcm_encrypt_init},
        {OSSL_FUNC_CIPHER_DECRYPT_INIT, (void (*)(void))gcm_decrypt_init},
        {OSSL_FUNC_CIPHER_UPDATE, (void (*)(void))gcm_update},
        {OSSL_FUNC_CIPHER_FINAL, (void (*)(void))gcm_final},
        {OSSL_FUNC_CIPHER_GET_PARAMS, (void (*)(void))get_parameters},
        {OSSL_FUNC_CIPHER_GETTABLE_PARAMS, (void (*)(void))gettable},
        {OSSL_FUNC_CIPHER_GET_CTX_PARAMS, (void (*)(void))get_context},
        {OSSL_FUNC_CIPHER_GETTABLE_CTX_PARAMS, (void (*)(void))gettable_of_context},
        {OSSL_FUNC_CIPHER_SET_CTX_PARAMS, (void (*)(void))set_context},
        {OSSL_FUNC_CIPHER_SETTABLE_CTX_PARAMS, (void (*)(void))settable_of_context},
        {0, NULL}
    };
    static const OSSL_ALGORITHM ciphers[] = {{name, PROPERTY, functions, NULL}, {NULL, NULL, NULL, NULL}};
    (void)provider;
    *may_not_be_stored = 0;
    return operation == OSSL_OP_CIPHER ? ciphers : NULL;
}

static int start(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out, void **context)
{
    static const OSSL_DISPATCH functions[] = {{OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))operations}, {0, NULL}};
    (void)in;
    *out = functions;
    *context = (void *)handle;
    return 1;
}

/* Seals (or, with `tag` given, opens) `count` bytes in place, as TLS does it. */
static bool run(const EVP_CIPHER *cipher, bool seals, uint8_t *bytes, size_t count, uint8_t tag[TAG_BYTES])
{
    uint8_t key[KEY_BYTES], iv[IV_BYTES], header[5] = {23, 3, 3, (uint8_t)(count >> 8), (uint8_t)count};
    for (int index = 0; index < KEY_BYTES; index++) key[index] = (uint8_t)(count + 7 * (size_t)index);
    for (int index = 0; index < IV_BYTES; index++) iv[index] = (uint8_t)(count * 3 + (size_t)index);
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    int length = 0, rest = 0;
    bool holds = context && EVP_CipherInit_ex(context, cipher, NULL, NULL, NULL, seals)
        && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_IVLEN, IV_BYTES, NULL) > 0
        && EVP_CipherInit_ex(context, NULL, NULL, key, NULL, -1) && EVP_CipherInit_ex(context, NULL, NULL, NULL, iv, seals)
        && (seals || EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, tag) > 0)
        && EVP_CipherUpdate(context, NULL, &length, header, sizeof header)
        && EVP_CipherUpdate(context, bytes, &length, bytes, (int)count) && EVP_CipherFinal_ex(context, bytes + length, &rest)
        && (size_t)(length + rest) == count
        && (!seals || EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, tag) > 0);
    EVP_CIPHER_CTX_free(context);
    return holds;
}

bool tls_vectors_agree(size_t count)
{
    static const size_t room = TLS_RECORD_BYTES + 64;
    EVP_CIPHER *ours = EVP_CIPHER_fetch(NULL, "AES-128-GCM", PROPERTY);
    EVP_CIPHER *theirs = EVP_CIPHER_fetch(NULL, "AES-128-GCM", "provider=default");
    uint8_t *plain = malloc(3 * room), tag[TAG_BYTES], same[TAG_BYTES];
    bool holds = ours && theirs && plain && count <= room;
    if (holds) {
        uint8_t *one = plain + room, *other = one + room;
        for (size_t index = 0; index < count; index++) plain[index] = (uint8_t)(index * 31 + (index >> 8));
        memcpy(one, plain, count);
        memcpy(other, plain, count);
        holds = run(ours, true, one, count, tag) && run(theirs, true, other, count, same) && memcmp(one, other, count) == 0
            && memcmp(tag, same, TAG_BYTES) == 0 && run(ours, false, one, count, tag) && memcmp(one, plain, count) == 0;
        if (holds && count > 0) {
            other[count / 2] ^= 1;
            holds = !run(ours, false, other, count, tag);
        }
    }
    free(plain);
    EVP_CIPHER_free(ours);
    EVP_CIPHER_free(theirs);
    return holds;
}

/* What the library asks for before it takes these functions (IMB_CPUFLAGS_AVX512_T2). */
static bool has_processor(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512ifma")
        && __builtin_cpu_supports("vaes") && __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("gfni")
        && __builtin_cpu_supports("bmi2");
}

static bool is_loaded;

static void load(void)
{
    static const size_t sizes[] = {1, 17, 255, 1500, TLS_RECORD_BYTES + 1};
    if (!has_processor()) return;
    /* A provider that is loaded by name keeps OpenSSL from loading its own by itself. */
    if (!OSSL_PROVIDER_load(NULL, "default") || !OSSL_PROVIDER_add_builtin(NULL, "tele", start)) return;
    OSSL_PROVIDER *provider = OSSL_PROVIDER_load(NULL, "tele");
    if (!provider) return;
    is_loaded = true;
    for (size_t index = 0; index < sizeof sizes / sizeof *sizes; index++) is_loaded &= tls_vectors_agree(sizes[index]);
    if (!is_loaded) OSSL_PROVIDER_unload(provider);
}

const char *gcm_properties(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load);
    return is_loaded ? "?" PROPERTY : NULL;
}

bool tls_has_vectors(void) { return gcm_properties() != NULL; }

#else

const char *gcm_properties(void) { return NULL; }
bool tls_has_vectors(void) { return false; }
bool tls_vectors_agree(size_t count) { return (void)count, false; }

#endif
