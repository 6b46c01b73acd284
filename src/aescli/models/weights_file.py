"""Files of pretrained weights: .safetensors and .pth, as tensors by name.

Nothing is executed while a file is read: a pickle that holds more than tensors and plain values is refused. Knows
nothing about architectures.
"""

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from aescli.errors import AesError, first_line


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pth file (under its key `model` where it has one).

    Raises:
        AesError: no such file, a damaged one, or one that holds objects other than tensors and plain values.
    """
    if not path.is_file():
        what = "is a folder; name the file in it" if path.is_dir() else "no such file"
        raise AesError(f"encoder.weights: {path}: {what}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            content = load_file(path)
        except (OSError, ValueError, SafetensorError) as error:
            raise AesError(f"encoder.weights: {path}: not a safetensors file: {first_line(error)}") from None
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL (\S+)", str(error))
            what = f"it refers to {found[1]}" if found else "it is not made of tensors and plain values alone"
            raise AesError(
                f"encoder.weights: {path}: refused, {what}: such a file can run code when it is opened; "
                "save only its tensors, torch.save({'model': state_dict}), or convert it to safetensors"
            ) from None
        except Exception as error:  # a damaged archive or pickle raises what it likes
            raise AesError(
                f"encoder.weights: {path}: damaged, or not a file of torch.save ({first_line(error)})"
            ) from None
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(v, Tensor) for v in content.values())
    ):
        raise AesError(
            f"encoder.weights: {path}: holds no tensors by name, neither under 'model' nor at its top"
        )
    odd = next((k for k, v in content.items() if v.is_floating_point() and not v.isfinite().all()), None)
    if odd is not None:
        raise AesError(
            f"encoder.weights: {path}: {odd!r} holds values that are not finite; take another checkpoint"
        )
    return {key: value.float() if value.is_floating_point() else value for key, value in content.items()}
