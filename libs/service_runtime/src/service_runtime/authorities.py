"""The certificate authorities that our HTTP clients trust."""

import ssl
from functools import cache

import httpx


@cache
def trusted_authorities(trust_env: bool = True) -> ssl.SSLContext:
    """What httpx trusts, for the ``verify`` of a client. With ``trust_env``, ``SSL_CERT_FILE`` replaces the list.

    Read once for each process: httpx reads the list for every client again, which takes 20 ms of processor time.
    """
    return httpx.create_ssl_context(trust_env=trust_env)
