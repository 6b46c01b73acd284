"""XMP sidecars: a small file beside a picture that carries its star rating, as photo managers read it.

`cat.jpg` gets `cat.jpg.xmp`, the name that darktable, digiKam and others use; the picture itself is never opened. A
sidecar that another program or a person wrote or changed stays as it is: ours carries a digest of itself. It knows the
XMP format and nothing about models.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from aescli.data.finding import printable
from aescli.data.remote import is_remote
from aescli.folders import staging_beside

_MARK = 'x:xmptk="aescli"'
_FORM = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" {mark}>
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:aes="urn:aescli:1"
    xmp:Rating="{stars}"
    aes:Score="{score:.4f}"
    aes:Digest="{digest}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


_DIGEST = re.compile(r'aes:Digest="([0-9a-f]*)"')


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
        """The first sidecar that was left alone, since somebody else wrote or changed it."""
        self.first_error = ""

    def rate(self, picture: str | os.PathLike[str], score: float) -> None:
        """Write `<picture>.xmp`, unless one that somebody else wrote or changed lies there."""
        path = Path(f"{os.fspath(picture)}.xmp")
        partial = staging_beside(path)
        try:
            if is_remote(os.fspath(picture)):
                raise OSError(errno.ENOTSUP, "nothing is written beside an address; add --copy-to")
            if os.path.lexists(path) and not _is_ours(path):
                self.kept += 1
                self.first_kept = self.first_kept or printable(str(path))
                return
            text = _signed(_FORM.format(mark=_MARK, stars=stars(score, self._scale), score=score, digest=""))
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
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return _MARK in text and text == _signed(text)


def _signed(text: str) -> str:
    """A sidecar's text with the digest of all the rest of it."""
    digest = hashlib.blake2b(_DIGEST.sub("", text).encode(), digest_size=8).hexdigest()
    return _DIGEST.sub(f'aes:Digest="{digest}"', text)
