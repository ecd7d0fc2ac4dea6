"""From a response of Google's, in the time of its leg, to events on the session's clock.

Responses are raw protobuf messages (speech/wire.py).
"""

from collections.abc import Iterator
from typing import Any

from google.api_core.exceptions import GoogleAPICallError, from_grpc_status
from msgspec import UNSET

from app.core.audio import AudioFormat
from app.core.protocol import Alternative, SessionConfig, WordInfo
from app.core.recognition import ActivityTimeout, Event, Result, Settled, SpeechActivity
from app.speech.dialect import Names

_BEGIN, _END, _TIMEOUT = 2, 3, 4
"""`speech_event_type`, the same numbers in v1 and v2; only v1 has the last."""


class ResponseReader:
    """Reads one leg, which began at byte `start` of the session. Events come in Google's order."""

    def __init__(
        self,
        names: Names,
        config: SessionConfig,
        audio: AudioFormat,
        start: int,
        finals_end: dict[int, int],
    ) -> None:
        """`finals_end`: per channel, the byte where its last final ended; the session's legs share it."""
        self._names = names
        self._config = config
        self._format = audio
        self._start = start
        self._start_ms = audio.ms(start)
        self._finals_end = finals_end
        self._told_before = dict(finals_end)
        """Per channel, the byte up to which the legs before have told all: one channel may be ahead of another."""
        self._told: set[tuple[int, int, str]] = set()
        """Channel, end and text of each final of this leg."""
        self._speech_at = start
        self.billed_ms = 0
        self.heard_beyond = False
        """A final ended after what the leg owns."""

    def read(self, pb: Any, heard_until: int, owned_until: int | None = None) -> Iterator[Event]:
        """`heard_until`: the byte of the session up to which the leg was fed; no result ends after it. A result that
        ends after `owned_until` is another leg's to hear: it is left out."""
        self.read_bill(pb)
        if pb.speech_event_type:
            yield from self._read_activity(pb)
        interims: dict[int, list[Any]] = {}
        for result in pb.results:
            if self._is_told(result):
                continue
            if result.is_final and self._owns(result, owned_until):
                yield from self._read_final(result, heard_until)
            elif result.is_final:
                self.heard_beyond = True
            elif result.alternatives and self._owns(result, owned_until):
                interims.setdefault(_channel(result), []).append(result)
        for pieces in interims.values():
            yield self._read_interim(pieces, heard_until)

    def failure(self, pb: Any) -> GoogleAPICallError | None:
        """With which the leg ends: v1 can say so in its last response, too."""
        if self._names.result_end != "result_end_time" or not pb.HasField("error"):
            return None
        error: GoogleAPICallError = from_grpc_status(pb.error.code, pb.error.message)  # type: ignore[no-untyped-call]
        return error

    def draft(self, pb: Any, heard_until: int) -> Result | None:
        """The finals of a response as an interim: they may not count."""
        self.read_bill(pb)
        finals = [result for result in pb.results if result.is_final and result.alternatives]
        return self._read_interim(finals, heard_until) if finals else None

    def read_bill(self, pb: Any) -> None:
        """What it says of the audio that is billed, if anything."""
        billed = pb
        for name in self._names.billed:
            billed = getattr(billed, name)
        self.billed_ms = max(self.billed_ms, _ms(billed))

    def _at(self, duration: Any) -> int:
        """A time of the leg as a byte of the session, exactly."""
        nanoseconds = duration.seconds * 1_000_000_000 + duration.nanos
        samples = round(nanoseconds * self._format.sample_rate_hertz / 1_000_000_000)
        offset: int = self._start + samples * self._format.frame_bytes
        return offset

    def _owns(self, result: Any, owned_until: int | None) -> bool:
        return owned_until is None or self._at(getattr(result, self._names.result_end)) <= owned_until

    def _after(self, channel: int) -> int:
        """Nothing of a channel's that comes now began before this byte."""
        return max(self._start, self._finals_end.get(channel, 0))

    def _read_activity(self, pb: Any) -> Iterator[Event]:
        at = self._at(getattr(pb, self._names.event_at))
        at_ms = self._format.ms(at)
        kind = pb.speech_event_type
        if kind == _BEGIN:
            self._speech_at = at
        if kind in {_BEGIN, _END}:
            yield SpeechActivity(active=kind == _BEGIN, at_ms=at_ms)
        elif kind == _TIMEOUT:
            yield ActivityTimeout()

    def _said(self, result: Any) -> tuple[int, int, str]:
        text = result.alternatives[0].transcript if result.alternatives else ""
        return _channel(result), self._at(getattr(result, self._names.result_end)), text

    def _is_told(self, result: Any) -> bool:
        """A final of this leg once more, or what its channel has said to the leg before, being ahead of the others."""
        said = channel, end, _ = self._said(result)
        return end > self._start and (said in self._told or end <= self._told_before.get(channel, 0))

    def _read_final(self, result: Any, heard_until: int) -> Iterator[Event]:
        self._told.add(self._said(result))
        channel = _channel(result)
        begin, end = self._span(result, heard_until)
        words = self._words(result, self._format.ms(self._after(channel)))
        begin_ms, end_ms = self._format.ms(begin), self._format.ms(end)
        if words and self._config.enable_word_time_offsets:
            begin_ms = max(begin_ms, min(words[0].start_ms, end_ms))
        alternatives = tuple(
            Alternative(option.transcript.strip(), round(option.confidence, 4)) for option in result.alternatives
        )
        self._finals_end[channel] = end
        yield Result(
            text=alternatives[0].text if alternatives else "",
            start_ms=begin_ms,
            end_ms=end_ms,
            is_final=True,
            language_code=result.language_code,
            channel=channel,
            alternatives=alternatives,
            words=words,
        )
        yield Settled(min(self._after(every) for every in range(1, self._format.channels + 1)))

    def _read_interim(self, pieces: list[Any], heard_until: int) -> Result:
        """Several interims in one response are consecutive pieces: a stable head and an unstable tail."""
        begin, end = self._span(pieces[-1], heard_until)
        return Result(
            text="".join(piece.alternatives[0].transcript for piece in pieces).strip(),
            start_ms=self._format.ms(begin),
            end_ms=self._format.ms(end),
            is_final=False,
            language_code=pieces[0].language_code,
            channel=_channel(pieces[0]),
            stability=round(pieces[0].stability, 4),
        )

    def _span(self, result: Any, heard_until: int) -> tuple[int, int]:
        """From the end of the final before, or from where speech began after it, to the result's end. In bytes."""
        after = self._after(_channel(result))
        end = max(after, min(self._at(getattr(result, self._names.result_end)), heard_until))
        return max(after, min(self._speech_at, end)), end

    def _words(self, result: Any, after_ms: int) -> tuple[WordInfo, ...]:
        """With diarization v1 repeats all words of the leg in every final: those of earlier finals are left out."""
        if not result.alternatives:
            return ()
        words = (self._word(word) for word in result.alternatives[0].words)
        return tuple(word for word in words if word.end_ms > after_ms or not self._config.diarization)

    def _word(self, word: Any) -> WordInfo:
        speaker = word.speaker_label or str(getattr(word, "speaker_tag", 0) or "")
        return WordInfo(
            word=word.word,
            start_ms=self._start_ms + _ms(getattr(word, self._names.word_start)),
            end_ms=self._start_ms + _ms(getattr(word, self._names.word_end)),
            confidence=round(word.confidence, 4) if self._config.enable_word_confidence else UNSET,
            speaker=speaker or UNSET,
        )


def _channel(result: Any) -> int:
    """Google numbers channels from 1; where there is one, it may leave the number out."""
    return int(result.channel_tag) or 1


def _ms(duration: Any) -> int:
    """A protobuf Duration in milliseconds."""
    milliseconds: int = duration.seconds * 1000 + duration.nanos // 1_000_000
    return milliseconds
