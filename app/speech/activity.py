"""What the upstream has told of the speaker: whether somebody speaks, and whether words are still awaited.

Only as good as what it tells: without voice activity and interims nothing is known, and everything looks silent.
"""

from msgspec import structs

from app.core.audio import AudioFormat
from app.core.protocol import SessionConfig, VoiceActivityTimeout
from app.core.recognition import Event, Result, SpeechActivity

MIN_TIMEOUT_MS = 501
"""Google's own bound on a voice-activity timeout is over 500 ms."""
AWAITED_MS = 5_000
"""Speech that ended so long ago and brought no final was none."""
DOUBTS = 3
"""Legs that may tell of speech and have no words for it: then it was noise, or music."""
MUTE_DOUBTS = 5
"""Legs that may say nothing at all where another one has told of speech. Each is likely to be dead: one that lives
tells of it again, where it tells of speech at all."""


class Activity:
    """Of one session, on its clock."""

    def __init__(self, config: SessionConfig) -> None:
        self._config = config
        self._format = AudioFormat.of(config.audio)
        self.speaking = False
        """As told by the newest leg."""
        self._heard = False
        """Anybody ever spoke."""
        self.awaited = False
        """Somebody spoke, as was told, and the final of it has not come."""
        self._spoken_ms = 0
        """Where the words begin that are awaited."""
        self._silent_since_ms: int | None = None
        self._doubts = self._mute_doubts = 0
        """Legs since the last final that left out the words that were awaited, having told of speech or not."""

    def tell(self, event: Event, *, newest: bool) -> None:
        """What a leg has said; `newest`: that leg hears what comes now."""
        match event:
            case SpeechActivity(active, at_ms):
                self._heard = True
                if active and not self.awaited:
                    self._await(at_ms)
                self._silent_since_ms = None if active else at_ms
                self.speaking = active and newest
            case Result(is_final=is_final):
                if is_final:
                    self.awaited = False
                    self.believe()
                elif not self.awaited:
                    self._await(event.start_ms)
                self.speaking = not is_final and newest

    def forget(self) -> None:
        """A new leg is to tell."""
        self.speaking = False

    @property
    def is_noise(self) -> bool:
        """What is told as speech brings no words, whichever leg hears it. Till the next final, a leg that says nothing
        of it is not dead."""
        return self._doubts >= DOUBTS or self._mute_doubts >= MUTE_DOUBTS

    @property
    def is_doubtful(self) -> bool:
        """A leg has said nothing of what seemed to be speech, since the last final."""
        return self._doubts + self._mute_doubts > 0

    def doubt(self, *, mute: bool) -> None:
        """A leg has left out the words that are awaited. `mute`: it has said nothing at all."""
        if mute:
            self._mute_doubts += 1
        else:
            self._doubts += 1

    def believe(self) -> None:
        """There were words."""
        self._doubts = self._mute_doubts = 0

    def is_over(self, at: int) -> bool:
        """Who spoke was done so long before byte `at` that words of it would have come."""
        since = self._silent_since_ms
        return since is not None and self._format.ms(at) - since >= AWAITED_MS

    def is_quiet(self, at: int) -> bool:
        """Nobody speaks at byte `at`, and no words are awaited, as far as was told."""
        if self.speaking:
            return False
        return not self.awaited or self.is_noise or self.is_over(at)

    def unanswered(self, at: int) -> int:
        """Bytes of audio before byte `at` in which words were spoken that are awaited, as far as was told."""
        return 0 if self.is_noise or self.is_quiet(at) else max(0, at - self._format.offset(self._spoken_ms))

    def _await(self, since_ms: int) -> None:
        self.awaited = True
        self._spoken_ms = since_ms

    def has_timed_out(self, at: int) -> bool:
        """At byte `at` the client's voice-activity timeout had passed, by the silence that was told. v2 says so by the
        end of a stream, which without such a silence is a failure."""
        asked = self._config.voice_activity_timeout
        if asked is None:
            return False
        limit, since = (asked.speech_end_ms, self._silent_since_ms) if self._heard else (asked.speech_start_ms, 0)
        return limit is not None and since is not None and self._format.ms(at) - since >= limit

    def config_for(self, start: int) -> SessionConfig:
        """Google counts a voice-activity timeout from the start of a stream; the client's counts in its session."""
        asked = self._config.voice_activity_timeout
        if asked is None:
            return self._config
        first_ms: int | None = None
        if not self._heard and asked.speech_start_ms:
            first_ms = asked.speech_start_ms - self._format.ms(start)
        elif self._silent_since_ms is not None and asked.speech_end_ms:
            first_ms = asked.speech_end_ms - (self._format.ms(start) - self._silent_since_ms)
        left = VoiceActivityTimeout(
            speech_start_ms=first_ms and max(MIN_TIMEOUT_MS, first_ms), speech_end_ms=asked.speech_end_ms
        )
        return structs.replace(self._config, voice_activity_timeout=left, enable_voice_activity_events=True)
