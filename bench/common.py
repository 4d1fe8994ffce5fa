"""What the cases share: running commands, taking turns, and the table."""
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIDEMILL = Path(os.environ.get("BENCH_TIDEMILL") or ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/tidemill")
PEERS = Path(os.environ["PEERS_HOME"]) if os.environ.get("PEERS_HOME") else None


def run(command, **more):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, **more)
    if done.returncode != 0:
        sys.exit(f"bench: exit code {done.returncode} from {' '.join(map(str, command))}")
    return done.stdout


def peer(script, *arguments, folder=PEERS, **environment):
    """The one JSON line that a peer's script prints."""
    python = PEERS / "venv/bin/python"
    text = run([python, script, *arguments], cwd=folder, env={**os.environ, **environment})
    return json.loads(text.splitlines()[-1])


def rounds(reps, *runs):
    """Runs all of them in turn, again and again; the figures of each. What is None has none."""
    figures = [[] for _ in runs]
    for _ in range(reps):
        for one, run_it in zip(figures, runs):
            if run_it:
                one.append(run_it())
    return figures


def spread(figures, digits=1):
    return " / ".join(f"{figure(figures):,.{digits}f}" for figure in (min, statistics.median, max)) if figures else "-"


ROWS = []


def report(case, unit, mine, peer_name, other, target, digits=1, less_is_better=False):
    """A row. Its ratio says how many times better ours is, whichever way the unit counts."""
    ratios = [b / a if less_is_better else a / b for a, b in zip(mine, other)]
    mine, theirs = spread(mine, digits), spread(other, digits)
    ROWS.append((case, unit, mine, peer_name if other else "(no PEERS_HOME)", theirs, spread(ratios, 2), target))
    print(f"  {case}: ours {mine} {unit}; {peer_name} {theirs}; ratio {spread(ratios, 2)}", flush=True)


def note(case, unit, mine, target, beside="", digits=1):
    """A row without a peer."""
    ROWS.append((case, unit, spread(mine, digits), beside, "-", "-", target))
    print(f"  {case}: {spread(mine, digits)} {unit}{'; ' if beside else ''}{beside}", flush=True)
