"""Coverage-guided fuzzing of one target, or of each: ``python tests/fuzz/harness.py [TARGET] [--seconds N]``.

An input that breaks an invariant ends it with exit code 1 and is left in build/fuzz; copied to tests/fuzz/found
as TARGET-ANYTHING it becomes a test. The corpus in build/fuzz grows from run to run; fixtures/ is where it
starts. The invariants are those of `targets.py`, each at the head of its function.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
BUILD: Final = ROOT / "build" / "fuzz"
NAMES: Final = ("sse", "message", "turn", "request", "connection")
MAX_SIZE: Final = 8_000  # bytes of an input
TIMEOUT: Final = 20  # seconds for one input; a hang is a defect, too


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target in this process; never returns."""
    import atheris  # made for CPython 3.11 to 3.13 on Linux and macOS, so not for every machine of ours

    sys.path[:0] = [str(ROOT / "tests")]
    with atheris.instrument_imports(include=["sansio_letta", "letta_server", "h11"]):
        from fuzz.corpus import seeds
        from fuzz.targets import TARGETS

    corpus = BUILD / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (corpus / f"fixture-{number:04}").write_bytes(seed)
    options = {
        "max_total_time": seconds,
        "max_len": MAX_SIZE,
        "timeout": TIMEOUT,
        "artifact_prefix": f"{BUILD}/{name}-",
        "print_final_stats": 1,
        "verbosity": 0,
    }
    atheris.Setup(
        [sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), str(corpus)], TARGETS[name]
    )
    atheris.Fuzz()


def main() -> int:
    """Fuzz what the command line says, one target after the other, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        fuzz(args.target, args.seconds)
    failed = []
    for name in [args.target] if args.target else NAMES:
        print(f"--- {name}, {args.seconds} s", flush=True)
        command = [sys.executable, __file__, name, "--seconds", str(args.seconds), "--here"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        stats = [line for line in done.stderr.splitlines() if line.startswith("stat::number_of_executed_units")]
        print("\n".join(stats if done.returncode == 0 else [done.stdout, done.stderr]), flush=True)
        if done.returncode or not stats:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}; the inputs are in {BUILD.relative_to(ROOT)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
