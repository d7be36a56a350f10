#!/usr/bin/env python3
"""How far our logits are from llama.cpp's, from one GGUF file.

    compare_logits.py FILE.gguf TEXTFILE [--window 512] [--windows 8] [-t 2] [--no-repack] [--json]

The text is cut as `lfm-run perplexity` cuts it: tokenized as one string without specials, window - 1 ids to a piece, the
id that begins a text before each, every token after the first scored. Over all positions of the first pieces:

    NMSE          sum((ours - theirs)^2) / sum(theirs^2), and the median of that of single positions
    max           largest absolute difference of two logits
    top-1         share of positions where both hold the same token for the most likely
    KL            mean of KL(theirs || ours), in nats
    perplexity    of each, over the same tokens
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import ours
from llama import Llama
from tensors import File


def log_softmax(rows):
    rows = rows.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


class Sums:
    """Of the differences over positions."""

    def __init__(self):
        self.positions = self.same = 0
        self.error = self.power = self.kl = self.most = 0.0
        self.nll_theirs = self.nll_ours = 0.0
        self.ratios = []

    def add(self, theirs, ours_, targets):
        difference = ours_.astype(np.float64) - theirs
        error, power = (difference**2).sum(axis=1), (theirs.astype(np.float64) ** 2).sum(axis=1)
        self.error += error.sum()
        self.power += power.sum()
        self.ratios.extend(error / power)
        self.most = max(self.most, np.abs(difference).max())
        self.same += int((theirs.argmax(axis=1) == ours_.argmax(axis=1)).sum())
        p, q = log_softmax(theirs), log_softmax(ours_)
        self.kl += (np.exp(p) * (p - q)).sum()
        at = np.arange(len(targets))
        self.nll_theirs -= p[at, targets].sum()
        self.nll_ours -= q[at, targets].sum()
        self.positions += len(targets)

    def report(self):
        n = self.positions
        theirs, ours_ = np.exp(self.nll_theirs / n), np.exp(self.nll_ours / n)
        return {
            "positions": n,
            "nmse": self.error / self.power,
            "nmse_median": float(np.median(self.ratios)),
            "max": self.most,
            "top1": self.same / n,
            "kl": self.kl / n,
            "perplexity_theirs": theirs,
            "perplexity_ours": ours_,
            "perplexity_difference": ours_ / theirs - 1,
        }


def our_logits(args, bundle, tokens):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logits.safetensors"
        ids = ",".join(map(str, tokens))
        ours.lfm_run(args, "logits", bundle, "--tokens", ids, "--all", "-o", path, "--threads", args.threads)
        return np.array(File(path).read("logits"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--windows", type=int, default=8, help="pieces that are compared; 0: all [default: 8]")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--no-repack", action="store_true", help="llama.cpp without its repacked kernels")
    parser.add_argument("--self", action="store_true",
                        help="compare llama.cpp with itself, repacked and not: how far rounding alone goes")
    parser.add_argument("--json", action="store_true")
    ours.add_arguments(parser)
    args = parser.parse_args()
    bundle = None if args.self else ours.bundle(args, args.gguf, args.window, min(args.window, 512))
    peer = Llama(args.gguf, args.threads, args.window, repack=not args.no_repack)
    other = Llama(args.gguf, args.threads, args.window, repack=args.no_repack) if args.self else None
    ids = peer.tokenize(args.text.read_text(encoding="utf-8"), special=False)
    pieces = [ids[at : at + args.window - 1] for at in range(0, len(ids), args.window - 1)]
    if args.windows:
        pieces = pieces[: args.windows]
    sums = Sums()
    for number, piece in enumerate(pieces):
        tokens = [peer.bos()] + piece[:-1]
        ours_ = other.logits(tokens) if args.self else our_logits(args, bundle, tokens)
        sums.add(peer.logits(tokens), ours_, np.array(piece))
        if sys.stderr.isatty():
            print(f"\r{number + 1} of {len(pieces)}", end="", file=sys.stderr)
    report = {"file": args.gguf.name, "repack": not args.no_repack, **sums.report()}
    if not args.self and len(pieces) * (args.window - 1) >= len(ids):
        found = ours.lfm_run(args, "perplexity", bundle, args.text, "--window", args.window, "--json",
                             "--threads", args.threads)
        report["perplexity_command"] = found["perplexity"]
        report["tokens_command"] = found["tokens"]
    if args.json:
        print(json.dumps(report))
        return
    theirs_is = f"llama.cpp {'' if report['repack'] else 'not '}repacked"
    ours_is = f"llama.cpp {'not ' if report['repack'] else ''}repacked" if args.self else "lfm-run"
    print(f"{report['file']}, {report['positions']} positions, {ours_is} against {theirs_is}")
    print(f"NMSE        {report['nmse']:.3e}, of the median position {report['nmse_median']:.3e}")
    print(f"max         {report['max']:.3e}")
    print(f"top-1       {100 * report['top1']:.2f} %")
    print(f"KL          {report['kl']:.3e}")
    theirs, mine = report["perplexity_theirs"], report["perplexity_ours"]
    print(f"perplexity  {ours_is} {mine:.4f}, {theirs_is} {theirs:.4f}: {100 * report['perplexity_difference']:+.3f} %")
    if "perplexity_command" in report:
        print(f"            by lfm-run perplexity {report['perplexity_command']:.4f} over {report['tokens_command']} tokens")


if __name__ == "__main__":
    main()
