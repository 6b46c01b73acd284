"""XMP sidecars: a small file beside a picture that carries its star rating, as photo managers read it.

`cat.jpg` gets `cat.jpg.xmp`, the name that darktable, digiKam and others use; the picture itself is never opened. A
sidecar that another program wrote stays as it is. It knows the XMP format and nothing about models.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from aescli.data.finding import printable

_MARK = 'x:xmptk="aescli"'
_FORM = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" {mark}>
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:aes="urn:aescli:1"
    xmp:Rating="{stars}"
    aes:Score="{score:.4f}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


def stars(score: float, scale: tuple[float, float]) -> int:
    """One to five stars: the star nearest to the score when the model's scale is laid over 1–5, upwards at the half.

    On a 1–5 scale that is the rounded score.
    """
    low, high = scale
    return max(1, min(5, int(1 + 4 * (score - low) / (high - low) + 0.5)))


class Sidecars:
    """Writes ratings beside pictures and counts what it wrote, left alone, and could not write."""

    def __init__(self, scale: tuple[float, float]):
        self._scale = scale
        self.written = self.kept = self.failed = 0
        self.first_kept = ""
        """The first sidecar that another program wrote, and that was therefore left alone."""
        self.first_error = ""

    def rate(self, picture: str | os.PathLike[str], score: float) -> None:
        """Write `<picture>.xmp`, unless another program's lies there."""
        path = Path(f"{os.fspath(picture)}.xmp")
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            if os.path.lexists(path) and not _is_ours(path):
                self.kept += 1
                self.first_kept = self.first_kept or printable(str(path))
                return
            text = _FORM.format(mark=_MARK, stars=stars(score, self._scale), score=score)
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, path)
            self.written += 1
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            self.failed += 1
            self.first_error = self.first_error or f"{printable(str(path))}: {error.strerror or error}"


def _is_ours(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with open(path, "rb") as file:
        return _MARK.encode() in file.read(1000)
