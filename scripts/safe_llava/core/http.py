"""The one place where HTTP clients are made: proxies of the environment, with errors that name its variables.

A machine's own address is never asked through a proxy.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import httpx2

from safe_llava.core.errors import SafeLlavaError

VARIABLES = frozenset({"http_proxy", "https_proxy", "all_proxy"})


def open_http_client(error: type[SafeLlavaError], **options: Any) -> httpx2.Client:
    """Return a client that follows redirects, to be used in a ``with``.

    Args:
        error: what is raised where the environment names a proxy that cannot be used.
        options: as ``httpx2.Client`` takes them.
    """
    check_proxies(error)
    mounts = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}
    return httpx2.Client(**{"follow_redirects": True, "mounts": mounts, **options})


def check_proxies(error: type[SafeLlavaError]) -> None:
    """Raise ``error`` where the environment names no usable proxy (its value is not said) or certificates."""
    _check_certificates(error)
    for name, value in os.environ.items():
        if name.lower() not in VARIABLES or not value:
            continue
        try:
            parts = urlsplit(_with_scheme(value))
            if not (parts.hostname or "").strip() or parts.port == 0:
                raise ValueError("no host or port")
            # Nothing is asked through it, so it needs no certificates.
            httpx2.HTTPTransport(proxy=httpx2.Proxy(_with_scheme(value)), verify=False).close()
        except (ValueError, ImportError, httpx2.InvalidURL) as fault:
            raise error(
                f"the environment variable {name} names no proxy that can be used "
                f"({type(fault).__name__}; known are http://, https://, socks5:// and socks5h://)",
                f"correct or unset {name}",
            ) from None


def _check_certificates(error: type[SafeLlavaError]) -> None:
    """Raise ``error`` where SSL_CERT_FILE names no file of certificates; clients read it when they are made."""
    if file := os.environ.get("SSL_CERT_FILE"):
        try:
            ssl.create_default_context(cafile=file)
        except OSError as fault:
            said = f"the environment variable SSL_CERT_FILE names {file}, no file of certificates: {fault.strerror}"
            raise error(said, "correct or unset SSL_CERT_FILE") from fault


def _with_scheme(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for an address, or None where it is asked itself."""
    parts, proxies = urlsplit(url), urllib.request.getproxies()
    host = parts.hostname or ""
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or _is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    return _with_scheme(proxy)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or address.is_unspecified  # a server that listens on 0.0.0.0
    except ValueError:
        return host.rstrip(".") == "localhost" or host.rstrip(".").endswith(".localhost")
