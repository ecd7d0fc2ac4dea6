"""Finals as text that people and players read: TXT, SRT, VTT, JSON lines. Pure functions of the gateway's messages.

A caption file is written while the session runs: its head first, then what every final and gap adds to it.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from app.core.protocol import Durable, Final, GapEvent, WordInfo, serialize

LINE_CHARS = 42
"""The customary width of a subtitle line (BBC, Netflix)."""
CUE_LINES = 2
SENTENCE_ENDS = (".", "?", "!", "。", "？", "！")

Format = Literal["txt", "json", "srt", "vtt"]


class Cue(NamedTuple):
    """What is on the screen at one time: at most two lines. Milliseconds from the start of the session."""

    start_ms: int
    end_ms: int
    text: str


class Captions:
    """One caption file in the making. `head` comes first; then `add` gives the text for one more message."""

    def __init__(self, form: Format) -> None:
        self._write: Callable[[Durable], str] = {"txt": txt, "json": json_line, "srt": self._srt, "vtt": _vtt}[form]
        self._cues = 0
        self.head = "WEBVTT\n\n" if form == "vtt" else ""

    def add(self, message: Durable) -> str:
        return self._write(message)

    def _srt(self, message: Durable) -> str:
        text = ""
        for cue in cues(message):
            self._cues += 1
            text += srt(self._cues, cue)
        return text


def _vtt(message: Durable) -> str:
    return "".join(map(vtt, cues(message)))


def txt(message: Durable) -> str:
    """A line for a final, a line in brackets for a gap, nothing for the rest."""
    match message:
        case Final() if text := " ".join(message.text.split()):
            return text + "\n"
        case GapEvent():
            return missing(message) + "\n"
    return ""


def json_line(message: Durable) -> str:
    """The message as the gateway sent it, on a line of its own: finals, gaps and, last, `stopped`."""
    return serialize(message) + "\n"


def srt(number: int, cue: Cue) -> str:
    return f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n{cue.text}\n\n"


def vtt(cue: Cue) -> str:
    text = cue.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n{text}\n\n"


def missing(gap: GapEvent) -> str:
    return f"[... audio missing: {gap.reason}]"


def cues(message: Durable) -> list[Cue]:
    """A gap is one cue; a final is as few cues as hold it, their lines about equally long; the rest is none."""
    match message:
        case GapEvent():
            return [_cue(message.start_ms, message.end_ms, missing(message))]
        case Final():
            lines = _lines(_timed_words(message))
            groups = (lines[at : at + CUE_LINES] for at in range(0, len(lines), CUE_LINES))
            return [_cue(group[0][0].start_ms, group[-1][-1].end_ms, _text(group)) for group in groups]
    return []


Line = list[WordInfo]


def _text(lines: list[Line]) -> str:
    return "\n".join(" ".join(word.word for word in line) for line in lines)


def _cue(start_ms: int, end_ms: int, text: str) -> Cue:
    return Cue(start_ms, max(end_ms, start_ms + 1), text)  # players drop a cue that has no length


def _clock(ms: int, point: str) -> str:
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{ms:03}"


def _lines(words: list[WordInfo]) -> list[Line]:
    """The fewest lines; where that costs none, every sentence begins a new one."""
    lines = _balanced(words)
    by_sentence = [line for sentence in _sentences(words) for line in _balanced(sentence)]
    return by_sentence if len(by_sentence) == len(lines) else lines


def _sentences(words: list[WordInfo]) -> list[list[WordInfo]]:
    sentences: list[list[WordInfo]] = [[]]
    for word in words:
        sentences[-1].append(word)
        if word.word.endswith(SENTENCE_ENDS):
            sentences.append([])
    return sentences


def _balanced(words: list[WordInfo]) -> list[Line]:
    """The fewest lines, and of those the narrowest: no last line of a single word."""
    fewest = len(_wrapped(words, LINE_CHARS))
    narrowest = max((len(word.word) for word in words), default=LINE_CHARS)
    return next(lines for width in range(narrowest, LINE_CHARS + 1) if len(lines := _wrapped(words, width)) == fewest)


def _wrapped(words: list[WordInfo], width: int) -> list[Line]:
    lines: list[Line] = []
    room = 0
    for word in words:
        room -= len(word.word) + 1
        if room < 0:
            lines.append([])
            room = width - len(word.word)
        lines[-1].append(word)
    return lines


def _timed_words(final: Final) -> list[WordInfo]:
    """The words of the text with their times: the gateway's where it gave one for each, else by length."""
    texts = [piece for word in final.text.split() for piece in _pieces(word)]
    if isinstance(final.words, list) and len(final.words) == len(texts):
        return [
            WordInfo(word=text, start_ms=word.start_ms, end_ms=word.end_ms)
            for text, word in zip(texts, final.words, strict=True)
        ]
    return list(_spread(texts, final.start_ms, final.end_ms))


def _pieces(word: str) -> list[str]:
    """A word, or what has no spaces between its words, in pieces that fit a line."""
    return [word[at : at + LINE_CHARS] for at in range(0, len(word), LINE_CHARS)]


def _spread(texts: list[str], start_ms: int, end_ms: int) -> Iterator[WordInfo]:
    total = sum(map(len, texts))
    done = 0
    for text in texts:
        begin = start_ms + (end_ms - start_ms) * done // total
        done += len(text)
        yield WordInfo(word=text, start_ms=begin, end_ms=start_ms + (end_ms - start_ms) * done // total)
