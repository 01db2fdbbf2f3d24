"""Which lines of text in pixels are technical and may stay: settings of the device, scales, side markers.

The list is closed. A line stays only if all of it is a label, a number with a unit, a label with its number,
or one short number. Names, dates, telephone numbers and identifiers have other forms, and a line that the
recognition network misreads has none of these forms either, so it is redacted.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_NUMBER = r"[-+±]?\d{1,4}(?:[.,]\d{1,3})?"
_SHORT_NUMBER = r"[-+]?(?:\d{1,3}|\d{1,3}[.,]\d{1,2})"
_UNITS = (
    r"mm/s|cm/s|m/s|mm2|mm|cm|m|[kM]?Hz|fps|f/s|d[Bb]|m?Gy(?:[-*·. ]?cm2?)?|[µu]Gy|kVp?|mAs?|mA|kW|mW|"
    r"ms|s|sec|min|%|°|deg|px|mW/cm2|mSv|HU|T|bpm|BPM|x|X"
)
_LABELS = (
    # Output and safety of ultrasound
    r"MI|TIS|TIB|TIC|TI|AO|Pwr|Power|"
    # Settings of ultrasound
    r"Gain|Gn|GN|G|Depth|D|Frq|Freq|F|FR|Fr|DR|Dyn|Dynamic Range|PRF|WF|Wall Filter|SV|Angle|Zoom|"
    r"Map|Gray Map|Persist|Per|Edge|Focus|Harm|THI|HAR|Res|Gen|Pen|CHI|SRI|XRES|"
    r"2D|3D|4D|B|M|PW|CW|CF|CFI|CPA|PD|TDI|"
    # Settings of radiography, CT and MR
    r"kVp|kV|mAs|mA|SID|SOD|DAP|EI|DI|S|DLP|CTDI ?vol|CTDI|Pitch|FOV|DFOV|SFOV|ST|SL|SP|Thk|Slice|"
    r"TR|TE|TI|FA|ETL|mGy|dB|cm|mm|Hz|MHz|NEX|NSA|BW|Mag|Ma|W|L|WL|WW|C|Se|SE|Im|IM|Img|Image|Series|Frame|Fr\.|Page|Zoom|"
    # Sides, positions and projections
    r"R|L|A|P|H|F|I|S|RT|LT|Rt|Lt|RIGHT|LEFT|Right|Left|AP|PA|LAT|LL|RL|CC|MLO|RCC|LCC|RMLO|LMLO|ML|LM|OBL|"
    r"LAO|RAO|CRAN|CAUD|ERECT|SUPINE|PRONE|UPRIGHT|PORTABLE|SITTING|STANDING|INSP|EXP"
)
_MEASUREMENTS = (
    r"Dist|Distance|Length|Width|Height|Depth|Diam|Diameter|Area|Circ|Vol|Volume|Angle|Vmax|Vmin|Vmean|Vel|"
    r"PSV|EDV|RI|PI|PG|S/D|MaxPG|MeanPG|VTI|Acc|HR|BPD|HC|AC|FL|CRL|EFW|NT|HL|OFD|TCD|AFI|GS|YS|"
    r"EF|FS|LVIDd|LVIDs|IVSd|IVSs|LVPWd|LVPWs|LVOT|AoD|LA|LVEF|EDV|ESV|SV|CO|E|A|E/A|DecT|IMT|Mean|SD|Min|Max|Avg"
)
_SEPARATOR = r"[ ]*[:=]?[ ]*"
_TICKS = r"[+x×*✚|•·<>^v▲▼◄►]"


@cache  # compiled when a picture has text, which most have not
def _line(labels: str, prefix: str = "") -> re.Pattern[str]:
    value = rf"{_NUMBER}[ ]?(?:{_UNITS})"
    part = (
        rf"(?:{_TICKS}|"
        rf"(?:{labels}){_SEPARATOR}(?:{value}|{_SHORT_NUMBER}(?:/\d{{1,3}})?)(?![\w])|"
        rf"{value}(?![\w])|"
        rf"(?:{labels})(?![\w]))"
    )
    return re.compile(rf"[ ]*{prefix}{part}(?:[ ,;/|-]*{part})*[ ]*")


_ALONE = re.compile(rf"{_TICKS}?[ ]*(?:{_SHORT_NUMBER}|(\d{{1,3}})/(\d{{1,3}}))[ ]*")


def is_technical(text: str, *, measurements: bool = False) -> bool:
    """Return whether a whole line is on the list.

    Args:
        text: as it was read.
        measurements: whether the labels of measurements are on the list, too.
    """
    line = unicodedata.normalize("NFKC", text).replace("，", ",").strip()
    if not line or len(line) > 60:
        return False
    alone = _ALONE.fullmatch(line)
    if alone:
        # A counter such as 12/30 counts up to its second number; 30/12 could be a day.
        return alone[1] is None or int(alone[1]) <= int(alone[2])
    if measurements:
        return bool(_line(f"{_MEASUREMENTS}|{_LABELS}", "(?:[1-9][ ])?").fullmatch(line))  # caliper's number
    return bool(_line(_LABELS).fullmatch(line))
