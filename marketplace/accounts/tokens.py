"""Opaque secrets: 256 random bits and a checksum that rejects typos before the database.

Only their SHA-256 is stored: with 256 random bits there is nothing to guess, so no salt and no
slow hash is needed.
"""

import hashlib
import secrets
import zlib
from base64 import b32encode

DEVICE = "mkt_dev"
API_KEY = "mkt_live"
INVITE = "mkt_inv"
RESET = "mkt_rst"
DOWNLOAD = "mkt_dl"


def new_secret(prefix: str) -> str:
    body = f"{prefix}_{secrets.token_urlsafe(32)}"
    return body + _checksum(body)


def is_well_formed(secret: str) -> bool:
    body, check = secret[:-6], secret[-6:]
    return body.startswith("mkt_") and secrets.compare_digest(
        _checksum(body).encode(), check.encode()
    )


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _checksum(body: str) -> str:
    digest = zlib.crc32(body.encode()).to_bytes(4, "big")
    return b32encode(digest).decode().rstrip("=")[:6].lower()
