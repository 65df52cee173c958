/* What a process authenticates with. */
#include "internal.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* One suite of one hash: offering others beside a SHA-256 key fails with a misleading error. */
static const char suite[] = "TLS_AES_128_GCM_SHA256";
static const unsigned char suite_id[] = {0x13, 0x01};

void tls_explain(char *why, size_t why_bytes, const char *otherwise)
{
    unsigned long code = ERR_peek_last_error();
    const char *words = code ? ERR_reason_error_string(code) : NULL;
    snprintf(why, why_bytes, "%s", words ? words : otherwise);
    ERR_clear_error();
}

static SSL_SESSION *session_of(SSL *ssl, const uint8_t key[TLS_KEY_BYTES])
{
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, suite_id);
    SSL_SESSION *session = SSL_SESSION_new();
    if (session && cipher && SSL_SESSION_set1_master_key(session, key, TLS_KEY_BYTES)
        && SSL_SESSION_set_cipher(session, cipher) && SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION))
        return session;
    SSL_SESSION_free(session);
    return NULL;
}

static int use_key(SSL *ssl, const EVP_MD *hash, const unsigned char **identity, size_t *count, SSL_SESSION **session)
{
    tls_context *context = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    if (hash && EVP_MD_get_type(hash) != NID_sha256) {
        *session = NULL;
        return 1;
    }
    *session = session_of(ssl, context->keys[0].key);
    *identity = (const unsigned char *)context->keys[0].identity;
    *count = strlen(context->keys[0].identity);
    return *session != NULL;
}

/* An identity that nobody has gets a key that nobody has: it fails as a wrong key fails. */
static int find_key(SSL *ssl, const unsigned char *identity, size_t count, SSL_SESSION **session)
{
    tls_context *context = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    tls_channel *channel = SSL_get_app_data(ssl);
    uint8_t nobody[TLS_KEY_BYTES];
    if (RAND_bytes(nobody, sizeof nobody) != 1) return 0;
    const uint8_t *key = nobody;
    free(channel->peer);
    channel->peer = NULL;
    for (size_t index = 0; index < context->count; index++) {
        const tls_key *known = &context->keys[index];
        if (strlen(known->identity) != count || memcmp(known->identity, identity, count) != 0) continue;
        key = known->key;
        channel->peer = strdup(known->identity);
    }
    *session = session_of(ssl, key);
    return *session != NULL;
}

/* ALPN (RFC 7301), so that a load balancer can tell carriers from other TLS at the same port: "tele". */
static const unsigned char protocols[] = {4, 't', 'e', 'l', 'e'};

/* Who asks for other protocols only has come to the wrong server (ALPACA). Clients older than this ask for none. */
static int select_protocol(SSL *ssl, const unsigned char **chosen, unsigned char *count, const unsigned char *offered, unsigned offered_count, void *none)
{
    (void)ssl, (void)none;
    if (SSL_select_next_proto((unsigned char **)chosen, count, protocols, sizeof protocols, offered, offered_count) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    /* It may point into what was offered, which is gone by then. */
    *chosen = protocols + 1;
    return SSL_TLSEXT_ERR_OK;
}

static tls_context *context_new(bool is_server, char *why, size_t why_bytes)
{
    tls_context *context = calloc(1, sizeof *context);
    if (!context) return NULL;
    context->is_server = is_server;
    context->references = 1;
    context->ssl = SSL_CTX_new(is_server ? TLS_server_method() : TLS_client_method());
    if (context->ssl && SSL_CTX_set_min_proto_version(context->ssl, TLS1_3_VERSION)
        && SSL_CTX_set_max_proto_version(context->ssl, TLS1_3_VERSION) && SSL_CTX_set_ciphersuites(context->ssl, suite)
        && SSL_CTX_set_num_tickets(context->ssl, 0)) {
        SSL_CTX_set_app_data(context->ssl, context);
        SSL_CTX_set_session_cache_mode(context->ssl, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_max_early_data(context->ssl, 0);
        SSL_CTX_set_mode(context->ssl, SSL_MODE_RELEASE_BUFFERS);
        SSL_CTX_set_keylog_callback(context->ssl, tls_note_secret);
        SSL_CTX_set_verify(context->ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
        if (is_server) SSL_CTX_set_alpn_select_cb(context->ssl, select_protocol, NULL);
        else if (SSL_CTX_set_alpn_protos(context->ssl, protocols, sizeof protocols) != 0) goto failed;
        return context;
    }
failed:
    tls_explain(why, why_bytes, "OpenSSL cannot be set up");
    tls_context_release(context);
    return NULL;
}

tls_context *tls_context_keys(bool is_server, const tls_key *keys, size_t count, char *why, size_t why_bytes)
{
    tls_context *context = context_new(is_server, why, why_bytes);
    if (!context) return NULL;
    context->keys = calloc(count, sizeof *keys);
    if (!context->keys) {
        tls_context_release(context);
        return NULL;
    }
    memcpy(context->keys, keys, count * sizeof *keys);
    context->count = count;
    if (is_server) {
        /* Without a certificate of its own, and nobody asked for one: only a key opens. */
        SSL_CTX_set_verify(context->ssl, SSL_VERIFY_NONE, NULL);
        SSL_CTX_set_psk_find_session_callback(context->ssl, find_key);
    } else {
        SSL_CTX_set_psk_use_session_callback(context->ssl, use_key);
    }
    return context;
}

/* A daemon has nobody to ask for a passphrase, and a terminal would block it. */
static int no_passphrase(char *room, int count, int is_writing, void *was_asked)
{
    (void)room, (void)count, (void)is_writing;
    *(bool *)was_asked = true;
    return -1;
}

tls_context *tls_context_certificates(bool is_server, const char *chain, const char *key, const char *authorities,
                                      char *why, size_t why_bytes)
{
    tls_context *context = context_new(is_server, why, why_bytes);
    if (!context) return NULL;
    const char *what = NULL;
    bool was_asked = false;
    SSL_CTX_set_default_passwd_cb(context->ssl, no_passphrase);
    SSL_CTX_set_default_passwd_cb_userdata(context->ssl, &was_asked);
    if (SSL_CTX_use_certificate_chain_file(context->ssl, chain) != 1) what = chain;
    else if (SSL_CTX_use_PrivateKey_file(context->ssl, key, SSL_FILETYPE_PEM) != 1) what = key;
    else if (SSL_CTX_check_private_key(context->ssl) != 1) what = key;
    else if (SSL_CTX_load_verify_locations(context->ssl, authorities, NULL) != 1) what = authorities;
    SSL_CTX_set_default_passwd_cb_userdata(context->ssl, NULL);
    if (!what) {
        SSL_CTX_set_purpose(context->ssl, is_server ? X509_PURPOSE_SSL_CLIENT : X509_PURPOSE_SSL_SERVER);
        return context;
    }
    char words[REASON_BYTES];
    tls_explain(words, sizeof words, "cannot be used");
    if (was_asked) snprintf(words, sizeof words, "it is encrypted, and tele asks nobody for a passphrase");
    snprintf(why, why_bytes, "%s: %s", what, words);
    tls_context_release(context);
    return NULL;
}

void tls_context_release(tls_context *context)
{
    if (!context || --context->references > 0) return;
    SSL_CTX_free(context->ssl);
    if (context->keys) {
        OPENSSL_cleanse(context->keys, context->count * sizeof *context->keys);
        free(context->keys);
    }
    free(context);
}

static int64_t end_of(const X509 *certificate)
{
    struct tm time;
    return ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &time) == 1 ? (int64_t)timegm(&time) : INT64_MAX;
}

int64_t tls_context_expiry(const tls_context *context)
{
    X509 *own = context->keys ? NULL : SSL_CTX_get0_certificate(context->ssl);
    if (!own) return 0;
    int64_t first = end_of(own), last = 0;
    STACK_OF(X509) *chain = NULL;
    SSL_CTX_get0_chain_certs(context->ssl, &chain);
    for (int index = 0; index < sk_X509_num(chain); index++) {
        int64_t end = end_of(sk_X509_value(chain, index));
        if (end < first) first = end;
    }
    STACK_OF(X509_OBJECT) *trusted = X509_STORE_get0_objects(SSL_CTX_get_cert_store(context->ssl));
    for (int index = 0; index < sk_X509_OBJECT_num(trusted); index++) {
        const X509 *authority = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(trusted, index));
        if (authority && end_of(authority) > last) last = end_of(authority);
    }
    return last > 0 && last < first ? last : first;
}

int tls_random(uint8_t *bytes, size_t count) { return RAND_priv_bytes(bytes, (int)count) == 1 ? 0 : -1; }

int tls_fingerprint(const uint8_t key[TLS_KEY_BYTES], uint8_t *bytes, size_t count)
{
    uint8_t hash[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    if (!EVP_Digest(key, TLS_KEY_BYTES, hash, &length, EVP_sha256(), NULL) || length < count) return -1;
    memcpy(bytes, hash, count);
    return 0;
}

void tls_forget(void *bytes, size_t count) { OPENSSL_cleanse(bytes, count); }
