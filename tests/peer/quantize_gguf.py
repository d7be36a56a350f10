#!/usr/bin/env python3
"""Quantise a GGUF file with llama.cpp itself, K-quants included.

    quantize_gguf.py IN.gguf OUT.gguf TYPE [--pure] [-t 2]

IN.gguf is an F32, F16 or BF16 file, as hf_to_gguf.py writes it. TYPE is a mix such as Q4_K_M, Q5_K_M, Q6_K, Q4_0, Q8_0;
--pure gives every matrix the same type.
"""

import argparse
import sys
from pathlib import Path

from llama import L


def main():
    mixes = {name[len("LLAMA_FTYPE_MOSTLY_"):]: getattr(L, name)
             for name in dir(L) if name.startswith("LLAMA_FTYPE_MOSTLY_")}
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("type", choices=sorted(mixes), metavar="TYPE")
    parser.add_argument("--pure", action="store_true")
    parser.add_argument("-t", "--threads", type=int, default=2)
    args = parser.parse_args()
    params = L.llama_model_quantize_default_params()
    params.ftype = mixes[args.type]
    params.nthread = args.threads
    params.pure = args.pure
    params.allow_requantize = True
    if L.llama_model_quantize(str(args.source).encode(), str(args.out).encode(), params) != 0:
        sys.exit(f"error: llama.cpp cannot quantise {args.source} to {args.type}")


if __name__ == "__main__":
    main()
