"""Every study as data: which variants it trains, what they change in the preset, and how its table is laid out.

Knows presets' field names and the published rows. Knows nothing about data, runs or how a table is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aescli.ablation import published
from aescli.ablation.published import MULTI, SINGLE, Published


@dataclass(frozen=True)
class Variant:
    """One model to train.

    name: of its folder. changes: to the preset, `key=value` as in `aes train --set`. row: the table's row that it
    fills; variants that share one (a model for each task) fill it together. group: it learns from this group of
    `Study.group_by` only, and is tested on each group by itself ("{row} on {group}").
    """

    name: str
    row: str
    changes: tuple[str, ...] = ()
    group: str | None = None


@dataclass(frozen=True)
class Study:
    """A table of a paper.

    columns: metrics of the table; shown: those of them that fit a terminal (empty = all). single: row of the
    single-task models that ΔM compares with; reference: row that differences are taken from. paper: published rows;
    those that no variant fills are cited below. axis: what the rows' numbers count, for studies of a number.
    group_by: column of the labels whose values are groups. categories: also compare every row with the reference
    inside each scale category (AesMamba Fig. 7).
    """

    name: str
    title: str
    architecture: str
    variants: tuple[Variant, ...]
    columns: tuple[str, ...]
    paper: Published = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    single: str | None = None
    reference: str | None = None
    axis: str = ""
    group_by: str | None = None
    categories: bool = False

    @property
    def rows(self) -> list[str]:
        """Rows of the table that variants fill, in order (without group studies' test groups)."""
        return list(dict.fromkeys(variant.row for variant in self.variants))

    def paper_rows(self, task: str, dataset: str) -> Mapping[str, Mapping[str, float]]:
        """The published rows for a task and data set; {} where the paper has none."""
        return self.paper.get(f"{task}:{dataset}", self.paper.get(dataset, {}))


GENERIC = "generic model"
MOMAMBA_COLUMNS = published.MOMAMBA
WITH_DELTA = (*MOMAMBA_COLUMNS, "delta_m")
AESMAMBA_COLUMNS = ("ACC", "PLCC", "SRCC", "PLCC_mean", "SRCC_mean")

_ONE_TASK = (
    Variant("single-classification", f"{SINGLE}B", ("model.modules=B", "model.tasks=[classification]")),
    Variant("single-regression", f"{SINGLE}B", ("model.modules=B", "model.tasks=[regression]")),
)
_BOTH = "model.tasks=[classification, regression]"
_WHOLE = ("model.modules=B+D+S", _BOTH)


def _multi(name: str, row: str, *changes: str) -> Variant:
    return Variant(name, row, (*_WHOLE, *changes))


def _encoder(name: str, row: str, encoder: str, level: int) -> Variant:
    """A bare encoder of Table 3: no adapters, no categories, plain MSE."""
    changes = (
        f"model.encoder.name={encoder}",
        f"model.encoder.levels=[{level}]",
        "model.adapter=false",
        "model.category_heads=false",
        "train.aesmamba_loss.balanced=false",
    )
    return Variant(name, row, changes)


_ALL = (
    Study(
        "modules",
        "What the detail enhancement (D) and the mixture of experts (S) add (MoMamba, Tables 5 and 6)",
        "momamba",
        (
            *_ONE_TASK,
            *(
                Variant(f"multi-{m.lower()}", f"{MULTI}{m}", (f"model.modules={m}", _BOTH))
                for m in ("B", "B+D", "B+S", "B+D+S")
            ),
        ),
        WITH_DELTA,
        published.MODULES,
        single=f"{SINGLE}B",
        reference=f"{MULTI}B",
    ),
    Study(
        "experts",
        "Number of experts (MoMamba, Table 7 and Fig. 13)",
        "momamba",
        (
            *_ONE_TASK,
            *(_multi(f"experts-{k}", str(k), f"model.same.experts={k}") for k in (0, 3, 6, 9, 12, 15)),
        ),
        WITH_DELTA,
        published.EXPERTS,
        single=f"{SINGLE}B",
        reference="0",
        axis="experts",
    ),
    Study(
        "top-k",
        "Experts kept for an image (MoMamba, Table 8 and Fig. 14)",
        "momamba",
        (*_ONE_TASK, *(_multi(f"top-{k}", str(k), f"model.same.top_k={k}") for k in range(1, 7))),
        WITH_DELTA,
        published.TOP_K,
        single=f"{SINGLE}B",
        reference="1",
        axis="top k",
    ),
    Study(
        "frequency",
        "Frequencies that the detail enhancement sees (MoMamba, Table 9)",
        "momamba",
        tuple(
            _multi(f"frequency-{mode}", row, f"model.dem.frequency={mode}")
            for mode, row in (
                ("none", "without frequency"),
                ("low", "only low"),
                ("high", "only high"),
                ("both", "low and high"),
            )
        ),
        MOMAMBA_COLUMNS,
        published.FREQUENCY,
        reference="without frequency",
    ),
    Study(
        "groups",
        "A model for each gender, tested on each (MoMamba, Table 10)",
        "momamba",
        tuple(Variant(f"group-{g}", g, _WHOLE, group=g) for g in ("female", "male")),
        MOMAMBA_COLUMNS,
        published.GROUPS,
        group_by="sex",
    ),
    Study(
        "baselines",
        "Baselines and published models (MoMamba, Tables 1 to 4)",
        "momamba",
        (
            Variant(
                "swin",
                published.SWIN,
                (
                    "model.modules=B",
                    _BOTH,
                    "model.fusion=false",
                    "model.encoder.name=swin_tiny_patch4_window7_224",
                    "model.encoder.levels=[4]",
                    "model.encoder.weights=null",
                    "model.encoder.fold_norms=false",
                    "model.encoder.bits=32",
                    "model.mirror_scale=1",
                ),
            ),
            # A shared map and a low-rank one for each task: no experts, no state path, no attention.
            Variant(
                "mtlora",
                published.MTLORA,
                ("model.modules=B+S", _BOTH, "model.same.experts=0", "model.same.attention=false"),
            ),
            *_ONE_TASK,
            _multi("momamba", published.MOMAMBA_ROW),
        ),
        WITH_DELTA,
        published.BASELINES,
        single=f"{SINGLE}B",
        reference=published.SWIN,
    ),
    Study(
        "mba",
        "Parts of the multitask balanced adaptation (AesMamba, Figs. 6 and 7)",
        "aesmamba",
        (
            Variant(
                "model-a",
                "Model-A (no categories)",
                ("model.category_heads=false", "train.aesmamba_loss.balanced=false"),
            ),
            Variant(
                "model-b",
                "Model-B (CE)",
                ("model.category_heads=true", "train.aesmamba_loss.balanced=false"),
            ),
            Variant(
                "model-c",
                published.MODEL_C,
                ("model.category_heads=true", "train.aesmamba_loss.balanced=true"),
            ),
        ),
        AESMAMBA_COLUMNS,
        published.MBA,
        reference="Model-A (no categories)",
        categories=True,
    ),
    Study(
        "encoder",
        "Image encoders on nine attributes (AesMamba, Table 3)",
        "aesmamba",
        (
            _encoder("resnet50", "ResNet50", "resnet50", 5),
            _encoder("resnext50", "ResNeXt50", "resnext50_32x4d", 5),
            _encoder("vit-b16", "ViT-B/16", "vit_base_patch16_224", 12),
            _encoder("swin-t", "Swin-T", "swin_tiny_patch4_window7_224", 4),
            _encoder("convnext-t", "ConvNeXt-T", "convnext_tiny", 4),
            _encoder("vmamba-t", "VMamba-T", "vmamba_tiny_v0", 4),
            Variant(
                "aesmamba-f",
                published.AESMAMBA_F,
                ("model.encoder.name=vmamba_tiny_v0", "model.encoder.levels=[4]"),
            ),
        ),
        (*published.ATTRIBUTE_METRICS, "PLCC_mean", "SRCC_mean"),
        published.ENCODERS,
        shown=("PLCC aesthetic", "SRCC aesthetic", "PLCC_mean", "SRCC_mean"),
        reference="ResNet50",
    ),
    Study(
        "smp",
        "What a person's characters tell beside ten ratings (AesMamba, Fig. 8)",
        "aesmamba",
        (
            Variant("generic", GENERIC),
            Variant("shots", "10shot"),
            Variant("photography", "+ pht."),
            Variant("art", "+ art."),
            Variant("personality", "+ psn."),
            Variant("all-characters", published.THREE),
        ),
        (*published.ATTRIBUTE_METRICS, "PLCC_mean", "SRCC_mean"),
        published.SMP,
        shown=("PLCC aesthetic", "SRCC aesthetic", "PLCC_mean", "SRCC_mean"),
        reference=GENERIC,
    ),
)
STUDIES: dict[str, Study] = {study.name: study for study in _ALL}
