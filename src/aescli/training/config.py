"""What a training run can be told: typed fields with their units, defaults and ranges.

Knows nothing about YAML (see `aescli.presets`), data or models.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from aescli.models.encoders import EncoderConfig
from aescli.training.aesmamba_loss import AesMambaLossConfig

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a training picture; probabilities in 0..1, everything off at strength 0.

    zoom: standard deviation of log zoom; zoom_out: probability of a much wider frame (0.6–0.85×), for pictures
    whose faces were cropped loosely. rotate: degrees (uniform ±). shift: share of the side (uniform ±).
    colour: strength of brightness, contrast, saturation, gamma and white balance changes.
    outside: probability that what lies outside the photo gets another colour; box: that only an upright box around
    the face stays visible, as in pictures that were cropped and padded before.
    crop_from: where whole pictures are stretched (`preprocessing.fit`), they are stretched to this side, in pixels,
        and a random part of the input's size is taken; 0 takes all. The changes of place above are for faces.
    low_resolution, blur, jpeg, noise, grey: probabilities of those degradations.
    """

    flip: Probability = 0.5
    zoom: float = 0.0
    zoom_out: float = 0.0
    rotate: float = 0.0
    shift: float = 0.0
    colour: float = 0.0
    outside: float = 0.0
    box: float = 0.0
    crop_from: NotNegative = 0
    low_resolution: float = 0.0
    blur: float = 0.0
    jpeg: float = 0.0
    noise: float = 0.0
    grey: float = 0.0


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms; the paper's loss is cross entropy + MSE, 1 : 1 (MoMamba §4).

    label_sigma: above 0, class targets are the probabilities of a normal distribution of that width (in score
        units) around the score, instead of one class. uncertainty: learn the two weights (Kendall et al. 2018).
    correlation: weight of 1 − Pearson's r within the batch, per score head. balanced: weigh classes by
        inverse frequency in the training split. rater_noise: weigh a score by its certainty,
        s²/(s² + σ²/n), with s = `rater_noise` (score units), σ and n its ratings' deviation and count; 0 = off.
    load_balance: weight of CV² of the experts' mean routing.
    teacher: weight of the squared difference from the teacher's opinions, mean over the score heads; 0 = no teacher.
    """

    classification: float = 1.0
    regression: float = 1.0
    correlation: float = 0.0
    label_sigma: float = 0.0
    uncertainty: bool = False
    balanced: bool = False
    rater_noise: float = 0.0
    load_balance: float = 0.0
    teacher: Annotated[float, Field(ge=0)] = 0.0


@dataclass(frozen=True)
class TeacherConfig:
    """Kernel ridge regression on frozen features that advises the training (`aescli.training.teacher`).

    encoders: frozen encoders, with weights, beside the model's own as it starts. shares: how much each one's kernel
    counts beside the own one's 1 (None = 1 each). gamma: of the radial basis function, features standardised.
    """

    encoders: tuple[EncoderConfig, ...] = ()
    shares: tuple[float, ...] | None = None
    gamma: Annotated[float, Field(gt=0)] = 0.5


@dataclass(frozen=True)
class DistilConfig:
    """AesMamba on an encoder whose weights bring a classifier of the ratings (`model.head_skip`): go on saying what
    that classifier says of pictures without a rating, and learn ratings on its scale (`aescli.training.distil`).

    weight: of the pictures without a rating, one with a rating counts 1; 0 = off. penalty: how much lower the mean
    should be for pictures that were spoilt on purpose, in ratings. spread: deviation of the ratings' targets as a
    multiple of the classifier's on the same pictures. opinions: share of the targets that the teacher
    (`train.teacher`) decides, the rest is the ratings'; 0 = no teacher.
    """

    weight: Annotated[float, Field(ge=0)] = 0.0
    penalty: Annotated[float, Field(ge=0)] = 0.0
    spread: Annotated[float, Field(gt=0)] = 1.0
    opinions: Annotated[float, Field(ge=0, le=1)] = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """One training run; the defaults are the paper's (MoMamba §4.2).

    lr: of the decoder; encoder_lr: factor on it for the encoder. layer_decay: further factor per encoder block
    below the last. epochs: also the cosine period. warmup: share of all steps with linearly rising rates.
    frozen_blocks: encoder blocks (transformers and timm models: any number > 0 means all) that stay as
        initialised. views: how many augmented versions of each picture the frozen part is computed for, once,
        before training; 0 computes it anew for every batch.
    freeze_norms: encoder BatchNorms keep their pretrained statistics.
    probe: fit the heads' linear skips (`model.head_skip`) by ridge regression before the first epoch, its strength
        chosen by cross-validation within the training part. skip_lr: factor on lr for the skips.
    refit: share of the final scores that a ridge regression on the trained encoder's features decides, which goes
        into the score's skips, if there are any, after the last epoch (`aescli.training.refit`); 0 = off.
    mixup: α of Beta(α, α), by which features behind the frozen part (or pictures) of two samples of the same score
        head are blended, and their scores with them (Zhang et al. 2018); 0 = off. Needs `loss.label_sigma` where
        classes are learnt.
    ema: decay per step of the averaged weights that are validated and saved; 0 = off.
    validation: share of the training data that decides the best epoch. selection: what decides — the mean over
        score heads of Pearson's r, or (classification only) accuracy; "last" keeps the last epoch.
    beta2: AdamW's second decay rate. min_lr: what the cosine ends at, for a rate of `lr`.
    dtype: auto = bf16 where the hardware multiplies it natively, else fp32.
    loss is MoMamba's, aesmamba_loss AesMamba's; a run uses that of its architecture.
    """

    epochs: Positive = 100
    batch_size: Positive = 16
    lr: Annotated[float, Field(gt=0)] = 1e-4
    encoder_lr: float = 1.0
    layer_decay: float = 1.0
    weight_decay: float = 1e-5
    beta2: Share = 0.999
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    warmup: Share = 0.0
    clip: float = 0.0
    ema: Share = 0.0
    frozen_blocks: NotNegative = 0
    views: NotNegative = 0
    freeze_norms: bool = False
    probe: bool = False
    skip_lr: float = 0.01
    refit: Annotated[float, Field(ge=0, le=1)] = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0
    validation: Share = 0.1
    selection: Literal["best", "last"] = "best"
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    aesmamba_loss: AesMambaLossConfig = field(default_factory=AesMambaLossConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)
