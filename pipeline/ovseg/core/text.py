"""Text in its normal form. Captions and class names of any file pass through `normalize` once, where they are read."""

from __future__ import annotations

import re
import unicodedata
from html import unescape
from html.entities import html5

_AMPERSAND = re.compile(r"&(?:(?:amp|AMP|Amp|#0*38|#[xX]0*26);)+")
_ENTITY = re.compile(
    r"&(?:#0*[0-9]{1,7};|#[xX]0*[0-9A-Fa-f]{1,6};|#[0-9]{2,5}(?![0-9;])|[A-Za-z][A-Za-z0-9]{1,31};"
    r"|(?:amp|lt|gt|quot|nbsp)(?![A-Za-z0-9;]))"
)
_BLANKS = re.compile("[ \n\0]+")
_ACUTE_APOSTROPHE = re.compile(r"(?<=[^\W\d_])\u00b4(?=[^\W\d_])")
_BLANK, _REMOVED = "\n", "\0"
_PLAIN = {
    **dict.fromkeys("\u02bb\u02bc\u2018\u2019\u201a\u201b\u2032\uff07\x91\x92", "'"),
    **dict.fromkeys(
        "\u201c\u201d\u201e\u201f\u2033\x93\x94", '"'
    ),  # \x91 to \x97: Windows-1252 that was read as Latin-1
    **dict.fromkeys("\u2010\u2011", "-"),
    **dict.fromkeys("\u2800\u3164\uffa0", _BLANK),  # look like a blank, but are symbols or letters to Unicode
    **dict.fromkeys("\u034f", _REMOVED),
    "\x96": "\u2013",
    "\x97": "\u2014",
}

_WORD = re.compile(r"[^\W_]+(?:['.-][^\W_]+)*")
_SENTENCE_START = re.compile(r"(?:^|[.!?]['\")]{0,2}\s)[^\w]{0,8}([^\W\d_])")
_PRONOUN = re.compile(r"\bI\b")
_PHRASE = 3  # number of words in a row that make a phrase in capitals; fewer are names and abbreviations
_SMALL_WORDS = frozenset(
    "a about above across after against along among an and around as at before behind below beneath beside between but by "  # noqa: SIM905
    "down during for from in inside into near nor of off on onto or out over per than the through to toward towards under "
    "up upon via vs with within without".split()
)
"""Words that English titles leave in lower case."""


def normalize(text: str) -> str:
    """Return a caption or class name in its normal form; printable ASCII without "&" is returned unchanged.

    HTML entities become their characters, however often they were escaped. Characters are composed (Unicode NFC);
    ligatures and full-width letters become plain letters, curly apostrophes and quotes straight ones. Control, formatting,
    zero-width and private characters are removed. A run of blanks that are not all spaces becomes one space, and is removed
    at the ends. The normal form of a normal form is itself.
    """
    while not (text.isascii() and text.isprintable() and "&" not in text):
        normal = _normalize_once(text)
        if normal == text:
            break
        text = normal
    return text


def _normalize_once(text: str) -> str:
    if "&" in text:
        text = _ENTITY.sub(_decode, _AMPERSAND.sub("&", text))
    text = _ACUTE_APOSTROPHE.sub("'", unicodedata.normalize("NFC", text))
    text = _BLANKS.sub(_merge_blanks, text.translate(_PLAIN_CHARACTERS))
    return unicodedata.normalize("NFC", text)


def _decode(entity: re.Match[str]) -> str:
    """The characters of an HTML entity; a name in capitals is one in lower case, an unknown name stays."""
    body = entity[0][1:].removesuffix(";") + ";"
    if body[0] != "#" and body not in html5:
        body = body.lower()
    return unescape(f"&{body}") if body[0] == "#" or body in html5 else entity[0]


def _merge_blanks(run: re.Match[str]) -> str:
    characters = set(run[0])
    if characters == {" "}:
        return run[0]
    at_end = run.start() == 0 or run.end() == len(run.string)
    return "" if at_end or characters == {_REMOVED} else " "


class _PlainCharacters(dict[int, str]):
    """A table for `str.translate` that computes what a character becomes when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = _plain(chr(code))
        return self[code]


_PLAIN_CHARACTERS = _PlainCharacters()


def _plain(character: str) -> str:
    if character in _PLAIN or character == " ":
        return _PLAIN.get(character, character)
    if character.isspace():
        return _BLANK
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co") or "VARIATION SELECTOR" in unicodedata.name(
        character, ""
    ):
        return _REMOVED
    full_width = "\uff10" <= character <= "\uff5a" and character.isalnum()
    if full_width or "\ufb00" <= character <= "\ufb06":
        return unicodedata.normalize("NFKC", character)
    return character


def sentence_case(text: str) -> str:
    """Return a text of the same length in which captions in capitals or Title Case are written as a sentence.

    Taggers take capitalized words for names. All letters become lower case except the first of each sentence and the word
    "I", if every word is capitalized or is one that English titles leave in lower case; else only the phrases of at least
    three words in capitals. Names in an ordinary sentence stay as they are.
    """
    lowered = _lower(text)
    if lowered[1:] == text[1:]:
        return text
    words = [word for word in _WORD.finditer(text) if word[0][0].isalpha()]
    kept = {match.start(1) for match in _SENTENCE_START.finditer(text)}
    kept.update(match.start() for match in _PRONOUN.finditer(text))
    characters = list(text)
    for start, end in _capitalized_spans(words, len(text)):
        characters[start:end] = [_upper(text[i]) if i in kept else lowered[i] for i in range(start, end)]
    return "".join(characters)


def _capitalized_spans(words: list[re.Match[str]], length: int) -> list[tuple[int, int]]:
    """The whole text if it is in capitals or Title Case, else its phrases in capitals."""
    following = [word[0] for word in words[1:]]
    is_title = all(word in _SMALL_WORDS or word != word.lower() for word in following)
    if is_title and (following or all(word[0].isupper() for word in words)):
        return [(0, length)]
    spans = []
    run: list[re.Match[str]] = []
    for word in [*words, None]:
        if word is not None and word[0].isupper():
            run.append(word)
            continue
        if len(run) >= _PHRASE:
            spans.append((run[0].start(), run[-1].end()))
        run = []
    return spans


def _upper(letter: str) -> str:
    """The letter as a capital; one whose capital is two letters stays."""
    capital = letter.upper()
    return capital if len(capital) == 1 else letter


def _lower(text: str) -> str:
    """The text in lower case, in as many characters; a letter whose lower case is longer stays."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in text)
