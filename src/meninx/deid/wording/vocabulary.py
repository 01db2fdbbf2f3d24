"""The words and forms of numbers that free text may hold, and what each of them is in a phrase.

The words are in ``tables/vocabulary.csv``, which ``tools/build_vocabulary.py`` derives from open sources. The
words that decide what a phrase says (negations, sides, contrast) are listed here, because the rules in
:mod:`meninx.deid.wording.phrases` depend on each of them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from enum import Enum, auto

from meninx.core.value_caches import cached
from meninx.deid.profile import read_table

_ROWS = read_table("vocabulary.csv")
VOCABULARY: frozenset[str] = frozenset(row["word"] for row in _ROWS)
# Chosen by hand; the other words come from code meanings and from an index of archive descriptions.
CORE_WORDS: frozenset[str] = frozenset(row["word"] for row in _ROWS if row["origin"] == "hand")
FIRST_NAMES: frozenset[str] = frozenset(row["word"] for row in _ROWS if row["name"] in ("first", "both"))
LAST_NAMES: frozenset[str] = frozenset(row["word"] for row in _ROWS if row["name"] in ("last", "both"))
PLAIN_WORDS: frozenset[str] = VOCABULARY - FIRST_NAMES - LAST_NAMES
SELDOM: frozenset[str] = frozenset(row["word"] for row in _ROWS if row["name"] == "seldom")
RARE_NAMES: frozenset[str] = SELDOM | {row["word"] for row in _ROWS if row["name"] == "rare"}
_PIECES_ROWS = read_table("word_pieces.csv")
PIECES: frozenset[str] = frozenset(row["word"] for row in _PIECES_ROWS if row["kind"] == "piece")
_NOT_WRITTEN_TOGETHER = frozenset(row["word"] for row in _PIECES_ROWS if row["kind"] == "name")
_FINDINGS: frozenset[str] = frozenset(row["word"] for row in _ROWS if row["group"] == "finding")


class Role(Enum):
    """What a token is in a phrase."""

    UNKNOWN = auto()  # may be a name or an identifier
    WORD = auto()
    NAME = auto()  # a word of the field that is also a name of people
    RARE = auto()  # a word of the field that few people are called
    LETTER = auto()  # one letter, which may be an initial
    NUMBER = auto()  # a number that nothing marks as a measure
    MEASURE = auto()
    FINDING = auto()
    CONTRAST = auto()
    SIDE = auto()
    RELATION = auto()  # says that something is present, absent, before or after
    LINK = auto()  # joins two parts: "and", "of"
    DENIAL = auto()  # never stays, and its phrase goes with it: "but", "nongated", "contrastless"


# Words of other languages are listed although descriptions in them lose most words: an unknown "ohne" would
# turn "ohne Kontrast" into "Kontrast".
_RELATIONS_TEXT = """
    with without wthout wihout witout withot withou
    w wo wout wwo wowo wi wth no non not none minus plus pre post before after prior w/o w/out
    mit ohne avec sans com sem con sin senza zonder uden utan med bez z ze nicht kein keine keinen pas
    aucun aucune nao geen ingen nessun nessuna absent absence excluding exclude excluded except free rule
    ze przed
    excl excld exclud excludes exclusion exkl exklusive exclusief exc excepting excepted ausser ausgenommen
    sauf hors hormis excepto excepte eccetto tranne behalve uitgezonderd undtagen utom oprocz apart barring
    besides denies denied deny denying neither cannot unable unlikely unlike unless instead ruled missing omit
    omits omitted omitting least moins nunca jamais niemals nooit
"""
RELATIONS = frozenset(_RELATIONS_TEXT.split())
_NAMED_NEGATIONS_TEXT = "sin sans pas free minus kein rule"
NAMED_NEGATIONS = frozenset(_NAMED_NEGATIONS_TEXT.split())  # people are called so, too
_DENIALS_TEXT = """
    but cant never nor rather lacking lacks lack less than more fewer larger smaller most salvo menos meno
    weniger mehr nie
"""
_DENIALS = frozenset(_DENIALS_TEXT.split())  # people are called so, too
_CORRECTIONS_TEXT = """
    not nicht actually wrong wrongly cancelled canceled failed fails aborted abort incorrect incorrectly
    mislabeled mislabelled mislabel mismarked erroneous erroneously error mistake mistaken mistakenly
    deleted voided retracted invalid unusable discontinued stopped terminated refused incomplete rejected
    discarded discard discards reject cancel swapped swap switched reversed flipped mirrored mixed
    mistitled misnamed transposed exchanged vertauscht declined deferred withheld postponed
    contraindicated unavailable unperformed skipped abandoned extravasated extravasation infiltrated
    pending attempted suspended correct unsuccessful correction verweigert abgelehnt verschoben paravasat
    refus refuse rechazado rifiutato geweigerd storniert abgebrochen falsch irrtuemlich annule annullato
    anulado cancelado annulleret geannuleerd avbruten errato erroneo incorrecto nieprawidlowy
"""
# Words that say that something is otherwise than the rest of the text says ("should be right", "marker says
# left"), or about somebody else ("mother: breast cancer"). They do not stay: people are called Said.
_SENTENCES_TEXT = """
    should shouldnt shouldve would wouldnt ought was wasnt were werent says say said stated means meant
    supposed really truly probably possibly maybe perhaps although though however therefore sollte sollten
    devrait deberia dovrebbe prn family familial familie famille familia famiglia familienanamnese fhx
    mother father sister brother sibling siblings aunt uncle cousin grandmother grandfather maternal
    paternal mutter vater schwester bruder
"""
CORRECTIONS = frozenset(_CORRECTIONS_TEXT.split())  # they may be about any part of the text
_SENTENCES = frozenset(_SENTENCES_TEXT.split())
_SAID = CORRECTIONS | _SENTENCES
_CORRECTING = re.compile(  # inflected forms, accents removed
    r"(?:cxl|cxld|cx'?d|canx|cncl|cancl?d|scrapp|intoleran|ausgefall|entfiel|entfall|ignor|delet|mismatch"
    r"|cancel|refus|rechaz|rifiut|verweiger|geweiger|declin|deferr?(?:ed|ing|al)|reject|abort|abbruch|abgebroch|postpon"
    r"|verschob|storni|swapp|vertausch|mislabel|mismark|mistak|erron|errat|incorrec|withh[eo]ld|contraindic|kontraindik"
    r"|contreindiqu|discontin|unterbroch|interrump|interromp|afgebrok|avbrut|przerwan|abgelehn|odmow|avbok|afgewez|negad"
    r"|an{1,2}ul(?:e|a|ad|at|er|ier|led)|extravas|paravas)[a-z]*"
)
_LINKS_TEXT = """
    and or of for by to from on at in via versus vs the a an und et y e o oder ou von de der des du di da
    del der le la el for since during under over between within then
"""
LINKS = frozenset(_LINKS_TEXT.split())
_SIDES_TEXT = """
    left right bilateral bilat bil bilaterally both unilateral unilat ipsilateral ipsi contralateral contra l
    r lt rt lft rgt rht re li links rechts rechte linkes rechtes linken rechten beidseits bds gauche
    droite droit izquierda izquierdo derecha derecho destra sinistra sinistro esquerda esquerdo direita
    direito lewa lewy prawa prawy od os ou
"""
SIDES = frozenset(_SIDES_TEXT.split())
_ENGLISH_SIDES_TEXT = "left right bilateral bilat both unilateral lt rt lft rgt"
ENGLISH_SIDES = frozenset(_ENGLISH_SIDES_TEXT.split())
_CONTRASTS_TEXT = """
    contrast contrasts co contraste contrasto contrat contr cont con cntr cntrst contrst kontrast
    kontrastmittel km
    c ce cm iv ivcon gad gado gadolinium gd gadovist nce gadavist magnevist dotarem eovist primovist omniscan
    prohance multihance clariscan enhanced enhancement enhancing enh unenhanced noncontrast noncon nonenhanced
    agent medium dye oral rectal injection injected nativ native plain infused
    kontrastem kontrastu kontrastowa kontrastowe kontrastowym kontrastowego kontr wzmocnieniem wzmocnienia
    wzmoc contrasted contras contra contrastado contrastada enhance enha ceiv civ pocm
"""
CONTRASTS = frozenset(_CONTRASTS_TEXT.split())

_WITHOUT_TEXT = """
    without wthout wihout witout withot withou
    wo w/o w/out nativ native plain unenhanced noncontrast noncon nonenhanced nce ohne sans
    sem sin senza zonder uden utan bez
"""
_WITH_TEXT = "with w wi wth mit avec com med z ze enhanced"
_LEFT_TEXT = """
    left lt lft li links linkes linken gauche izquierda izquierdo sinistra sinistro esquerda esquerdo lewa
    lewy os
"""
_RIGHT_TEXT = """
    right rt rgt re rechts rechte rechtes rechten droite droit derecha derecho destra direita direito
    prawa prawy od
"""
_IN_TEXT = "insp inspir inspiration inspiratory inspirium"
_OUT_TEXT = "exp exsp expir expiration expiratory exspiration exspiratory expirium exspir"
_OPPOSITES = (
    ("upper", "lower"),
    ("superior", "inferior"),
    ("anterior", "posterior"),
    ("proximal", "distal"),
    ("medial", "lateral"),
    ("early", "delayed late"),
    ("systolic systole", "diastolic diastole"),
    ("supine", "prone"),
    ("flexion", "extension"),
    ("rest", "stress"),
)
HALVES: tuple[dict[str, int], ...] = (
    dict.fromkeys(_WITHOUT_TEXT.split(), 0) | dict.fromkeys(_WITH_TEXT.split(), 1),
    {"art": 0, "arterial": 0, "ven": 1, "venous": 1},
    {"pre": 0, "before": 0, "post": 1, "after": 1},
    dict.fromkeys(_LEFT_TEXT.split(), 0) | dict.fromkeys(_RIGHT_TEXT.split(), 1),
    dict.fromkeys(_IN_TEXT.split(), 0) | dict.fromkeys(_OUT_TEXT.split(), 1),
    *(dict.fromkeys(first.split(), 0) | dict.fromkeys(second.split(), 1) for first, second in _OPPOSITES),
    {"in": 0, "ip": 0, "inphase": 0, "out": 1, "op": 1, "opp": 1, "opposed": 1, "outphase": 1},
)
"""Words of statements that have two halves -> which half."""
STATED_OR_IN = frozenset(word for halves in HALVES for word in halves)
STATED = frozenset(word for halves in HALVES[:4] for word in halves) - {"in"}  # "in" is rather a preposition

_UNIT = (
    r"(?:mm|cm|mls?|cc|kv|kvp|ma|mas|sec|secs|seconds?|s|ms|msec|min|mins|minutes?|hrs?|hours?|weeks?|wks?|months?|mos?"
    r"|mgy|cgy|gy|msv|usv|mmhg|mmol|mbq|mci|hz|khz|mhz|tesla|um|deg|degrees?|fps|bpm|rpm|hu|kev|mev|mv|ug|mcg|mg|uci|bq|ppm|phases?|mpx|frames?|slices?"
    r"|views?|vws?|planes?|pl)"
)
UNITS = re.compile(_UNIT)
_PER = r"(?:/(?:100[ ]?ml|dl|l|ml|s|sec|min|h|hr|kg|m2|cm|mm))?"  # "mg/dl"
_INTEGER = r"(?:0|(?!19[0-9]{2}|20[0-2][0-9])[1-9][0-9]{0,3})"  # a year is no measure
_DECIMAL = rf"{_INTEGER}(?:\.[0-9]{{1,3}}|,[0-9]{{1,2}})?"
_BEFORE, _AFTER = r"(?<![^\W_])(?<![0-9][.,:/-])", r"(?![^\W_])(?![.,:/-][0-9])"
MEASURE = re.compile(
    rf"""{_BEFORE}(?:
      (?![0-9]{{4}}[.,0-9]*(?:mo|w))                                       # 1140mo: an age of 95 years
      {_DECIMAL}{_UNIT}{_PER}(?![^\W_])                                    # 2.5mm, 3ml/s
    | (?!0[0-9]|[0-9]{{4}}){_DECIMAL}[ ]{_UNIT}{_PER}(?![^\W_])             # 10 min
    | [0-9]{{1,3}}(?:\.[0-9]{{1,2}})?[ ]?%                                    # 75%
    | [1-9](?:\.[0-9])?[ ]?t(?![^\W_])                                      # 1.5T
    | {_DECIMAL}(?:[ ]?x[ ]?{_DECIMAL}){{1,2}}(?:[ ]?{_UNIT})?{_AFTER}      # 256x256, 3 x 3 mm
    | [0-9](?:\.[0-9]{{1,2}})?/[0-9](?:\.[0-9]{{1,2}})?{_AFTER}             # thickness/increment: 2.5/1.25
    | [0-9]{{1,2}}\.[0-9](?=[ ]{{1,3}}[A-Z][a-z]?[0-9]{{2}}[a-z]?(?![^\W_]))  # thickness before a kernel
    | (?:[0-9]{{1,2}}\.0{{1,3}}|0\.[0-9]{{1,4}}|[0-9]\.(?:5|25|75|125|375|625|875|[0-9]{{3}})){_AFTER}(?!\.)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
# Reconstruction kernels, spine levels, volumes of radiotherapy, b-values, times of echo and repetition.
SHAPES = re.compile(
    r"""(?:
      [bhiutsd][0-9]{2}[fshmvd]?
    | (?:br|bl|bv|bf|hr|hc|hv|hp|hf|hn|qr|ur|sa|sf|ub|tr|fl|fc|bp|vb|cb|vt)[0-9]{2}[a-z]?
    | f[cl][0-9]{2} | [a-z](?:[0-9]|[1-8][0-9]) | [1-9][0-9]?x | x[1-9][0-9]? | [1-4][dt]
    | (?:b|te|tr|ti|fa|nex|etl)(?:[0-9]{1,3}|[1-9][0-9]?[05]0) | (?:[0-9]{1,3}|[1-9][0-9]?[05]0)b
    | [0-9]{2,3}(?:kv|kvp|ma|mas) | (?:kv|ma)[0-9]{2,3}
    | (?:ptv|gtv|ctv|itv|prv)[0-9]{1,2}
    | (?:1st|2nd|3rd|[4-9]th) | t?[0-9]{1,2}of[0-9]{1,2}
    | (?:st|ss|sl|th|ph|dyn|n|pe|ser)[0-9]{1,2}
    | (?:t?fl|ep|t?se|tse|tir|tfi|spc|ci|ciss|fi|gre|me|pc|fid|h|mrcp)[1-4]d[0-9]{0,2}(?:r{1,2}[0-9]{1,2})?
    | wip[0-9]{3}[a-z]?
    | [1-4](?:p|pl|ave|avg|dfse|nex|rx|dwb) | [0-9]{1,2}(?:dir|st|ns|ph|sl|ch)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
# A weighting or a number of dimensions glued to a word: "T2FSE", "fsT1", "3DWB", "t5of9MRI".
_GLUED = re.compile(
    r"(?:t[12]|[234]d|t?[0-9]{1,2}of[0-9]{1,2})([a-z]{2,})|([a-z]{2,})(?:t[12]|[234]d)", re.IGNORECASE
)
_DENIED = re.compile(
    r"(?P<sure>non[a-z0-9]{3,})|(?P<less>[a-z]{4,}less)|(?:un|dis|mis|nicht)(?P<rest>[a-z]{4,})"
    r"|(?P<stem>[a-z]{3,})(?:free|frei|los)"
)
_WITH_INITIAL = re.compile(r"[A-Z]?[a-z]{2,}[A-Z]")  # "CostaL"
_PIECES = re.compile(r"[a-z]+|[0-9]+", re.IGNORECASE)
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# Pixels of a matrix, kilovolts, tenths of millimetres: no age, no day.
_SIZES_TEXT = """
    120 128 130 135 140 150 160 192 200 224 240 256 288 300 320 352 384
    400 448 512 640 768 1024
"""
_SIZES = frozenset(_SIZES_TEXT.split())
# "14 Mar", "3Oct": the sequence MAR and the modality OCT lose their number.
_MONTHS_TEXT = """
    january february march april may june july august september october november december jan feb mar apr jun
    jul aug sep sept oct nov dec januar februar maerz mai juni juli oktober dezember okt dez janv fev avr
    juin juil aout ene abr ago dic gen mag giu lug set ott enero febrero marzo abril mayo junio julio agosto
    septiembre octubre noviembre diciembre
"""
MONTHS = frozenset(_MONTHS_TEXT.split())
_AGES_TEXT = "y yo yr yrs year years old age aged jahre jahr ans anni anos alter born"
AGES = frozenset(_AGES_TEXT.split())
_CUES_TEXT = "b bval bvals bvalue bvalues te tr ti kv kvp ma mas fov"
B_VALUES = frozenset(_CUES_TEXT.split())  # words before a number that is no day


@cached(maxsize=16384)
def kind_of(text: str) -> Role:
    """Return what one token is, its neighbours aside.

    Args:
        text: letters and digits without a blank, in any case.
    """
    if len(text) > 3 and text[-2:].casefold() in ("'s", "’s"):
        text = text[:-2]
    word = text.casefold()
    if not text.isascii():
        return Role.DENIAL if _denies(_plain(word)) else Role.UNKNOWN
    if word in AGES or text in ("Mr", "Pt"):  # MR and PT are modalities
        return Role.UNKNOWN
    if _WITH_INITIAL.fullmatch(text):
        return Role.UNKNOWN
    for words, kind in _CLOSED:
        if word in words:
            return kind
    if word.isdigit():
        small = len(word) <= 2 and int(word) <= 89
        return Role.NUMBER if small or word in _SIZES else Role.UNKNOWN
    if word in VOCABULARY:
        return _kind_of_word(word)
    return _kind_by_form(text, word)


def _kind_by_form(text: str, word: str) -> Role:
    """Return what a token is that no list has."""
    if len(word) == 1:
        return Role.LETTER
    if SHAPES.fullmatch(word) or word in B_VALUES:
        return Role.MEASURE
    if is_compound(text):
        return Role.WORD
    return Role.DENIAL if _denies(word) else Role.UNKNOWN


def corrects(words: Iterable[str]) -> bool:
    """Return whether some casefolded word makes a sentence or says that something is wrong."""
    plain = [word if word.isascii() else _plain(word) for word in words]
    return not _SAID.isdisjoint(plain) or any(map(_CORRECTING.fullmatch, plain))


def _plain(word: str) -> str:
    """Return a word without accents."""
    return "".join(sign for sign in unicodedata.normalize("NFKD", word) if not unicodedata.combining(sign))


def _denies(word: str) -> bool:
    """Return whether a word that cannot stay says that something is absent or otherwise.

    It is listed, or denies a word of the field: ``nongated``, ``contrastless``, ``uncontrasted``.
    """
    if word in _DENIALS or word in RELATIONS or word in _SAID or _CORRECTING.fullmatch(word):
        return True
    found = _DENIED.fullmatch(word)
    if found is None:
        return False
    # Few names begin with "non" or end with "less", so these deny whatever the rest is.
    if found["sure"] or found["less"]:
        return True
    rest = found["rest"] or found["stem"]
    return kind_of(rest) not in (Role.UNKNOWN, Role.DENIAL)


def is_compound(text: str) -> bool:
    """Return whether a token consists of known words and small numbers: ``SpinEcho``, ``run2``, ``AX3D``.

    Every word has two letters or more and is no name of people.
    """
    if (text.isupper() or text.islower() or text.istitle()) and _is_written_together(text.casefold()):
        return True
    glued = _GLUED.fullmatch(text)
    if glued:
        rest = (glued[1] or glued[2]).casefold()
        if (rest in PLAIN_WORDS and rest not in MONTHS) or _is_written_together(rest):
            return True
    for pattern in (_PIECES, _CAMEL):
        pieces = pattern.findall(text)
        words = [piece.casefold() for piece in pieces if not piece.isdigit()]
        numbers = [piece for piece in pieces if piece.isdigit()]
        if (
            "".join(pieces) == text
            and len(pieces) > 1
            and words
            and all(len(word) > 1 and word in PLAIN_WORDS and word not in MONTHS for word in words)
            and (len(words) == 1 or max(map(len, words)) > 2)
            and all(len(number) <= 2 for number in numbers)
            and len(numbers) <= 2
        ):
            return True
    return False


def _is_written_together(word: str) -> bool:
    """Return whether a token consists of two words of the field or more: ``chestabdpel``, ``skullbase``."""
    if not 6 <= len(word) <= 32 or not word.isalpha() or word in _NOT_WRITTEN_TOGETHER:
        return False
    ends = {0}
    for start in range(len(word) - 1):
        if start in ends:
            ends |= {end for end in range(start + 2, len(word) + 1) if word[start:end] in PIECES}
    return len(word) in ends and word not in PIECES


_CLOSED = (
    (RELATIONS - CONTRASTS - CORRECTIONS, Role.RELATION),
    (_DENIALS | (_SENTENCES - LINKS - SIDES - RELATIONS - CORRECTIONS), Role.DENIAL),
    (CORRECTIONS, Role.WORD),
    (CONTRASTS, Role.CONTRAST),
    (SIDES, Role.SIDE),
    (LINKS, Role.LINK),
)


def _kind_of_word(word: str) -> Role:
    if len(word) > 4 and (word.startswith("non") or word.endswith("less")):
        return Role.RELATION  # "nonsmall", "nonattenuated": denies as "non" does
    if word in _FINDINGS:
        return Role.FINDING if word in PLAIN_WORDS else Role.NAME
    if len(word) == 1:
        return Role.LETTER
    if word in RARE_NAMES:
        return Role.RARE
    return Role.WORD if word in PLAIN_WORDS else Role.NAME
