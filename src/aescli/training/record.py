"""What a run began with: its settings and splits on disk, against which it is resumed.

Knows presets and splits; knows nothing about models or data.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from aescli import __version__
from aescli.data.splits import Split
from aescli.errors import UsageError
from aescli.models.checkpoint import write_json
from aescli.presets import Preset
from aescli.training.trainer import STATE

RUN = "run.json"


def begin(
    out: Path, preset: Preset, splits: Sequence[Split], circumstances: Mapping[str, Any], *, resume: bool
) -> None:
    """Write the run's settings, splits and circumstances; of a run that is resumed, check that they are the same.

    Raises:
        UsageError: a run that began with other settings or another split.
    """
    settings = json.loads(json.dumps(preset.to_dict(), default=str))
    if resume and (out / STATE).is_file() and (out / RUN).is_file():
        began = json.loads((out / RUN).read_text(encoding="utf-8"))
        # A description tells of the settings; it is none.
        changed = changes({**began["preset"], "description": ""}, {**settings, "description": ""})
        changed += [
            f"the split of {s.dataset}" for s in splits if Split.load(_file(out, s)).digest != s.digest
        ]
        if changed:
            raise UsageError(
                f"{out}: began otherwise than --resume is asked for: {', '.join(changed[:5])}; ask for the same, or "
                "give another --out"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    for split in splits:
        split.save(_file(out, split))
    versions = {"version": __version__, "torch": torch.__version__, "python": platform.python_version()}
    write_json(out / RUN, {"preset": settings, **versions, **circumstances})


def _file(out: Path, split: Split) -> Path:
    return out / "splits" / f"{split.dataset}.json"


def changes(old: Any, new: Any, where: str = "") -> list[str]:
    """`key new instead of old` for every value that differs between two plain structures."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            c for key in keys for c in changes(old.get(key), new.get(key), f"{where}.{key}" if where else key)
        ]
    return [] if old == new else [f"{where} {new} instead of {old}"]
