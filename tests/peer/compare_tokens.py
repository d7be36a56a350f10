#!/usr/bin/env python3
"""Whether we and llama.cpp cut texts into the same tokens, by one GGUF file's tokenizer.

    compare_tokens.py FILE.gguf [TEXTFILE ...] [--random N] [--json]

Built-in texts (languages, code, numbers, white space, special tokens), every line of the files, and N random strings.
Prints each text that differs with both lists of ids; exit 1 if there is one.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import ours
from llama import Llama

TEXTS = [
    "Hello, world!",
    "What is a gated short convolution?",
    "I'll don't WE'RE they'D it'S 'tis y'all'd",
    "0 1 12 123 1234 12345 1234567890 3.14159 1e-5 0xFF 1_000_000 ½ ² Ⅷ ٣٤٥ १२३",
    "let x: Vec<u32> = (0..1234).map(|i| i * 2).collect();\n\n\tx.len()  ",
    "fn main() {\n    println!(\"{}\", 1 + 1);\n}\n",
    "def f(a, b=None):\r\n\treturn a if b is None else b\r\n\r\n",
    " leading", "trailing ", "  two  spaces  ", "\n", "\n\n\n", " \n \n ", "\t\ttabs\t", "\r\n\r\n", "a\u00a0b\u2003c\u3000d",
    "über façade naïve coöperate Ελληνικά Русский עברית العربية हिन्दी ไทย",
    "日本語のテキスト、中文文本，한국어 텍스트",
    "🦀🚀👩‍👩‍👧‍👦 🇩🇪 é e\u0301 \u200b\u200d\ufeff",
    "!!! ??? ... --- === <<<>>> {}[]() @#$%^&*~`|\\/:;\"'",
    "a'b''c \"quoted\" it's 'll 've",
    "https://example.org/a/b?c=d&e=f#g user@example.org",
    "CamelCaseWords snake_case_words SCREAMING_CASE kebab-case",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|startoftext|>twice<|startoftext|>", "<|im_start|><|im_end|>", "not <|a token|> <| im_start |>", "<|pad|> <|endoftext|>x",
    "<|tool_call_start|>[f(x=1)]<|tool_call_end|>",
    "x" * 300, " " * 70, "ab" * 100, "\u0000 nul".replace("\u0000", "\u0001"), "ǅ ǈ ﬀ ſ İ ı K Å",
]
# Ranges of characters that random strings are drawn from.
RANGES = [(0x20, 0x7E), (0x20, 0x7E), (0x9, 0xD), (0xA0, 0x24F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0x97F),
          (0x2000, 0x206F), (0x3040, 0x30FF), (0x4E00, 0x4FFF), (0x1F300, 0x1F5FF), (0x30, 0x39), (0x20, 0x20)]


def random_text(rng):
    return "".join(chr(rng.randint(*rng.choice(RANGES))) for _ in range(rng.randint(1, 40)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("texts", type=Path, nargs="*")
    parser.add_argument("--random", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    ours.add_arguments(parser)
    args = parser.parse_args()
    bundle = ours.bundle(args, args.gguf, 256, 256)
    peer = Llama(args.gguf, 1, 256)
    rng = random.Random(args.seed)
    texts = TEXTS + [random_text(rng) for _ in range(args.random)]
    for path in args.texts:
        text = path.read_text(encoding="utf-8")
        # A command line has an end: some lines at a time.
        lines = text.splitlines(keepends=True)
        texts += ["".join(lines[at : at + 50]) for at in range(0, len(lines), 50)]
    faults = []
    for text in texts:
        mine = ours.lfm_run(args, "tokenize", bundle, "--", text)["ids"]
        theirs = peer.tokenize(text, bos=True, special=True)
        if mine != theirs:
            faults.append({"text": text, "ours": mine, "theirs": theirs})
    if args.json:
        print(json.dumps({"texts": len(texts), "faults": faults}))
    else:
        for fault in faults:
            print(f"{fault['text']!r}\n  ours   {fault['ours']}\n  theirs {fault['theirs']}")
        print(f"{len(texts) - len(faults)} of {len(texts)} texts give the same tokens")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
