"""`lfmc` and `lfm-run`: where they are, bundles of GGUF files, their JSON."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def add_arguments(parser):
    """Where the programs and the bundles are."""
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release", metavar="DIR",
                        help="folder of lfmc and lfm-run [default: target/release]")
    parser.add_argument("--cache", type=Path, default=ROOT / "target/peer", metavar="DIR",
                        help="folder of exported bundles [default: target/peer]")
    parser.add_argument("--target", default="host", metavar="NAME|FILE",
                        help="device profile, or host for the fastest tier of this CPU [default: host]")


def program(args, name):
    path = args.bin / name
    if not path.exists():
        sys.exit(f"error: {path} does not exist; build it with: cargo build --release --bin {name}")
    return str(path)


def run(command):
    """What a command writes to stdout; its own words if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip()
        sys.exit(f"error: {' '.join(command[:2])} ended with {done.returncode}: {words}")
    return done.stdout


def lfm_run(args, *arguments):
    """One JSON object of `lfm-run`."""
    return json.loads(run([program(args, "lfm-run"), *map(str, arguments)]))


def bundle(args, gguf, context, chunk):
    """The bundle of a GGUF file, exported unless it is there already."""
    lfmc = program(args, "lfmc")
    target = host_target() if args.target == "host" else args.target
    gguf = Path(gguf).resolve()
    if not gguf.is_file():
        sys.exit(f"error: {gguf} is no file")
    facts = [str(gguf), target, context, chunk]
    facts += [(stat.st_size, stat.st_mtime_ns) for stat in (gguf.stat(), Path(lfmc).stat())]
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    path = args.cache / f"{gguf.stem}-{key}.lfmb"
    if not path.exists():
        args.cache.mkdir(parents=True, exist_ok=True)
        # Older bundles of the same file can be exported again; disks are finite.
        for old in args.cache.glob(f"{gguf.stem}-{'[0-9a-f]' * 16}.lfmb"):
            old.unlink()
        command = [lfmc, "export", str(gguf), "-o", str(path), "--target", target]
        command += ["--context", str(context), "--chunk", str(chunk)]
        print(f"exporting {gguf.name} for {target} to {path}", file=sys.stderr)
        run(command)
    return path


def host_target():
    """The profile with the fastest kernels that this CPU runs."""
    import platform

    if platform.machine() in ("aarch64", "arm64"):
        names = [("i8mm", "aarch64-i8mm"), ("asimddp", "aarch64-dotprod")]
    else:
        names = [("avx512_vnni", "x86-64-avx512vnni"), ("avx2", "x86-64-v3")]
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set()
    return next((name for flag, name in names if flag in flags), "portable")
