"""One stream, from bytes to events: what is heard since the last clean cut, and when to say it.

The one thing to keep in mind: a cut starts everything afresh from its very sample (resampler, voice activity,
segment), and what was already heard after it is heard again. So a new stream that is fed from `Final.end` on goes
exactly the same way, and its words are the same to the letter.
"""

from collections.abc import Iterator

import numpy as np

from app.emulator import wire
from app.emulator.audio import RATE, Decoder, Pcm, Samples, hearing
from app.emulator.moonshine import SpeechModel
from app.emulator.voice import CONTEXT, FRAME, LEAD_IN, PAUSE, Cut, Segmenter, VoiceModel

SECOND = 1_000_000_000  # in nanoseconds
INTERIM_EVERY = RATE // 2  # samples of new speech,
INTERIM_SHARE = 0.25  # and of the segment's length


class Listener:
    """The state of a stream in a worker. Every call returns what there is to say, in order."""

    def __init__(self, request: wire.Open, voice: VoiceModel, model: SpeechModel) -> None:
        self._request = request
        self._voice = voice
        self._model = model
        self._decoder = Decoder(request.encoding)
        self._heard = _Heard(request.rate, 0, voice)
        self._received = 0  # samples of the stream's own rate
        self._speaking = False
        self._silent_since: int | None = 0  # nanoseconds; what a voice-activity timeout counts from
        self._begun = False
        self._interim_at = 0  # 16 kHz samples since the cut
        self._draft: tuple[int, ...] = ()
        self._last_words: tuple[str, ...] = ()
        self.closed = False  # nothing more will be recognized

    def feed(self, data: bytes) -> Iterator[wire.Event]:
        if self.closed:
            return
        pcm = self._decoder.decode(data)
        self._received += len(pcm)
        self._heard.add(pcm)
        while not self.closed:
            cut = self._heard.listen()
            yield from self._activity(cut)
            if cut is None:
                break
            yield from self._settle(cut)

    def finish(self) -> Iterator[wire.Event]:
        """The audio is over: the utterance in flight."""
        while not self.closed:
            cut = self._heard.listen(last=True)
            if cut is None:
                break
            yield from self._settle(cut)
        cut = None if self.closed else self._heard.segmenter.finish()
        if cut is not None:
            yield from self._beginning()
            yield from self._settle(cut, last=True)
        self.closed = True

    @property
    def interim_due(self) -> bool:
        segmenter = self._heard.segmenter
        if not self._request.interims or self.closed or segmenter.start is None or segmenter.in_pause:
            return False
        spoken = len(self._heard.since_start())
        fresh = len(self._heard.samples) + self._heard.first - self._interim_at
        return fresh >= max(INTERIM_EVERY, INTERIM_SHARE * spoken)

    def interim(self) -> Iterator[wire.Event]:
        """What the utterance says so far; the last interim is the draft of this one."""
        samples = self._heard.since_start()
        self._interim_at = self._heard.first + len(self._heard.samples)
        said = self._model.transcribe(samples, self._draft)
        words = tuple(text for text, _ in said.words)
        if words and words != self._last_words:
            pairs = zip(words, self._last_words, strict=False)
            stable = next(
                (i for i, (new, old) in enumerate(pairs) if new != old), min(len(words), len(self._last_words))
            )
            self._last_words = words
            yield wire.Interim(self._nanoseconds(self._received), words, stable)
        self._draft = said.tokens

    def _activity(self, cut: Cut | None) -> Iterator[wire.Event]:
        """Speech that began or ended, and the timeouts over that."""
        yield from self._beginning()
        segmenter = self._heard.segmenter
        ended = cut.by_pause if cut else segmenter.start is None and segmenter.frame >= PAUSE
        if self._speaking and ended:
            self._speaking = False
            self._silent_since = self._nanoseconds(self._received)
            yield wire.SpeechEnded(self._heard.nanoseconds(segmenter.voiced_end))
        yield from self._timeout()

    def _beginning(self) -> Iterator[wire.Event]:
        onset = self._heard.segmenter.onset
        if self._heard.segmenter.start is None or self._speaking:
            return
        self._speaking = self._begun = True
        self._silent_since = None
        self._interim_at = onset * FRAME
        yield wire.SpeechBegan(self._heard.nanoseconds(onset))

    def _timeout(self) -> Iterator[wire.Event]:
        limit = self._request.speech_end_timeout if self._begun else self._request.speech_start_timeout
        now = self._nanoseconds(self._received)
        if limit is not None and self._silent_since is not None and now >= self._silent_since + limit:
            self.closed = True
            yield wire.SilenceTooLong(self._silent_since + limit)

    def _settle(self, cut: Cut, *, last: bool = False) -> Iterator[wire.Event]:
        """The final of a cut, and a fresh start behind it."""
        if self._request.single_utterance and not last:
            self.closed = True
            yield wire.UtteranceOver()
        end = self._received if last else self._heard.cut_sample(cut.end)
        samples = self._heard.segment(cut.start, None if last else cut.end)
        said = self._model.transcribe(samples)
        if said.words:
            yield self._final(said.words, cut, end)
        self._heard = self._heard.after(end)
        self._forget_interims()

    def _final(self, words: tuple[tuple[str, float], ...], cut: Cut, end: int) -> wire.Final:
        """Words in proportion to their letters over the voiced part."""
        segmenter = self._heard.segmenter
        start = self._heard.nanoseconds(max(cut.start, segmenter.onset))
        stop = min(self._heard.nanoseconds(min(cut.end, segmenter.voiced_end)), self._nanoseconds(end))
        letters = np.cumsum([0] + [len(text) + 1 for text, _ in words])
        times = [start + int((stop - start) * n // letters[-1]) for n in letters]
        spread = zip(words, times, times[1:], strict=False)
        confidence = sum(score for _, score in words) / len(words)
        return wire.Final(
            end=self._nanoseconds(end),
            words=tuple(wire.Word(text, a, b, score) for (text, score), a, b in spread),
            confidence=confidence,
        )

    def _forget_interims(self) -> None:
        self._interim_at = 0
        self._draft = ()
        self._last_words = ()

    def _nanoseconds(self, sample: int) -> int:
        return -(-sample * SECOND // self._request.rate)


class _Heard:
    """Everything since the last clean cut, which was at `base` (a sample of the stream's own rate)."""

    def __init__(self, rate: int, base: int, voice: VoiceModel) -> None:
        self._rate = rate
        self._base = base
        self._voice = voice
        self._hearing = hearing(rate)
        self._state = voice.fresh_state()
        self._pcm = np.empty(0, np.int16)  # kept to be heard again after a cut
        self._pcm_first = base
        self._unheard = self._pcm
        self.samples: Samples = np.zeros(0, np.float32)  # 16 kHz; counted from the cut,
        self.first = 0  # the first that is kept
        self.segmenter = Segmenter()

    def add(self, pcm: Pcm) -> None:
        self._pcm = np.concatenate([self._pcm, pcm])
        self._unheard = np.concatenate([self._unheard, pcm])

    def listen(self, *, last: bool = False) -> Cut | None:
        """Go on until a cut or the end of what there is."""
        if len(self._unheard) or last:
            heard = self._hearing.feed(self._unheard, last=last)
            self._unheard = self._unheard[:0]
            self.samples = np.concatenate([self.samples, heard])
        end = self.first + len(self.samples)
        while (at := self.segmenter.frame * FRAME) + FRAME <= end:
            if cut := self._hear(self._window(at)):
                return cut
        if last and at < end:
            return self._hear(np.pad(self._window(at), (0, at + FRAME - end)))
        self._trim()
        return None

    def since_start(self) -> Samples:
        return self.segment(self.segmenter.start or 0, None)

    def segment(self, start: int, end: int | None) -> Samples:
        stop = None if end is None else end * FRAME - self.first
        return self.samples[start * FRAME - self.first : stop]

    def nanoseconds(self, frame: int) -> int:
        """Of a frame's beginning, from the beginning of the stream."""
        return -(-self._base * SECOND // self._rate) + frame * FRAME * SECOND // RATE

    def cut_sample(self, frame: int) -> int:
        """The sample of the stream's own rate at which a cut falls."""
        return self._base + frame * FRAME * self._rate // RATE

    def after(self, sample: int) -> "_Heard":
        """A fresh start at `sample`, to hear again what came after it."""
        fresh = _Heard(self._rate, sample, self._voice)
        fresh.add(self._pcm[sample - self._pcm_first :])
        return fresh

    def _window(self, at: int) -> Samples:
        begin = at - CONTEXT - self.first
        if begin < 0:
            return np.pad(self.samples[: begin + CONTEXT + FRAME], (-begin, 0))
        return self.samples[begin : begin + CONTEXT + FRAME]

    def _hear(self, window: Samples) -> Cut | None:
        probability, self._state = self._voice.probability(window, self._state)
        frame = window[CONTEXT:]
        return self.segmenter.hear(probability, float(np.dot(frame, frame)))

    def _trim(self) -> None:
        """In silence only the lead-in of what may come is kept."""
        keep_from = (self.segmenter.frame - LEAD_IN - 8) * FRAME
        if self.segmenter.start is not None or keep_from - self.first < 2 * RATE:
            return
        self.samples = self.samples[keep_from - self.first :]
        self.first = keep_from
        sample = self._base + keep_from * self._rate // RATE
        self._pcm = self._pcm[sample - self._pcm_first :]
        self._pcm_first = sample
