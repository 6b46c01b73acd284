"""The papers' own figures, by table: data set (or task:data set) → row → metric → value.

Shares (ACC, F1, AP) are fractions here, ΔM is in percent. Knows nothing about models or runs.
Sources: MoMamba, Symmetry 2025, 17(10), 1600; AesMamba, ACM Multimedia 2024.
"""

from __future__ import annotations

from collections.abc import Mapping

from aescli.models.aesmamba import PARA_ATTRIBUTES

Rows = Mapping[str, Mapping[str, float]]
Published = Mapping[str, Rows]

MOMAMBA = ("ACC", "F1", "AP", "PLCC", "MAE", "RMSE", "R2")
PERCENT = frozenset({"ACC", "F1", "AP"})
MULTI, SINGLE = "multi-task ", "single-task "
FULL = f"{MULTI}B+D+S"


def _rows(metrics: tuple[str, ...], rows: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Rows as they are printed: numbers with spaces between them, "-" where there is none, percent for shares."""
    out = {}
    for row, text in rows.items():
        numbers = text.split()
        if len(numbers) != len(metrics):
            raise ValueError(f"{row}: {len(numbers)} numbers for {len(metrics)} metrics")
        out[row] = {
            metric: round(float(number) / 100, 6) if metric in PERCENT else float(number)
            for metric, number in zip(metrics, numbers, strict=True)
            if number != "-"
        }
    return out


_WITH_DELTA = (*MOMAMBA, "delta_m")

MODULES: Published = {  # MoMamba, Tables 5 and 6
    "scut-fbp": _rows(
        _WITH_DELTA,
        {
            f"{SINGLE}B": "62.00 58.62 59.26 .8104 .3747 .4521 .6761 0",
            f"{MULTI}B": "62.00 58.85 59.64 .7716 .3801 .5032 .5184 -4.79",
            f"{MULTI}B+D": "64.00 62.20 64.65 .7981 .3658 .4780 .5654 .46",
            f"{MULTI}B+S": "64.00 59.02 69.81 .8360 .3074 .4058 .6867 8.37",
            FULL: "68.00 65.27 69.88 .8694 .2911 .3645 .7473 15.31",
        },
    ),
    "scut-fbp5500": _rows(
        _WITH_DELTA,
        {
            f"{SINGLE}B": "76.27 75.10 79.04 .9023 .2375 .2989 .8130 0",
            f"{MULTI}B": "76.72 74.23 78.71 .8734 .2589 .3409 .7567 -4.00",
            f"{MULTI}B+D": "77.18 75.93 77.98 .8894 .2431 .3180 .7884 -1.44",
            f"{MULTI}B+S": "77.91 76.34 79.35 .8989 .2311 .3031 .8076 .74",
            FULL: "78.36 77.28 80.94 .9109 .2296 .2953 .8174 2.11",
        },
    ),
}
EXPERTS: Published = {  # MoMamba, Table 7
    "scut-fbp5500": _rows(
        _WITH_DELTA,
        {
            "0": "76.27 74.66 76.94 .8774 .2757 .3704 .7127 -6.57",
            "3": "76.91 74.93 80.09 .9073 .2383 .3119 .7963 -.43",
            "6": "77.54 75.17 79.79 .9023 .2274 .3046 .8056 .66",
            "9": "78.36 77.28 80.94 .9109 .2296 .2953 .8174 2.11",
            "12": "77.36 77.34 79.34 .9062 .2378 .3104 .7983 .15",
            "15": "77.27 75.80 78.91 .8939 .2390 .3177 .7888 -.96",
        },
    )
}
TOP_K: Published = {  # MoMamba, Table 8
    "scut-fbp5500": _rows(
        _WITH_DELTA,
        {
            "1": "76.00 74.28 74.90 .8863 .2589 .3423 .7547 -4.85",
            "2": "76.36 75.38 79.09 .8914 .2593 .3362 .7633 -3.26",
            "3": "77.63 77.38 79.80 .8981 .2568 .3308 .7708 -1.89",
            "4": "78.36 77.28 80.94 .9109 .2296 .2953 .8174 2.11",
            "5": "77.18 74.97 79.03 .8979 .2593 .3332 .7675 -2.93",
            "6": "76.81 75.89 78.43 .9026 .2721 .3515 .7414 -4.39",
        },
    )
}
FREQUENCY: Published = {  # MoMamba, Table 9
    "scut-fbp5500": _rows(
        MOMAMBA,
        {
            "without frequency": "74.91 73.22 74.08 .8741 .2757 .3629 .7242",
            "only low": "76.45 74.51 78.50 .8827 .2552 .3414 .7559",
            "only high": "75.27 74.11 76.47 .8825 .2629 .3511 .7420",
            "low and high": "78.36 77.28 80.94 .9109 .2296 .2953 .8174",
        },
    )
}
GROUPS: Published = {  # MoMamba, Table 10
    "scut-fbp5500": _rows(
        MOMAMBA,
        {
            "female on female": "76.01 74.99 77.25 .8936 .2499 .3192 .7881",
            "male on male": "80.69 79.62 85.30 .9271 .2096 .2697 .8444",
        },
    )
}
SWIN, MTLORA, MOMAMBA_ROW = "Swin, multi-task", "MTLoRA", "MoMamba"
BASELINES: Published = {  # MoMamba, Tables 1 to 4
    "scut-fbp": _rows(
        MOMAMBA,
        {
            SWIN: "58.00 54.41 53.61 .6458 .4490 .5674 .3878",
            MTLORA: "57.00 53.17 55.21 .6423 .4175 .5626 .3980",
            MOMAMBA_ROW: "68.00 65.27 69.88 .8694 .2912 .3646 .7473",
            "InvPT": "66.00 59.14 61.90 .8461 .3002 .3871 .7150",
            "TaskPrompter": "64.00 60.31 60.11 .8657 .2891 .3650 .7466",
            "DiffusionMTL": "64.00 59.02 62.40 .8595 .2930 .3726 .7359",
        },
    ),
    "scut-fbp5500": _rows(
        MOMAMBA,
        {
            SWIN: "72.64 70.99 73.19 .8358 .2939 .3816 .6951",
            MTLORA: "73.10 70.10 72.36 .8228 .3044 .3937 .6756",
            MOMAMBA_ROW: "78.36 77.28 80.94 .9109 .2296 .2953 .8174",
            "InvPT": "73.82 66.84 60.32 .8961 .2345 .3106 .7981",
            "TaskPrompter": "73.27 66.34 62.89 .8860 .2500 .3260 .7776",
            "DiffusionMTL": "74.36 67.32 62.69 .9002 .2296 .3026 .8083",
            "Self-supervised": "72.16 - - - - - -",
            "CARD": "71.40 - - - - - -",
            "DiffMIC": "75.77 - - - - - -",
            "CD-Loop": "65.48 - - - - - -",
            "P-AaNet": "- - - .8965 - - -",
            "EN-CNN": "- - - .9350 - - -",
            "AaNet": "- - - .9056 - - -",
            "E-BLS": "- - - .9104 - - -",
        },
    ),
}

_SCORE = ("ACC", "PLCC", "SRCC")
MODEL_C = "Model-C (Bal-CE)"
MBA: Published = {  # AesMamba, Tables 1 to 3: the full model; Fig. 6 prints no numbers for A and B
    task: _rows(_SCORE, {MODEL_C: row})
    for task, row in {
        "viaa:ava": "84.6 .760 .751",
        "viaa:para": "88.7 .936 .902",
        "viaa:aadb": "82.9 .774 .768",
        "viaa:tad66k": "67.3 .503 .475",
        "viaa:photonet": "80.3 .547 .518",
        "miaa:ava-captions": "89.6 .899 .892",
        "miaa:photonet-captions": "82.0 .685 .664",
    }.items()
} | {"fiaa:para": _rows(("PLCC", "SRCC", "PLCC_mean", "SRCC_mean"), {MODEL_C: ".934 .898 .910 .875"})}

ATTRIBUTE_METRICS = tuple(f"{metric} {name}" for name in PARA_ATTRIBUTES for metric in ("PLCC", "SRCC"))
AESMAMBA_F = "AesMamba-F"
ENCODERS: Published = {  # AesMamba, Table 3
    "fiaa:para": _rows(
        (*ATTRIBUTE_METRICS, "PLCC_mean", "SRCC_mean"),
        {
            "ResNet50": ".919 .873 .924 .872 .883 .836 .888 .859 .897 .855 .891 .848 .882 .830 .886 .852 .880 .849 "
            ".894 .853",
            "ResNeXt50": ".922 .880 .924 .875 .892 .852 .889 .862 .883 .840 .875 .833 .863 .810 .872 .838 .880 .850 "
            ".896 .857",
            "ViT-B/16": ".917 .877 .921 .876 .887 .846 .888 .865 .892 .851 .891 .856 .881 .832 .884 .851 .878 .848 "
            ".893 .856",
            "Swin-T": ".926 .888 .930 .886 .895 .855 .896 .871 .905 .866 .900 .864 .892 .846 .893 .860 .888 .857 "
            ".903 .866",
            "ConvNeXt-T": ".928 .890 .931 .887 .898 .858 .896 .870 .905 .868 .900 .862 .890 .843 .895 .862 .889 .860 "
            ".904 .867",
            "VMamba-T": ".929 .896 .934 .894 .901 .865 .897 .872 .908 .872 .902 .867 .894 .853 .899 .870 .892 .867 "
            ".906 .873",
            AESMAMBA_F: ".934 .898 .936 .894 .904 .867 .903 .877 .912 .877 .905 .868 .900 .854 .901 .871 .895 .869 "
            ".910 .875",
        },
    )
}
THREE = "+ 3 attr."
SMP: Published = {  # AesMamba, Table 4, 10 shots; Fig. 8 prints no numbers
    "para": _rows(("PLCC aesthetic", "SRCC aesthetic"), {THREE: ".749 .707"})
}
