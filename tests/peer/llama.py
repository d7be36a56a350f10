"""llama.cpp, through the low-level interface of the package llama-cpp-python."""

import ctypes
import sys

INSTALL = 'CMAKE_ARGS="-DGGML_NATIVE=ON" pip install llama-cpp-python numpy'

try:
    import llama_cpp as L
except ImportError as error:
    sys.exit(f"error: cannot import llama_cpp ({error}); install it with: {INSTALL}")

L.llama_backend_init()
# The function must outlive every call, or the library calls what is gone.
_quiet = L.llama_log_callback(lambda level, text, data: None)
L.llama_log_set(_quiet, ctypes.c_void_p(0))

VERSION = L.__version__


class Llama:
    """A model with one context."""

    def __init__(self, path, threads, context, repack=True, batch=512):
        params = L.llama_model_default_params()
        params.use_extra_bufts = repack
        self.model = L.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            sys.exit(f"error: llama.cpp cannot load {path}")
        params = L.llama_context_default_params()
        params.n_ctx = (context + 255) // 256 * 256
        params.n_batch = max(2048, batch)
        params.n_ubatch = batch
        params.n_threads = params.n_threads_batch = threads
        self.context = L.llama_init_from_model(self.model, params)
        if not self.context:
            sys.exit(f"error: llama.cpp cannot make a context of {context} tokens")
        self.words = L.llama_model_get_vocab(self.model)
        self.vocab = L.llama_vocab_n_tokens(self.words)
        self.memory = L.llama_get_memory(self.context)
        self.batch_size = params.n_batch

    def clear(self):
        L.llama_memory_clear(self.memory, True)

    def take(self, tokens):
        """Takes tokens in, without logits but those of the last."""
        for at in range(0, len(tokens), self.batch_size):
            part = tokens[at : at + self.batch_size]
            array = (L.llama_token * len(part))(*part)
            if L.llama_decode(self.context, L.llama_batch_get_one(array, len(part))) != 0:
                sys.exit("error: llama.cpp cannot decode")

    def logits(self, tokens):
        """Logits of every position, [len(tokens), vocab] in float32, from an empty cache."""
        import numpy as np

        self.clear()
        rows = np.empty((len(tokens), self.vocab), np.float32)
        for at in range(0, len(tokens), self.batch_size):
            part = tokens[at : at + self.batch_size]
            batch = L.llama_batch_init(len(part), 0, 1)
            batch.n_tokens = len(part)
            for i, token in enumerate(part):
                batch.token[i] = token
                batch.pos[i] = at + i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = 1
            if L.llama_decode(self.context, batch) != 0:
                sys.exit("error: llama.cpp cannot decode")
            found = L.llama_get_logits(self.context)
            rows[at : at + len(part)] = np.ctypeslib.as_array(found, (len(part), self.vocab))
            L.llama_batch_free(batch)
        return rows

    def tokenize(self, text, bos=False, special=True):
        """Ids of a text; `special`: special tokens in it count as such."""
        data = text.encode()
        room = len(data) + 2
        ids = (L.llama_token * room)()
        n = L.llama_tokenize(self.words, data, len(data), ids, room, bos, special)
        if n < 0:
            sys.exit(f"error: llama.cpp cannot tokenize {text!r}")
        return list(ids[:n])

    def bos(self):
        return L.llama_vocab_bos(self.words)
