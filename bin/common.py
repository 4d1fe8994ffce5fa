"""What the scripts of bin/ share: the pins, the cache, and how they talk."""

import hashlib
import os
import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Trouble(Exception):
    """Something a person can mend; its text says what and how."""


def pins():
    """Reads bin/pinned.toml."""
    with open(ROOT / "bin" / "pinned.toml", "rb") as file:
        return tomllib.load(file)


def cache(*parts):
    """Returns a folder of Tidemill's in the user's cache, made if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base, "tidemill", *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def say(text):
    """Says on standard error what is being done."""
    print(text, file=sys.stderr, flush=True)


def run(main):
    """Runs a script's `main`, turning trouble, and what the system refuses, into one clear message and exit status 1."""
    try:
        main()
    except (Trouble, OSError) as trouble:
        say(f"{Path(sys.argv[0]).name}: {trouble}")
        sys.exit(1)
    except KeyboardInterrupt:
        say("\ninterrupted; the next run goes on from here")
        sys.exit(130)


def sha256(path):
    """Returns a file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place(source, target):
    """Puts a file of the cache at `target`: the same file by hard link where the disk is the same, else a copy."""
    partial = target.with_name(target.name + ".part")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    partial.replace(target)


def require_space(folder, needed):
    """Checks that the disk of `folder` has `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Trouble(f"{folder} has {megabytes(free)} free, {megabytes(needed)} are needed")


def megabytes(count):
    """Writes a count of bytes for people."""
    return f"{count / 1e6:.0f} MB" if count >= 1e7 else f"{count / 1e6:.1f} MB"
