"""Presets: YAML files that say what to build and how to train it, validated before anything runs.

One lookup serves a wheel (presets inside the package) and an editable install (presets/ beside src/).
Knows the config types; knows nothing about data, devices or what a run does.
"""

import contextlib
import difflib
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from aescli.errors import UsageError
from aescli.models.checkpoint import BUILDERS, Preprocessing
from aescli.training.config import TrainConfig


@dataclass(frozen=True)
class DataConfig:
    """faces: find and align faces. alternatives: also train on a data set's whole photos where it has them.

    class_cuts: scores at which the classes change, on the model's score range. repeat: how often an epoch shows
    the training images of a data set, by its name (others once).
    """

    alternatives: bool = False
    class_cuts: tuple[float, ...] = (1.5, 2.5, 3.5, 4.5)
    repeat: dict[str, Annotated[int, Field(ge=1)]] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """A parsed preset. `model` is the architecture's own config object."""

    name: str
    architecture: str
    model: Any
    task: str = "fbp"
    description: str = ""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they would stand in the YAML file."""
        return asdict(self)


def folder() -> Path:
    """Where the presets lie: inside an installed package, or beside src/ in an editable install."""
    package = Path(__file__).resolve().parent
    inside = package / "presets"
    return inside if inside.is_dir() else package.parent.parent / "presets"


def names() -> list[str]:
    return sorted(path.stem for path in folder().glob("*.yaml"))


def load_preset(spec: str, changes: list[str] | None = None) -> Preset:
    """A preset by name or YAML path, with `key.sub=value` changes applied (values are YAML).

    Raises:
        UsageError: unknown preset or key (the message names the nearest), or a value of the wrong kind.
    """
    path = Path(spec)
    if path.suffix not in (".yaml", ".yml"):
        path = folder() / f"{spec}.yaml"
        if not path.is_file():
            near = difflib.get_close_matches(spec, names(), 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UsageError(f"--preset {spec}: no such preset; {hint}known: {', '.join(names())}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--preset {spec}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = f" (line {error.problem_mark.line + 1})" if getattr(error, "problem_mark", None) else ""
        raise UsageError(f"--preset {spec}: not valid YAML{where}") from None
    if not isinstance(values, dict):
        raise UsageError(f"--preset {spec}: must be a mapping of fields")
    for change in changes or []:
        _apply(values, change)
    values.setdefault("name", path.stem)
    changed = {change.partition("=")[0]: _briefly(change) for change in changes or [] if _other_model(change)}
    if changed:
        said = str(values.get("description") or "").strip().rstrip(".")
        values["description"] = f"{said}{'. ' if said else ''}Changed: {', '.join(sorted(changed.values()))}."
    return parse_preset(values, str(spec))


def _other_model(change: str) -> bool:
    """Whether a description of the preset's model may no longer hold; where the weights come from is not its matter."""
    key = change.partition("=")[0]
    return key.partition(".")[0] == "model" and not key.endswith((".weights", ".pretrained"))


def _briefly(change: str) -> str:
    key, _, value = change.partition("=")
    return f"{key}={value}" if value and value[0] not in "{[" else key


def heads_for(preset: Preset, sets: int) -> Preset:
    """A preset with a score head for each of several data sets, given a single one, keeps one head."""
    if len(getattr(preset.model, "score_heads", ("",))) > 1 and sets == 1:
        return replace(preset, model=replace(preset.model, score_heads=("",), score_weights=None))
    return preset


def parse_preset(values: dict[str, Any], where: str) -> Preset:
    """Validate plain values. Raises UsageError that names the field, and the nearest key for an unknown one."""
    architecture = values.get("architecture")
    if architecture not in BUILDERS:
        raise UsageError(f"{where}: architecture: {architecture!r} is not one of {', '.join(BUILDERS)}")
    model_type = BUILDERS[architecture][0]
    body = {key: value for key, value in values.items() if key != "model"}
    _refuse_unknown(body, Preset, where, skip=("model",))
    _refuse_unknown(values.get("model") or {}, model_type, where, "model.")
    try:
        model = TypeAdapter(model_type).validate_python(values.get("model") or {})
        preset = TypeAdapter(_Strict).validate_python({**body, "model": model})
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function"))
        raise UsageError(f"{where}: {location}: {first['msg']}, got {first.get('input')!r}") from None
    _refuse_contradictions(preset, where)
    return preset


_Strict = with_config(ConfigDict(arbitrary_types_allowed=True))(Preset)


def _refuse_contradictions(preset: Preset, where: str) -> None:
    """Fields that are right one by one and wrong together."""
    train = preset.train
    if train.mixup and not train.loss.label_sigma and "classification" in getattr(preset.model, "tasks", ()):
        raise UsageError(
            f"{where}: train.mixup: {train.mixup:g} blends scores, and whole classes cannot be blended; set "
            "train.loss.label_sigma above 0, train.mixup to 0 or model.tasks to [regression]"
        )
    cuts = preset.data.class_cuts
    wanted = getattr(preset.model, "classes", len(cuts) + 1) - 1  # an architecture may count by attribute
    if list(cuts) != sorted(set(cuts)) or len(cuts) != wanted:
        raise UsageError(f"{where}: data.class_cuts: {list(cuts)} must be {wanted} ascending scores")
    shares, encoders = train.teacher.shares, train.teacher.encoders
    if shares is not None and len(shares) != len(encoders):
        raise UsageError(
            f"{where}: train.teacher.shares: one for each of train.teacher.encoders, got {len(shares)} for "
            f"{len(encoders)}"
        )


def _refuse_unknown(
    values: Any, kind: type, where: str, prefix: str = "", skip: tuple[str, ...] = ()
) -> None:
    if not isinstance(values, dict):
        raise UsageError(
            f"{where}: {prefix.rstrip('.') or 'preset'} must be a mapping of fields, got {values!r}"
        )
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(known)}"
            raise UsageError(f"{where}: unknown key {prefix}{key}; {hint}")
        inner = _dataclass_of(hints[key])
        if inner is not None and key not in skip and value is not None:
            for item in value if isinstance(value, list) else [value]:
                _refuse_unknown(item, inner, where, f"{prefix}{key}.")


def _dataclass_of(hint: Any) -> type | None:
    for candidate in (hint, *get_args(hint)):
        if isinstance(candidate, type) and is_dataclass(candidate):
            return candidate
    return None


def _apply(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {change}: write key=value, for example train.lr=3e-4")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"--set {change}: the value is not valid YAML") from None
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)  # YAML 1.1 reads 3e-4 as text
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UsageError(f"--set {change}: {parent} is not a group of fields")
    values[last] = value
