"""Fetches the source files: from the cache directory if they are there, else over HTTP."""

from __future__ import annotations

import http.client
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

from acpt_trainer import ConfigurationError, Problem, raise_if_any
from homer.files import sha256_of, write_atomically

_CHUNK_BYTES = 64 * 1024
_FIRST_WAIT_SECONDS = 1.0
_HEADLINE = "Cannot fetch the source files"


class DownloadError(Exception):
    """One download that failed.

    Args:
        reason: Why, in words for the user.
        again: Whether another try may help.
    """

    def __init__(self, reason: str, again: bool) -> None:
        super().__init__(reason)
        self.again = again


def base_name(url: str) -> str:
    """Returns the last part of the URL's path: the name of the file in the cache directory."""
    return urllib.parse.unquote(urllib.parse.urlsplit(url).path).rsplit("/", 1)[-1]


def is_http(url: str) -> bool:
    """Says whether the URL is one that may be fetched: http or https, with a host."""
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def fetch(
    url: str,
    cache_dir: Path,
    sha256: str,
    *,
    timeout: float = 30.0,
    attempts: int = 4,
    sleep: Callable[[float], object] = time.sleep,
) -> Path:
    """Returns the path of one verified source file; see `fetch_all`."""
    return fetch_all([(url, sha256)], cache_dir, timeout=timeout, attempts=attempts, sleep=sleep)[0]


def fetch_all(
    wanted: Iterable[tuple[str, str]],
    cache_dir: Path,
    *,
    timeout: float = 30.0,
    attempts: int = 4,
    sleep: Callable[[float], object] = time.sleep,
) -> list[Path]:
    """Returns the paths of verified source files, downloading those not in the cache directory.

    A file in the cache directory is never fetched again and never overwritten. If all files are
    there, the directory may be read-only.

    Args:
        wanted: URL and SHA-256 digest of each file.
        cache_dir: Where the files are, or will be, under the base names of their URLs.
        timeout: Seconds without an answer after which a try has failed.
        attempts: How often to try each file before giving up.
        sleep: Waits between two tries.

    Raises:
        ConfigurationError: With everything found wrong: checksums, URLs, files not to be had.
    """
    files = list(wanted)
    paths = [cache_dir / base_name(url) for url, _ in files]
    problems = [
        p for (url, sha), path in zip(files, paths, strict=True) for p in _check(url, sha, path)
    ]
    # Before any download: a wrong file in the cache needs the user, whatever the network says.
    raise_if_any(problems, _HEADLINE)
    failures: dict[str, str] = {}
    for (url, sha256), path in zip(files, paths, strict=True):
        if path.exists():
            continue
        try:
            body = _download_with_retries(url, timeout, attempts, sleep)
            problems += _wrong_digest(body, sha256, f"the file downloaded from {url}", path, False)
            if sha256_of(body) == sha256:
                write_atomically({path: body})
        except DownloadError as error:
            failures[url] = str(error)
        except ConfigurationError as error:
            problems += error.problems
    if failures:
        problems.append(_not_to_be_had(failures, cache_dir))
    raise_if_any(problems, _HEADLINE)
    return paths


def _check(url: str, sha256: str, path: Path) -> list[Problem]:
    if not is_http(url) or not base_name(url):
        return [
            Problem("not an http or https URL of a file", url, "mend the URL in the source JSON")
        ]
    if not path.exists():
        return []
    try:
        body = path.read_bytes()
    except OSError as error:
        fix = "make the file readable, or delete it to have it downloaded"
        return [Problem(f"the cached file cannot be read: {error.strerror}", str(path), fix)]
    return _wrong_digest(body, sha256, "the file in the cache", path, True)


def _wrong_digest(body: bytes, expected: str, what: str, path: Path, cached: bool) -> list[Problem]:
    found = sha256_of(body)
    if found == expected:
        return []
    if cached:
        fix = f"delete {path} to have it downloaded again,"
    else:
        fix = f"put the expected file at {path},"
    return [
        Problem(
            f"{what} has another checksum than the source JSON says:\n"
            f"    expected sha256 {expected}\n    found    sha256 {found}",
            str(path),
            f"{fix} or, if the new content is right, mend `sha256` (and the rules, which were "
            "made for the old content) in the source JSON",
        )
    ]


def _not_to_be_had(failures: dict[str, str], cache_dir: Path) -> Problem:
    listed = "\n".join(f"    {base_name(url)}: {url}: {why}" for url, why in failures.items())
    names = ", ".join(base_name(url) for url in failures)
    noun = "file is" if len(failures) == 1 else "files are"
    return Problem(
        f"{len(failures)} source {noun} neither in the cache directory nor to be downloaded:\n"
        f"{listed}",
        f"--cache_dir {cache_dir}",
        f"put {names} there under these names (or name the folder that has them with --cache_dir), "
        "or run with --source sample, which needs no network",
    )


def _download_with_retries(
    url: str, timeout: float, attempts: int, sleep: Callable[[float], object]
) -> bytes:
    for attempt in range(1, attempts + 1):
        try:
            return _download(url, timeout)
        except DownloadError as error:
            if not error.again:
                raise
            if attempt == attempts:
                raise DownloadError(f"{error} (tried {attempts} times)", again=False) from error
            wait = _FIRST_WAIT_SECONDS * 2 ** (attempt - 1)
            print(f"{base_name(url)}: {error}; trying again in {wait:g} s", file=sys.stderr)
            sleep(wait)
    raise ValueError("attempts must be at least 1")


def _opener() -> urllib.request.OpenerDirector:
    # Not urllib's default opener: that one also follows redirects to ftp: and reads file: URLs.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _download(url: str, timeout: float) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "acpt-trainer-example"})
    try:
        with _opener().open(request, timeout=timeout) as response:
            return _read_all(response, base_name(url))
    except urllib.error.HTTPError as error:
        again = error.code >= 500 or error.code in (408, 429)
        error.close()
        raise DownloadError(f"HTTP {error.code} {error.reason}", again) from error
    except urllib.error.URLError as error:
        raise DownloadError(f"no connection ({error.reason})", again=True) from error
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"connection lost ({error or type(error).__name__})", True) from error


def _read_all(response: http.client.HTTPResponse, name: str) -> bytes:
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else None
    size = f" ({total / 1e6:.1f} MB)" if total else ""
    show = sys.stderr.isatty()
    print(f"downloading {name}{size}", file=sys.stderr)
    body = bytearray()
    while chunk := response.read(_CHUNK_BYTES):
        body += chunk
        if show:
            print(f"\r  {len(body) / 1e6:.1f} MB", end="", file=sys.stderr, flush=True)
    if show:
        print(file=sys.stderr)
    # http.client does not complain when the connection ends early during sized reads.
    if total is not None and len(body) < total:
        raise DownloadError(f"truncated: {len(body)} of {total} bytes arrived", again=True)
    return bytes(body)
