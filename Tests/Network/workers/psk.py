"""TLS 1.3 with a key of tele's, by OpenSSL's own library: what tele speaks is judged by somebody else's program."""

import ctypes
import errno
import hashlib

HANDLE, TEXT = ctypes.c_void_p, ctypes.c_char_p
WANT_READ, WANT_WRITE, ZERO_RETURN = 2, 3, 6
TLS_1_3 = 0x0304
SET_MIN_PROTO_VERSION = 123
KEY_UPDATE_REQUESTED = 1
FIND_SESSION = ctypes.CFUNCTYPE(ctypes.c_int, HANDLE, HANDLE, ctypes.POINTER(HANDLE), ctypes.POINTER(ctypes.c_size_t),
                                ctypes.POINTER(HANDLE))

tls = ctypes.CDLL("libssl.so.3")
for name, result, *arguments in (
        ("TLS_client_method", HANDLE), ("SSL_CTX_new", HANDLE, HANDLE), ("SSL_CTX_ctrl", ctypes.c_long, HANDLE, ctypes.c_int, ctypes.c_long, HANDLE),
        ("SSL_CTX_set_ciphersuites", ctypes.c_int, HANDLE, TEXT), ("SSL_CTX_set_psk_use_session_callback", None, HANDLE, FIND_SESSION),
        ("SSL_new", HANDLE, HANDLE), ("SSL_free", None, HANDLE), ("SSL_set_fd", ctypes.c_int, HANDLE, ctypes.c_int),
        ("SSL_connect", ctypes.c_int, HANDLE), ("SSL_read", ctypes.c_int, HANDLE, HANDLE, ctypes.c_int),
        ("SSL_write", ctypes.c_int, HANDLE, TEXT, ctypes.c_int), ("SSL_get_error", ctypes.c_int, HANDLE, ctypes.c_int),
        ("SSL_key_update", ctypes.c_int, HANDLE, ctypes.c_int), ("SSL_session_reused", ctypes.c_int, HANDLE), ("SSL_SESSION_new", HANDLE),
        ("SSL_SESSION_set1_master_key", ctypes.c_int, HANDLE, TEXT, ctypes.c_size_t),
        ("SSL_SESSION_set_cipher", ctypes.c_int, HANDLE, HANDLE), ("SSL_SESSION_set_protocol_version", ctypes.c_int, HANDLE, ctypes.c_int),
        ("SSL_CIPHER_find", HANDLE, HANDLE, TEXT)):
    getattr(tls, name).restype, getattr(tls, name).argtypes = result, arguments


class Key:
    """The key in a file of `tele keygen`."""

    def __init__(self, path):
        with open(path, encoding="ascii") as file:
            name, digits = file.read().strip().split(":")
        self.secret = bytes.fromhex(digits)
        self.identity = f"tele1:{name}:{hashlib.sha256(self.secret).hexdigest()[:12]}".encode()
        self.context = tls.SSL_CTX_new(tls.TLS_client_method())
        tls.SSL_CTX_ctrl(self.context, SET_MIN_PROTO_VERSION, TLS_1_3, None)
        tls.SSL_CTX_set_ciphersuites(self.context, b"TLS_AES_128_GCM_SHA256")
        self.kept = (FIND_SESSION(self._use), ctypes.create_string_buffer(self.identity))
        tls.SSL_CTX_set_psk_use_session_callback(self.context, self.kept[0])

    def _use(self, ssl, _hash, identity, length, session):
        made = tls.SSL_SESSION_new()
        tls.SSL_SESSION_set1_master_key(made, self.secret, len(self.secret))
        tls.SSL_SESSION_set_cipher(made, tls.SSL_CIPHER_find(ssl, b"\x13\x01"))
        tls.SSL_SESSION_set_protocol_version(made, TLS_1_3)
        identity[0], length[0], session[0] = ctypes.addressof(self.kept[1]), len(self.identity), made
        return 1


class SecureSocket:
    """What a socket is, as far as the workers need it, over a connected one that blocks until the handshake is done."""

    def __init__(self, socket, key):
        self.socket, self.key = socket, key
        self.ssl = tls.SSL_new(key.context)
        tls.SSL_set_fd(self.ssl, socket.fileno())
        if tls.SSL_connect(self.ssl) != 1 or tls.SSL_session_reused(self.ssl) != 1:
            raise OSError(errno.EPROTO, "the server did not accept the key")
        self.room = ctypes.create_string_buffer(16384)

    def fileno(self):
        return self.socket.fileno()

    def setblocking(self, blocks):
        self.socket.setblocking(blocks)

    def recv(self, _count):
        count = tls.SSL_read(self.ssl, self.room, len(self.room))
        if count > 0:
            return self.room.raw[:count]
        error = tls.SSL_get_error(self.ssl, count)
        if error in (WANT_READ, WANT_WRITE):
            raise BlockingIOError
        if error == ZERO_RETURN:
            return b""
        raise OSError(errno.EPROTO, f"TLS failed ({error})")

    def sendall(self, data):
        if tls.SSL_write(self.ssl, data, len(data)) != len(data):
            raise OSError(errno.EPIPE, "TLS took only a part")

    def renew_keys(self):
        """With what is sent next: new keys for both directions."""
        if tls.SSL_key_update(self.ssl, KEY_UPDATE_REQUESTED) != 1:
            raise OSError(errno.EPROTO, "no key update")
