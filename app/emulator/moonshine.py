"""The speech model: Moonshine, driven directly on onnxruntime.

Greedy decoding with the merged decoder's key/value cache. The decoder is quantized with ranges taken from whatever
goes through it at once, so verifying a draft in one pass can differ in the last bit from decoding token by token:
drafts are for interims, a final is always decoded alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import app.quiet_onnx  # noqa: F401 - what comes loads ONNX Runtime

# isort: split
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from app.emulator.models import model_file

Samples = NDArray[np.float32]

RATE = 16_000
TOKENS_PER_SECOND = 6.5  # English read fast stays under this; a decoder that runs on does not
SHORTEST = 1_600  # samples; below 0.1 s the encoder has no frame to stand on
BEGIN, END = 1, 2


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What a piece of audio says: tokens for a later draft, words as (text, confidence)."""

    tokens: tuple[int, ...]
    words: tuple[tuple[str, float], ...]


class SpeechModel(Protocol):
    """What a worker asks of a model; another family of models is another class of this shape."""

    def transcribe(self, samples: Samples, draft: Sequence[int] | None = None) -> Hypothesis:
        """The words of 16 kHz mono samples. A draft, even an empty one, asks for speed, not for confidences."""


def session(path: Path) -> Any:
    """An onnxruntime session on one core that does not spin while it waits."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Moonshine:
    """Moonshine from a directory with its encoder, merged decoder and tokenizer."""

    def __init__(self, directory: Path) -> None:
        self._encoder = session(model_file(directory, "encoder_model"))
        self.decoder = session(model_file(directory, "decoder_model_merged"))
        self._pieces = read_tokenizer(directory / "tokenizer.bin")
        self._encoder_masked = len(self._encoder.get_inputs()) > 1
        inputs = {i.name: i for i in self.decoder.get_inputs()}
        self.decoder_masked = "encoder_attention_mask" in inputs
        self.past = [name for name in inputs if name.startswith("past_key_values.")]
        self.own_past = [name for name in self.past if ".decoder." in name]
        _, heads, _, width = next(inputs[name].shape for name in self.past)
        self.nothing = np.zeros((1, heads, 0, width), np.float32)
        self._transcribe_silence()

    def transcribe(self, samples: Samples, draft: Sequence[int] | None = None) -> Hypothesis:
        """See SpeechModel. The result depends on the arguments alone."""
        padded = np.pad(samples, (0, max(0, SHORTEST - len(samples))))
        decoding = _Decoding(self, self._encode(padded), len(padded))
        limit = max(4, round(len(samples) / RATE * TOKENS_PER_SECOND))
        tokens, scores = decoding.greedy(limit, draft)
        return Hypothesis(tuple(tokens), tuple(_words([self._pieces[t] for t in tokens], scores)))

    def _encode(self, samples: Samples) -> Samples:
        feeds: dict[str, Any] = {"input_values": samples[None, :]}
        if self._encoder_masked:
            feeds["attention_mask"] = np.ones((1, len(samples)), np.int64)
        hidden: Samples = self._encoder.run(None, feeds)[0]
        return hidden

    def _transcribe_silence(self) -> None:
        """Run once, so that the first stream does not pay for the allocations."""
        self.transcribe(np.zeros(RATE, np.float32), ())


class _Decoding:
    """One run of the decoder over one encoded piece of audio."""

    def __init__(self, model: Moonshine, hidden: Samples, samples: int) -> None:
        self._model = model
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        self._feeds: dict[str, Any] = {"encoder_hidden_states": value(hidden)}
        if model.decoder_masked:
            # of the raw samples: the decoder takes every 384th of them itself
            self._feeds["encoder_attention_mask"] = value(np.ones((1, samples), np.int64))
        nothing = value(model.nothing)
        self._feeds |= dict.fromkeys(model.past, nothing)
        self._cached = False

    def greedy(self, limit: int, draft: Sequence[int] | None) -> tuple[list[int], list[float]]:
        """The most likely tokens one by one; of a draft, as many in one pass as the model agrees with."""
        scored = draft is None
        hoped = list(draft or ())[:limit]
        tokens: list[int] = []
        scores: list[float] = []
        last = BEGIN
        while True:
            rows = self._advance([last, *hoped])
            chosen = [int(row.argmax()) for row in rows]
            agreed = next((i for i, token in enumerate(hoped) if chosen[i] != token), len(hoped))
            tokens += hoped[:agreed]
            scores += [1.0] * agreed
            self._forget(len(hoped) - agreed)
            hoped = hoped[agreed + 1 :]  # often only a word has changed
            last = chosen[agreed]
            if last == END or len(tokens) >= limit:
                return tokens, scores
            tokens.append(last)
            scores.append(_probability(rows[agreed], last) if scored else 1.0)
            if repeated := _loop(tokens):
                return tokens[:-repeated], scores[:-repeated]

    def _advance(self, tokens: list[int]) -> Samples:
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        self._feeds["input_ids"] = value(np.array([tokens], np.int64))
        self._feeds["use_cache_branch"] = value(np.array([self._cached]))
        past = self._model.own_past if self._cached else self._model.past
        names = ["logits", *(name.replace("past_key_values", "present") for name in past)]
        logits, *present = self._model.decoder.run_with_ort_values(names, self._feeds)
        self._feeds.update(zip(past, present, strict=True))
        self._cached = True
        rows: Samples = logits.numpy()[0]
        return rows

    def _forget(self, count: int) -> None:
        """Take the last tokens back."""
        if not count:
            return
        for name in self._model.own_past:
            kept = np.ascontiguousarray(self._feeds[name].numpy()[:, :, :-count])
            self._feeds[name] = onnxruntime.OrtValue.ortvalue_from_numpy(kept)


def read_tokenizer(path: Path) -> list[str]:
    """The text of every token; a length byte (two from 128 on) goes before each, U+2581 stands for a space."""
    data, pieces, at = path.read_bytes(), [], 0
    while at < len(data):
        length, at = data[at], at + 1
        if length >= 128:
            length, at = data[at] * 128 + length - 128, at + 1
        pieces.append(data[at : at + length].decode("utf-8", "replace").replace("\u2581", " "))
        at += length
    return pieces


def _probability(row: Samples, token: int) -> float:
    return float(1.0 / np.exp(row - row[token]).sum())


def _loop(tokens: list[int]) -> int:
    """How many tokens to drop when the end of `tokens` goes round in circles, else 0."""
    for period in range(1, 9):
        times = 8 if period == 1 else 4
        tail = tokens[-period * times :]
        if len(tail) == period * times and tail == tail[:period] * times:
            return period * (times - 1)
    return 0


def _words(pieces: list[str], scores: list[float]) -> list[tuple[str, float]]:
    """Tokens gathered into words, each as sure as its least sure token."""
    words: list[tuple[str, float]] = []
    for piece, score in zip(pieces, scores, strict=True):
        if piece.startswith(" ") or not words:
            words.append((piece.strip(), score))
        else:
            text, before = words[-1]
            words[-1] = (text + piece, min(before, score))
    return [(text, score) for text, score in words if text]
