"""Numbers, money and dates as a reader of each language expects them, safe inside text of either direction.

Everything that has a direction of its own goes between Unicode isolates (UAX #9 §2.4): without them "500 mg × 21" is
shown as "21 × mg 500" inside Arabic script, and a minus sign lands on the wrong side of its number.
"""

import re
from datetime import date
from functools import lru_cache
from typing import Literal, NamedTuple

from babel.dates import get_month_names
from babel.numbers import get_currency_name
from persiantools.jdatetime import JalaliDate

from schemas.base import EXPONENTS
from schemas.tenant import FiscalCalendar, Locale

Direction = Literal["ltr", "rtl"]

_LRI, _RLI, _FSI, _PDI = "\u2066", "\u2067", "\u2068", "\u2069"
_MINUS = "\u2212"
_NBSP, _ZWSP = "\u00a0", "\u200b"
_KEPT_TOGETHER = 16  # characters of a Latin run that does not break: "500 mg × 21" stays one expression
_WORD = re.compile(r"[!-~]{21,}")  # ASCII only: a break inside an Arabic word would unjoin its letters
_WORD_PART = 20  # characters; fits the narrowest column

_ARABIC_INDIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")  # ar: U+0660…
_EXTENDED_ARABIC_INDIC = str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹")  # fa-AF and ps: U+06F0…


class Script(NamedTuple):
    """How a language writes. `babel` is its CLDR locale."""

    babel: str
    direction: Direction
    digits: dict[int, int] | None
    decimal: str
    group: str


SCRIPTS: dict[Locale, Script] = {
    "en": Script("en", "ltr", None, ".", ","),
    "ar": Script("ar", "rtl", _ARABIC_INDIC, "٫", "٬"),
    "fa-AF": Script("fa_AF", "rtl", _EXTENDED_ARABIC_INDIC, "٫", "٬"),
    "ps": Script("ps_AF", "rtl", _EXTENDED_ARABIC_INDIC, "٫", "٬"),
}

# The zodiac names of Afghanistan, which CLDR's Persian calendar data for these locales does not carry throughout.
_SOLAR_HIJRI_MONTHS: dict[Locale, str] = {
    "en": "Hamal Sawr Jawza Saratan Asad Sunbula Mizan Aqrab Qaws Jadi Dalw Hut",
    "ar": "الحمل الثور الجوزاء السرطان الأسد السنبلة الميزان العقرب القوس الجدي الدلو الحوت",
    "fa-AF": "حمل ثور جوزا سرطان اسد سنبله میزان عقرب قوس جدی دلو حوت",
    "ps": "وری غویی غبرگولی چنگاښ زمری وږی تله لړم لیندۍ مرغومی سلواغه کب",
}

# Explicit embeddings, overrides and isolates of a sender would reorder our text, and PDF/A has no place for U+FEFF.
_CONTROLS = re.compile("[\u202a-\u202e\u2066-\u2069\ufeff]")
_BLANKS = re.compile(r"\s+")
# Dari's "ۀ" is written in two ways that look the same; the one of two characters is copied out of a PDF doubled.
_HEH_WITH_HAMZA, _HEH_AND_HAMZA = "\u06c0", "\u0647\u0654"
# From a Latin letter or a digit to the last one before Arabic script, with the signs and spaces between: "500 mg × 21",
# "+93 (0)20 230 1350". Native digits take part: "۵۰۰ mg" is one expression too.
_LATIN_RUN = re.compile(
    r"[+#(]?[A-Za-z\u00c0-\u024f0-9\u0660-\u0669\u06f0-\u06f9]"
    r"(?:[A-Za-z\u00c0-\u024f0-9\u0660-\u0669\u06f0-\u06f9 .,:;/\\+*#&@%°µ×()_\u2013\u2212\u00a0'-]*"
    r"[A-Za-z\u00c0-\u024f0-9\u0660-\u0669\u06f0-\u06f9%)°])?"
)


def ltr(text: str) -> str:
    """Isolated left to right: codes, references, amounts."""
    return f"{_LRI}{text}{_PDI}"


def plain(text: str) -> str:
    """What a sender wrote as one line without direction controls; ZWNJ and other joiners stay."""
    return _BLANKS.sub(" ", _CONTROLS.sub("", text)).strip().replace(_HEH_AND_HAMZA, _HEH_WITH_HAMZA)


def prose(locale: Locale, text: str) -> str:
    """A sender's text, isolated as a whole by its own direction, and its Latin runs too where the language is RTL."""
    line = breakable(plain(text), _WORD_PART, _WORD)
    if SCRIPTS[locale].direction == "rtl" and not _is_ltr(line):
        line = _LATIN_RUN.sub(_isolated_run, line)
    return f"{_FSI}{line}{_PDI}"


def breakable(text: str, length: int, words: re.Pattern[str] = _WORD) -> str:
    """Lets words that no column holds break after every `length` characters."""
    return words.sub(lambda word: _ZWSP.join(re.findall(f".{{1,{length}}}", word.group())), text)


def digits(locale: Locale, text: str) -> str:
    """ASCII digits as the language's own."""
    native = SCRIPTS[locale].digits
    return text.translate(native) if native else text


def count(locale: Locale, number: int) -> str:
    return ltr(digits(locale, str(number)))


def amount(locale: Locale, minor: int, currency: str) -> str:
    """Minor units with the currency's decimals (ISO 4217), grouped by thousands; the minus sign is on the left.

    Raises KeyError for a currency that ISO 4217 does not list.
    """
    exponent, script = EXPONENTS[currency], SCRIPTS[locale]
    whole, fraction = divmod(abs(minor), 10**exponent)
    text = f"{whole:,}".replace(",", script.group)
    if exponent:
        text += f"{script.decimal}{fraction:0{exponent}}"
    return ltr(f"{_MINUS if minor < 0 else ''}{digits(locale, text)}")


def money(locale: Locale, minor: int, currency: str) -> str:
    """An amount with its ISO code, which is unambiguous where symbols are not, and which every font has."""
    return ltr(f"{currency}{_NBSP}{amount(locale, minor, currency)}")


@lru_cache(maxsize=1_024)
def currency_name(locale: Locale, currency: str) -> str:
    """The currency's name in the language with its code; the code alone where CLDR has no name."""
    name = get_currency_name(currency, locale=SCRIPTS[locale].babel)
    return ltr(currency) if name == currency else f"{plain(name)} ({ltr(currency)})"


@lru_cache(maxsize=8_192)
def day(locale: Locale, calendar: FiscalCalendar, when: date) -> str:
    """Day, month by name, year: "15 Nov 2026", "۲۴ عقرب ۱۴۰۵". Isolated in the direction of the language."""
    if calendar == "gregorian":
        width: Literal["abbreviated", "wide"] = "abbreviated" if locale == "en" else "wide"
        month = get_month_names(width, locale=SCRIPTS[locale].babel)[when.month]
        text = f"{when.day} {month} {when.year}"
    else:
        jalali = JalaliDate(when)  # type: ignore[no-untyped-call]  # persiantools annotates results, not constructors
        text = f"{jalali.day} {_SOLAR_HIJRI_MONTHS[locale].split()[jalali.month - 1]} {jalali.year}"
    opening = _RLI if SCRIPTS[locale].direction == "rtl" else _LRI
    return f"{opening}{digits(locale, text)}{_PDI}"


def _isolated_run(run: re.Match[str]) -> str:
    """A parenthesis whose partner is elsewhere stays outside: it belongs to the line's direction."""
    text, before, after = run.group(), "", ""
    if text.startswith("(") and text.count("(") > text.count(")"):
        before, text = "(", text[1:]
    if text.endswith(")") and text.count(")") > text.count("("):
        text, after = text[:-1], ")"
    if len(text) <= _KEPT_TOGETHER:
        text = text.replace(" ", _NBSP)
    return f"{before}{ltr(text)}{after}"


def _is_ltr(text: str) -> bool:
    """Whether a text has no right-to-left letter at all: it is then one Latin run."""
    return not re.search("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]", text)
