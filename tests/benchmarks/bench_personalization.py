"""What a few ratings gain on MEBeauty's raters: `python tests/benchmarks/bench_personalization.py --help`.

Cross-fitted throughout. The generic score of an image comes from the one of five runs (`aes train --fold K`) that did
not see it, with the rater's own scores taken out of the means those runs learned: to first order, through the closed
form of kernel ridge regression (whose influence of one image's mean rating on another's score is exact). Features come
from a model that never saw the data set (--base). The prior for a rater is learned from raters of other parts, on
images of other folds than the tested one; components that follow a guide are expressed without the fold they are used
in.
"""

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np

from aescli.data.datasets import mebeauty
from aescli.personalization.adapter import fit_adapter, personal_scores
from aescli.personalization.learning import beside_consensus, express, learn_prior, tempered
from aescli.personalization.prior import principal_components
from aescli.personalization.protocol import Rater, mean_interval, run_protocol, sample_raters
from aescli.personalization.selection import most_informative
from aescli.training.teacher import rbf_kernel

SCALE = (1.0, 5.0)
TEMPERS = (0.15, 0.25, 0.35, 0.5, 0.7)
LEAST = {10: 80, 60: 110, 100: 150}  # ratings a rater must have given, by number of shots


def features_of(
    data: Path, base: str, raters: str | None, guide: Path | None, cache: Path
) -> dict[str, np.ndarray]:
    """names, features (the base's pooled levels), base (its scores), guide (pooled last level of another encoder)."""
    if cache.is_file():
        return dict(np.load(cache))
    import torch

    from aescli.models.encoders import EncoderConfig, build_encoder
    from aescli.scoring.predictor import load_predictor
    from aescli.training.samples import Pictures, training_samples
    from aescli.training.teacher import pooled_clean

    dataset = mebeauty.read(data / "labels.csv", data)
    predictor = load_predictor(base, raters=raters)
    pictures = Pictures(training_samples(dataset, 0, SCALE), predictor.preprocessing)
    rows: dict[str, list] = {"features": [], "base": []}
    crops = np.stack(list(pictures.crops(range(len(pictures.samples)), None)))
    with torch.inference_mode():
        for start in range(0, len(crops), 16):
            part = crops[start : start + 16]
            prediction = predictor.predict(part)
            rows["features"].append(prediction.features)
            rows["base"].append(prediction.scores)
    found = {key: np.concatenate(parts) for key, parts in rows.items()}
    if guide:
        config = EncoderConfig("mobilenetv1", (13,), weights=str(guide), fold_norms=True)
        found["guide"] = pooled_clean(build_encoder(config), pictures, torch.device("cpu"), None, 224)
    found["names"] = np.array([sample.name for sample in pictures.samples])
    np.savez(cache, **found)
    return found


class Study:
    """The data set's raters, the generic scores without each of them, and the cross-fitted priors."""

    def __init__(self, options: argparse.Namespace):
        found = features_of(options.data, options.base, options.base_raters, options.guide, options.cache)
        place = {name: i for i, name in enumerate(found["names"])}
        n = len(place)
        self.fold, net = np.zeros(n, int), np.zeros(n)
        for k in range(1, 6):
            for row in json.loads((options.runs / f"fold{k}" / "test_mebeauty.json").read_text()):
                i = place.get(row["name"])
                if i is None:  # a photo without a crop, which some recipes use whole
                    continue
                # The bundled model's own mixture of its two score heads.
                self.fold[i], net[i] = k, row["heads"] @ np.array([0.2, 0.8])
        with (options.data / "ratings.csv").open() as file:
            table = [(row["file"], row["rater"], float(row["score"])) for row in csv.DictReader(file)]
        self.given = dict(zip(*np.unique([rater for _, rater, _ in table], return_counts=True), strict=True))
        table = [row for row in table if row[0] in place]
        self.image = np.array([place[name] for name, _, _ in table])
        self.names, self.rater = np.unique([rater for _, rater, _ in table], return_inverse=True)
        self.score = np.array([1 + (score - 1) * 4 / 9 for _, _, score in table])
        self.raters = [
            Rater(name, self.image[own], self.score[own])
            for name, own in ((name, self.rater == i) for i, name in enumerate(self.names))
        ]
        self.count = np.bincount(self.image, minlength=n)
        self.mean = np.bincount(self.image, self.score, n) / np.maximum(self.count, 1)
        if options.generic == "base":
            self.generic, self._influence = found["base"].astype(np.float64), None
        else:
            self.generic, self._influence = net, self._influences(found)
        print(f"{n} images, {len(self.score)} ratings; generic model: SRCC with the mean ratings "
              f"{np.corrcoef(*(x.argsort().argsort() for x in (self.generic, self.mean)))[0, 1]:.4f}")  # fmt: skip
        self.components = self._components(found)
        self.part = np.random.default_rng(0).permutation(len(self.names)) % options.parts
        self.error = float(((self.generic - self.mean) ** 2)[self.count > 9].mean())
        self.options = options
        self._priors = {}
        self.tempers = np.full(options.parts, options.temper)

    def _influences(self, found: dict[str, np.ndarray]) -> np.ndarray:
        """(n, n): how much the out-of-fold score of an image (row) moves with the mean rating of another."""
        kernel = rbf_kernel(found.get("guide", found["features"]).astype(np.float64), 0.5)
        influence = np.zeros_like(kernel)
        certainty = 1 / (1 + 8 / np.maximum(self.count, 1))
        for k in range(1, 6):
            test, train = self.fold == k, self.fold != k
            regularised = kernel[np.ix_(train, train)] + np.diag(
                0.15 * kernel.diagonal().mean() / certainty[train]
            )
            weight = np.linalg.solve(regularised, kernel[np.ix_(train, test)]).T
            centre = certainty[train] / certainty[train].sum()
            influence[np.ix_(test, train)] = weight - np.outer(weight.sum(1) - 1, centre)
        return influence

    def _components(self, found: dict[str, np.ndarray]) -> np.ndarray:
        centre, own = principal_components(found["features"], 32 if "guide" in found else 64)
        own = (found["features"] - centre) @ own
        if "guide" not in found:
            return own
        centre, projection = principal_components(found["guide"], 48)
        wanted = (found["guide"] - centre) @ projection
        guided = np.empty_like(wanted)
        for k in range(1, 6):
            test = self.fold == k
            centre, projection = express(found["features"][~test], wanted[~test])
            guided[test] = (found["features"][test] - centre) @ projection
        return np.hstack([guided, own]) / np.sqrt(2)

    def generic_without(self, rater: Rater) -> np.ndarray:
        """(n,) the generic scores, had this rater's scores been missing from the means."""
        if self._influence is None:
            return self.generic
        i = rater.positions
        moved = (self.mean[i] - rater.scores) / np.maximum(self.count[i] - 1, 1)
        return self.generic + self._influence[:, i] @ moved

    def prior(self, rater: Rater, fold: int):
        """Learned from raters of the other parts, on images of the other folds."""
        part = self.part[np.searchsorted(self.names, rater.name)]
        if (part, fold) not in self._priors:
            use = (self.part[self.rater] != part) & (self.fold[self.image] != fold)
            p = self.components.shape[1]
            self._priors[part, fold] = learn_prior(
                "bench",
                SCALE,
                self.components,
                beside_consensus(self.image[use], self.rater[use], self.score[use], self.generic),
                generic_error=self.options.generic_error,
                reduction=(np.zeros(p), np.eye(p)),
                temper=1.0,
            )
        return tempered(self._priors[part, fold], self.tempers[part])

    def choose_tempers(self) -> None:
        """For each part the temper that gains most at 10 shots among the raters of all other parts, of those with
        which at most 2.5 % of them lose more than .02. Draws of their own (seed 1)."""
        raters = self.able(10, None)
        part = self.part[[np.searchsorted(self.names, rater.name) for rater in raters]]
        gains = []
        for temper in TEMPERS:
            self.tempers = np.full(self.options.parts, temper)
            result = run_protocol(raters, self.answer, shots=10, tests=None, repeats=5, seed=1)
            gains.append((result.personal["SRCC"] - result.generic["SRCC"]).mean(1))
        for k in range(self.options.parts):
            others = [gain[part != k] for gain in gains]
            safe = [gain.mean() if (gain < -0.02).mean() <= 0.025 else -1.0 for gain in others]
            self.tempers[k] = TEMPERS[int(np.argmax(safe))]
        print("temper by part:", *self.tempers, flush=True)

    def answer(self, rater: Rater, shots: np.ndarray, tests: np.ndarray):
        generic, personal = self.generic_without(rater), np.empty(len(tests))
        x, rows = self.components, rater.positions
        for k in np.unique(self.fold[rows[tests]]):
            mine = self.fold[rows[tests]] == k
            seen = rows[shots]
            adapter = fit_adapter(self.prior(rater, k), x[seen], generic[seen], rater.scores[shots], SCALE)
            asked = rows[tests[mine]]
            personal[mine] = personal_scores(x[asked], generic[asked], adapter)
        return personal, generic[rows[tests]]

    def choose(self, rater: Rater, candidates: np.ndarray, count: int) -> np.ndarray:
        rows = rater.positions[candidates]
        generic = self.generic_without(rater)[rows]
        return candidates[most_informative(self.prior(rater, 1), self.components[rows], generic, count)]

    def able(self, shots: int, tests: int | None) -> list[Rater]:
        raters = [rater for rater in self.raters if self.given[rater.name] >= LEAST.get(shots, shots + 50)]
        return sample_raters(raters, shots, tests, None, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--runs", type=Path, required=True, help="holds fold1 … fold5")
    parser.add_argument("--base", required=True, help="checkpoint that never saw the data set")
    parser.add_argument(
        "--base-raters", help="the score head of --base that was trained (default: its mixture)"
    )
    parser.add_argument("--guide", type=Path, help="MobileNetV1 weights of a face recogniser")
    parser.add_argument("--cache", type=Path, required=True, help=".npz that keeps the features")
    parser.add_argument("--generic", choices=("folds", "base"), default="folds")
    parser.add_argument("--generic-error", type=float, default=0.05)
    parser.add_argument("--temper", type=float, help="instead of one chosen on the other parts' raters")
    parser.add_argument("--parts", type=int, default=8, help="parts of the raters for cross-fitting")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--shots", type=int, nargs="+", default=[10, 60, 100])
    options = parser.parse_args()
    started = time.perf_counter()
    study = Study(options)
    print(f"mean squared generic error (with the ratings' noise) {study.error:.3f}")
    if options.temper is None:
        study.choose_tempers()
    for shots in options.shots:
        raters = study.able(shots, None)
        began = time.perf_counter()
        result = run_protocol(raters, study.answer, shots=shots, tests=None, repeats=options.repeats)
        seconds = (time.perf_counter() - began) / len(raters) / options.repeats
        for metric in ("PLCC", "SRCC"):
            generic, personal, gain = (
                result.interval(metric, of) for of in ("generic", "personal", "difference")
            )
            print(f"{shots:4d} shots, {len(raters)} raters, {metric}: generic {generic.mean:.4f} ± {generic.sd:.4f}, "
                  f"personal {personal.mean:.4f} ± {personal.sd:.4f}, difference {gain.mean:+.4f} "
                  f"[{gain.low:+.4f}, {gain.high:+.4f}], worse by > .02: {100 * result.losers(metric):.1f} %, "
                  f"{seconds:.3f} s a fit (priors included)", flush=True)  # fmt: skip
    raters = study.able(10, 30)
    both = {
        select: run_protocol(
            raters,
            study.answer,
            shots=10,
            tests=30,
            repeats=options.repeats,
            select=select,
            choose=study.choose,
        )
        for select in ("random", "informative")
    }
    for metric in ("PLCC", "SRCC"):
        gain = mean_interval(both["informative"].personal[metric] - both["random"].personal[metric])
        means = [both[select].interval(metric, "personal").mean for select in ("random", "informative")]
        generic = both["random"].interval(metric, "generic").mean
        print(f"10 shots, 30 tests, {len(raters)} raters, {metric}: generic {generic:.4f}, random "
              f"{means[0]:.4f}, informative {means[1]:.4f}, difference {gain.mean:+.4f} "
              f"[{gain.low:+.4f}, {gain.high:+.4f}]")  # fmt: skip
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
