/* One connection. */
#include "internal.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_number(const char *host)
{
    unsigned char number[16];
    return inet_pton(AF_INET, host, number) == 1 || inet_pton(AF_INET6, host, number) == 1;
}

/* Whom the peer's certificate must name. */
static bool expect(X509_VERIFY_PARAM *rules, const char *host)
{
    return is_number(host) ? X509_VERIFY_PARAM_set1_ip_asc(rules, host) == 1 : X509_VERIFY_PARAM_set1_host(rules, host, 0) == 1;
}

static bool begin_handshake(tls_channel *channel, const char *host)
{
    channel->ssl = SSL_new(channel->context->ssl);
    BIO *bio = channel->ssl ? tls_bio(channel) : NULL;
    if (!bio) return false;
    SSL_set_bio(channel->ssl, bio, bio);
    if (!SSL_set_app_data(channel->ssl, channel)) return false;
    if (channel->context->is_server) {
        SSL_set_accept_state(channel->ssl);
        return true;
    }
    SSL_set_connect_state(channel->ssl);
    if (!host) return true;
    /* The server's name (RFC 6066 section 3), by which a load balancer may choose. With a key nobody checks it. */
    if (!is_number(host) && SSL_set_tlsext_host_name(channel->ssl, host) != 1) return false;
    if (channel->context->keys) return true;
    channel->host = strdup(host);
    return channel->host && expect(SSL_get0_param(channel->ssl), host);
}

tls_channel *tls_channel_open(tls_context *context, const char *host)
{
    tls_channel *channel = calloc(1, sizeof *channel);
    if (!channel) return NULL;
    channel->context = context;
    context->references++;
    if (begin_handshake(channel, host)) return channel;
    tls_channel_close(channel);
    return NULL;
}

void tls_channel_close(tls_channel *channel)
{
    if (!channel) return;
    tls_end_records(channel);
    SSL_free(channel->ssl);
    ERR_clear_error();
    OPENSSL_cleanse(channel->exporter, sizeof channel->exporter);
    free(channel->spill);
    free(channel->host);
    free(channel->chain);
    free(channel->peer);
    free(channel->reason);
    tls_context_release(channel->context);
    free(channel);
}

void tls_feed(tls_channel *channel, const void *bytes, size_t count)
{
    channel->in = bytes;
    channel->in_count = count;
}

size_t tls_fed(const tls_channel *channel)
{
    return channel->in_count + (channel->plain ? channel->plain_end - channel->plain_begin : 0);
}

size_t tls_owed(const tls_channel *channel) { return channel->spill_count + (channel->owes_update ? TLS_RECORD_OVERHEAD : 0); }
const char *tls_peer(const tls_channel *channel) { return channel->is_open && channel->peer ? channel->peer : ""; }
const char *tls_reason(const tls_channel *channel) { return channel->reason ? channel->reason : ""; }

int tls_fail(tls_channel *channel, const char *reason)
{
    free(channel->reason);
    channel->reason = strdup(reason);
    return -1;
}

static int handshake_failed(tls_channel *channel)
{
    char words[REASON_BYTES];
    long verified = SSL_get_verify_result(channel->ssl);
    if (verified != X509_V_OK) {
        snprintf(words, sizeof words, "its certificate: %s", X509_verify_cert_error_string(verified));
        ERR_clear_error();
    } else {
        tls_explain(words, sizeof words, "the handshake failed");
    }
    return tls_fail(channel, words);
}

/* The first DNS name of the peer's certificate, else its common name. */
static bool name_of_certificate(tls_channel *channel)
{
    char name[TLS_IDENTITY_MAXIMUM];
    X509 *certificate = SSL_get1_peer_certificate(channel->ssl);
    if (!certificate) return false;
    bool found = false;
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    for (int index = 0; names && index < sk_GENERAL_NAME_num(names) && !found; index++) {
        const GENERAL_NAME *other = sk_GENERAL_NAME_value(names, index);
        if (other->type != GEN_DNS) continue;
        int count = ASN1_STRING_length(other->d.dNSName);
        if (count <= 0 || count >= TLS_IDENTITY_MAXIMUM) continue;
        memcpy(name, ASN1_STRING_get0_data(other->d.dNSName), (size_t)count);
        name[count] = 0;
        found = strlen(name) == (size_t)count;
    }
    GENERAL_NAMES_free(names);
    if (!found) {
        int count = X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, name, sizeof name);
        found = count > 0 && strlen(name) == (size_t)count;   /* "good\0evil" is nobody's name. */
    }
    X509_free(certificate);
    if (found) channel->peer = strdup(name);
    return found && channel->peer;
}

/* The peer's certificates stay as bytes: as objects they take ten times as much. */
static bool keep_chain(tls_channel *channel)
{
    X509 *own = SSL_get0_peer_certificate(channel->ssl);
    STACK_OF(X509) *chain = SSL_get_peer_cert_chain(channel->ssl);
    size_t total = (size_t)i2d_X509(own, NULL);
    for (int index = 0; index < sk_X509_num(chain); index++) total += (size_t)i2d_X509(sk_X509_value(chain, index), NULL);
    channel->chain = malloc(total);
    if (!channel->chain) return false;
    unsigned char *end = channel->chain;
    i2d_X509(own, &end);
    for (int index = 0; index < sk_X509_num(chain); index++) {
        X509 *next = sk_X509_value(chain, index);
        if (next != own) i2d_X509(next, &end);       /* A client's chain begins with it, a server's does not. */
    }
    channel->chain_bytes = (size_t)(end - channel->chain);
    return true;
}

bool tls_is_trusted(const tls_channel *channel, const tls_context *context)
{
    const unsigned char *bytes = channel->chain, *end = bytes + channel->chain_bytes;
    X509 *certificate = bytes ? d2i_X509(NULL, &bytes, end - bytes) : NULL;
    STACK_OF(X509) *chain = certificate ? sk_X509_new_null() : NULL;
    bool holds = chain != NULL;
    while (holds && bytes < end) {
        X509 *next = d2i_X509(NULL, &bytes, end - bytes);
        holds = next && sk_X509_push(chain, next) > 0;
        if (!holds) X509_free(next);
    }
    X509_STORE_CTX *check = holds ? X509_STORE_CTX_new() : NULL;
    holds = check && X509_STORE_CTX_init(check, SSL_CTX_get_cert_store(context->ssl), certificate, chain) == 1
            && X509_STORE_CTX_set_default(check, context->is_server ? "ssl_client" : "ssl_server") == 1
            && X509_VERIFY_PARAM_set1(X509_STORE_CTX_get0_param(check), SSL_CTX_get0_param(context->ssl)) == 1
            && (!channel->host || expect(X509_STORE_CTX_get0_param(check), channel->host));
    if (holds) {
        X509_STORE_CTX_set_flags(check, X509_V_FLAG_NO_CHECK_TIME);
        holds = X509_verify_cert(check) == 1;
    }
    X509_STORE_CTX_free(check);
    sk_X509_pop_free(chain, X509_free);
    X509_free(certificate);
    ERR_clear_error();
    return holds;
}

/* OpenSSL is content; are we? */
static const char *complaint(tls_channel *channel)
{
    if (SSL_version(channel->ssl) != TLS1_3_VERSION) return "it speaks an older TLS";
    if (channel->context->keys) {
        /* A server with some certificate and without the key gets this far. */
        if (SSL_session_reused(channel->ssl) != 1) return "it does not have the key";
        if (!channel->context->is_server) channel->peer = strdup(channel->context->keys[0].identity);
        return channel->peer ? NULL : "it does not have the key";
    }
    if (SSL_get_verify_result(channel->ssl) != X509_V_OK || !name_of_certificate(channel)) return "it has no certificate with a name";
    return keep_chain(channel) ? NULL : "no memory for its certificates";
}

/* From the handshake to the records: OpenSSL's object goes. */
static int finish_handshake(tls_channel *channel)
{
    static const char label[] = "EXPORTER-tele-resume";
    const char *reason = complaint(channel);
    if (!reason && SSL_export_keying_material(channel->ssl, channel->exporter, TLS_EXPORTER_BYTES, label, sizeof label - 1, NULL, 0, 0) != 1)
        reason = "no keying material could be had";
    if (!reason && !tls_begin_records(channel)) reason = "its keys could not be made";
    if (reason) return tls_fail(channel, reason);
    channel->is_open = true;
    SSL_free(channel->ssl);
    channel->ssl = NULL;
    return 1;
}

int tls_handshake(tls_channel *channel)
{
    if (channel->is_open) return 1;
    ERR_clear_error();
    int result = SSL_do_handshake(channel->ssl);
    if (result == 1) return finish_handshake(channel);
    return SSL_get_error(channel->ssl, result) == SSL_ERROR_WANT_READ ? 0 : handshake_failed(channel);
}

int tls_exporter(const tls_channel *channel, uint8_t material[TLS_EXPORTER_BYTES])
{
    if (!channel->is_open) return -1;
    memcpy(material, channel->exporter, TLS_EXPORTER_BYTES);
    return 0;
}
