#!/usr/bin/env python3
"""Speed of one GGUF file here and under llama.cpp, measured alternately.

    bench_peer.py FILE.gguf [-t 2] [-p 512] [-n 128] [-d DEPTH] [-r 5] [--chunk N] [--json]

FILE.gguf is exported once. Then, R times, each of these runs in a process of its own, every time in another order:
`lfm-run bench`, llama.cpp as it comes (weights repacked where it has kernels for that), llama.cpp without repacking.
Each process loads the model, warms up with 64 tokens, and measures once. Tokens a second, min / median / max over
rounds; the ratio is that of the medians, ours to llama.cpp's best.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import ours

INSTALL = 'CMAKE_ARGS="-DGGML_NATIVE=ON" pip install llama-cpp-python'
# Tokens decoded at depth.
DEEP = 64
WARM = 64
# What is said below the table: key in the JSON of `lfm-run bench`, title, unit, digits.
FACTS = {
    "load_s": ("load, s", 1, 3),
    "peak_rss_bytes": ("peak RSS, MB", 1e6, 0),
    "read_share": ("decode, % of read limit", 0.01, 0),
    "dot_peak_share": ("prefill, % of dot peak", 0.01, 0),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-p", "--prompt", type=int, default=512, help="tokens of the prompt [default: 512]")
    parser.add_argument("-n", "--tokens", type=int, default=128, help="tokens decoded [default: 128]")
    parser.add_argument("-d", "--depth", type=int, default=0,
                        help=f"also decode {DEEP} tokens behind as many others [default: 0, not measured]")
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("--chunk", type=int, default=512, help="tokens of one pass of a prompt, ours [default: 512]")
    parser.add_argument("--no-peer", action="store_true", help="measure ours alone")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", choices=("repack", "plain"), help=argparse.SUPPRESS)
    ours.add_arguments(parser)
    return parser.parse_args()


def rows(args):
    """Name of a row: tokens of the prompt, tokens decoded, depth."""
    found = {}
    if args.prompt:
        found[f"prefill {args.prompt}"] = (args.prompt, 0, 0)
    if args.tokens:
        found[f"decode {args.tokens}"] = (0, args.tokens, 0)
    if args.depth:
        found[f"decode {DEEP} at {args.depth}"] = (0, DEEP, args.depth)
    return found


def worker(args):
    """Measures llama.cpp once and writes JSON."""
    import random

    from llama import Llama

    start = time.perf_counter()
    context = max(prompt + tokens + depth for prompt, tokens, depth in rows(args).values())
    model = Llama(args.gguf, args.threads, max(context, WARM + 1), repack=args.worker == "repack")
    report = {"load_s": time.perf_counter() - start, "tok_s": {}}

    def some(n):
        return [random.randrange(model.vocab) for _ in range(n)]

    model.take(some(WARM))
    model.take(some(1))
    for name, (prompt, tokens, depth) in rows(args).items():
        model.clear()
        if depth:
            model.take(some(depth))
        ids = some(prompt + tokens)
        start = time.perf_counter()
        if prompt:
            model.take(ids)
        else:
            for token in ids:
                model.take([token])
        report["tok_s"][name] = len(ids) / (time.perf_counter() - start)
    report["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(report))


def run_peer(args, kind):
    command = [sys.executable, __file__, str(args.gguf), "--worker", kind]
    command += ["-t", str(args.threads), "-p", str(args.prompt), "-n", str(args.tokens), "-d", str(args.depth)]
    return json.loads(ours.run(command))


def run_ours(args, bundle):
    report = {"tok_s": {}}

    def bench(names, prompt, tokens, depth):
        found = ours.lfm_run(args, "bench", bundle, "-p", prompt, "-n", tokens, "-d", depth, "-r", 1, "--json",
                             "--threads", args.threads, "--chunk", args.chunk)
        speeds = [found["prefill_tok_s"]] * bool(prompt) + [found["decode_tok_s"]] * bool(tokens)
        report["tok_s"].update({name: speed["median"] for name, speed in zip(names, speeds)})
        return found

    if args.prompt or args.tokens:
        shallow = [name for name, (_, _, depth) in rows(args).items() if depth == 0]
        found = bench(shallow, args.prompt, args.tokens, 0)
        report |= {key: found.get(key) for key in FACTS}
    if args.depth:
        found = bench([list(rows(args))[-1]], 0, DEEP, args.depth)
        for key in FACTS:
            report.setdefault(key, found.get(key))
    return report


def spread(samples):
    return {"min": min(samples), "median": statistics.median(samples), "max": max(samples), "samples": samples}


def summary(args, reports):
    """Of all rounds of all engines."""
    table = {}
    for name in rows(args):
        row = {engine: spread([r["tok_s"][name] for r in found]) for engine, found in reports.items()}
        best = max((row[engine]["median"] for engine in row if engine != "ours"), default=None)
        row["ratio"] = row["ours"]["median"] / best if best else None
        table[name] = row
    facts = {}
    for key in FACTS:
        values = {engine: [r[key] for r in found if r.get(key)] for engine, found in reports.items()}
        facts[key] = {engine: statistics.median(found) for engine, found in values.items() if found}
    return {"file": args.gguf.name, "threads": args.threads, "rounds": args.rounds, "rows": table, **facts}


def text(report, engines, version):
    def cell(speed):
        digits = 1 if speed["median"] < 1000 else 0
        return " / ".join(f"{speed[key]:.{digits}f}" for key in ("min", "median", "max"))

    width = max(len(name) for name in [*report["rows"], *(title for title, _, _ in FACTS.values())])
    lines = [f"{report['file']}, {report['threads']} threads, {report['rounds']} rounds; {version}", ""]
    lines.append(" " * width + "".join(f"  {engine:>26}" for engine in engines) + "   ratio")
    for name, row in report["rows"].items():
        ratio = f"{row['ratio']:6.2f}x" if row["ratio"] else "      -"
        lines.append(f"{name:<{width}}" + "".join(f"  {cell(row[engine]):>26}" for engine in engines) + f" {ratio}")
    for key, (title, unit, digits) in FACTS.items():
        values = [report[key].get(engine) for engine in engines]
        if not any(values):
            continue
        cells = [f"{value / unit:.{digits}f}" if value else "-" for value in values]
        lines.append(f"{title:<{width}}" + "".join(f"  {value:>26}" for value in cells))
    return "\n".join(lines)


def main():
    args = arguments()
    if args.worker:
        return worker(args)
    if not rows(args) or args.rounds < 1:
        sys.exit("error: there is nothing to measure, expected -r and one of -p, -n and -d above 0")
    version = "llama.cpp not measured"
    if not args.no_peer:
        if importlib.util.find_spec("llama_cpp") is None:
            sys.exit(f"error: {sys.executable} has no package llama_cpp; install it with: {INSTALL}")
        version = f"llama.cpp of llama-cpp-python {importlib.metadata.version('llama-cpp-python')}"
    room = max(max(prompt, tokens) + depth for prompt, tokens, depth in rows(args).values())
    room = (max(room, WARM + 1) + 255) // 256 * 256
    args.chunk = min(args.chunk, room)
    bundle = ours.bundle(args, args.gguf, room, args.chunk)
    engines = {"ours": lambda: run_ours(args, bundle)}
    if not args.no_peer:
        engines["llama.cpp"] = lambda: run_peer(args, "repack")
        engines["llama.cpp, no repack"] = lambda: run_peer(args, "plain")
    reports = {engine: [] for engine in engines}
    names = list(engines)
    for number in range(args.rounds):
        at = number % len(names)
        for engine in names[at:] + names[:at]:
            if sys.stderr.isatty():
                print(f"\rround {number + 1} of {args.rounds}: {engine:<24}", end="", file=sys.stderr)
            reports[engine].append(engines[engine]())
    if sys.stderr.isatty():
        print("\r" + " " * 48, end="\r", file=sys.stderr)
    report = summary(args, reports)
    if args.json:
        print(json.dumps(report | {"version": version}))
    else:
        print(text(report, names, version))
    return None


if __name__ == "__main__":
    main()
