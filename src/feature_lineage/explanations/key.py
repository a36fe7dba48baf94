"""The key of an endpoint: where it comes from, to whom it may be sent, and that nothing which is written down holds it."""

from __future__ import annotations

import base64
import ipaddress
import json
import os
from contextlib import suppress
from urllib.parse import quote, urlsplit

from feature_lineage.errors import InputError
from feature_lineage.explanations.service import OPENAI, Service


class Key:
    """The key in the environment variable that a service names, if there is one."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._key = os.environ.get(service.key_env, "").strip()  # a line break comes along from a file

    def checked(self) -> str:
        """The key, to be sent; `none` if there is none.

        Raises:
            InputError: the key is missing, is no key, or would travel where others can read it.
        """
        service = self._service
        if not self._key and service.base_url == OPENAI:
            raise InputError(
                f"interpretation.key_env: the environment variable {service.key_env} is not set; export the key for {service.base_url} in it"
            )
        if not all("!" <= character <= "~" for character in self._key):
            raise InputError(
                f"interpretation.key_env: what the environment variable {service.key_env} holds is no key, it has blanks or characters "
                "other than ASCII in it; export the key again"
            )
        if self._key and not _private(service.base_url):
            raise InputError(
                f"interpretation.base_url: the key in the environment variable {service.key_env} would travel unencrypted to "
                f"{service.base_url}; use https, a tunnel to it from localhost, or, if it needs no key, a key_env that is not set"
            )
        return self._key or "none"

    def hidden(self, text: object) -> str:
        """Text without the key, which some endpoints quote; a word as short as `none` is no key."""
        text = str(text)
        if len(self._key) >= 8:
            for form in _forms(self._key):
                text = text.replace(form, "***")
        return text

    def words(self, problem: object) -> str:
        """What an endpoint says of an error: without the key, on one line, as text that can be written down."""
        return " ".join(self.hidden(problem).encode("utf-8", "replace").decode().split())


def _private(url: str) -> bool:
    """Whether nobody between here and an address can read what is sent."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    return False


def _forms(key: str) -> list[str]:
    """A key as it is, as a URL and as JSON spell it, and in base64 alone or after `Bearer `."""
    encoded = [base64.b64encode(text.encode()).decode() for text in (key, f"Bearer {key}")]
    return [key, quote(key, safe=""), json.dumps(key)[1:-1], *encoded, *(text.rstrip("=") for text in encoded)]
