"""Makes a CPU build of torch and the registry's torchvision live together.

The registry's torchvision links CUDA libraries; beside a CPU torch its `import` fails with "operator
torchvision::nms does not exist", and timm's fails with it (pytorch/vision#9077, #9085). Declaring the two missing
operator schemas cures that; torchvision.ops and torchvision.io stay unusable, which nothing here needs.
Knows nothing about models.
"""

import functools
import importlib.util
from pathlib import Path


@functools.cache
def prepare_torchvision() -> None:
    """Call before the first import of timm, torchvision or a transformers image model. Costs about 1 ms."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return
    libraries = list(Path(spec.submodule_search_locations[0]).glob("_C*.so"))
    try:
        for library in libraries:
            torch.ops.load_library(library)
    except OSError:
        fragment = torch.library.Library("torchvision", "FRAGMENT")
        fragment.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        fragment.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEEP_ALIVE.append(fragment)  # the schemas vanish with the Library object


_KEEP_ALIVE: list = []
