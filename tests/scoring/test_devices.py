import os
import subprocess
import sys
import time
from pathlib import Path

import fake_model
import numpy as np
import pytest
from PIL import Image

from aescli.data.finding import Found
from aescli.errors import AesError, UsageError
from aescli.scoring import devices
from aescli.scoring.devices import DevicePool
from aescli.scoring.pipeline import score_images
from aescli.scoring.predictor import choose_device
from aescli.scoring.prepare import Crop, Prepared

TESTS = Path(__file__).parents[1]


class Moody(fake_model.FakePredictor):
    """Fails in its own ways on pictures of one brightness; slow on another device."""

    def __init__(self, device: str):
        super().__init__()
        if device.startswith("late"):
            time.sleep(2)
        if device in ("broken", "late broken"):
            raise AesError(f"--device {device}: it is not there")
        self.device = device

    def predict(self, images, texts=()):
        if texts == ("dark",):
            return super().predict(np.zeros_like(images))
        value = int(images[0, 0, 0, 0])
        if value == 200:
            raise AesError("not enough memory")
        if value == 201:
            raise KeyError("odd")
        if value == 202:
            os._exit(3)
        if self.device == "slow":
            time.sleep(0.02)
        return super().predict(images)


def moody(device: str) -> Moody:
    return Moody(device)


def picture(value: int) -> np.ndarray:
    return np.full((1, 32, 32, 3), value, np.uint8)


@pytest.fixture(scope="module")
def pool():
    pool = DevicePool(["cpu", "slow"], moody)
    yield pool
    pool.close()
    assert not any(p.is_alive() for p in pool._processes)


def test_it_has_the_facts_of_its_predictors(pool):
    assert (pool.task, pool.scale, pool.classes, pool.digest) == ("fbp", (1.0, 5.0), 5, "fake-1")
    assert (pool.preprocessing.size, pool.batch_size, pool.concurrency) == (32, 4, 2)
    assert (pool.distribution, pool.attributes, pool.reads_text) == (False, (), False)
    assert len({p.pid for p in pool._processes} - {os.getpid()}) == 2


def test_rows_are_those_of_one_device_in_order(pool):
    def prepare(found: Found) -> Prepared:
        return Prepared(found.path, [Crop(np.full((32, 32, 3), int(found.path) % 199, np.uint8))])

    images = [Found(str(k)) for k in range(120)]
    options = {"batch_size": 3, "workers": 2}
    together = [r for batch in score_images(images, prepare, pool, **options) for r in batch]
    alone = [
        r for batch in score_images(images, prepare, fake_model.FakePredictor(), **options) for r in batch
    ]
    assert together == alone


def test_failures_come_back_and_the_process_stays(pool):
    with pytest.raises(AesError, match=r"^not enough memory$"):
        pool.predict(picture(200))
    with pytest.raises(RuntimeError, match="KeyError: 'odd'"):
        pool.predict(picture(201))
    assert pool.predict(picture(51)).scores[0] == pytest.approx(1.8)
    assert pool.predict(picture(51), ("dark",)).scores[0] == 1


def test_a_device_that_fails_is_named_at_once():
    with pytest.raises(AesError, match="--device broken: it is not there"):
        DevicePool(["cpu", "broken"], moody)
    with pytest.raises(UsageError, match="between two commas"):
        DevicePool(["cpu", ""], moody)


@pytest.mark.parametrize("late", ["late", "late broken"])
def test_devices_that_come_after_a_failure_end_without_a_word(capfd, late):
    with pytest.raises(AesError, match="--device broken: it is not there"):
        DevicePool(["broken", late], moody)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["cpu:3", "cpu:0", "mps:1"])
def test_a_number_is_for_cuda_only(name):
    with pytest.raises(UsageError, match=f"--device {name}: use auto, cpu, cuda, cuda:N or mps"):
        choose_device(name)


def test_a_process_that_dies_ends_the_run_with_a_sentence():
    pool = DevicePool(["cpu"], moody)
    with pytest.raises(AesError, match=r"the process for --device cpu ended \(exit status 3\)"):
        pool.predict(picture(202))
    with pytest.raises(AesError, match="ended"):
        pool.predict(picture(1))
    pool.close()


def test_processes_end_with_the_one_that_made_them(tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_devices import DevicePool, moody\n"
        "if __name__ == '__main__':\n"
        "    pool = DevicePool(['cpu', 'cpu'], moody)\n"
        "    print(*(p.pid for p in pool._processes), flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    (tmp_path / "program.py").write_text(code)
    path = os.pathsep.join([*sys.path, str(TESTS / "scoring")])
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py", TESTS / "scoring"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
    )
    assert done.returncode == -9, done.stderr
    pids = done.stdout.split()
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.1)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.slow
def test_the_command_gives_the_same_bytes_with_two_processes(tmp_path):
    for k in range(12):
        Image.effect_noise((80, 80), 20 + 8 * k).save(tmp_path / f"{k}.png")
    outputs = []
    for device in ("cpu", "cpu,cpu"):
        words = [
            "score",
            str(tmp_path),
            "--faces",
            "none",
            "--device",
            device,
            "--batch-size",
            "3",
            "--quiet",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "aescli", *words], capture_output=True, timeout=300, check=True
        )
        outputs.append(done.stdout)
    assert outputs[0].count(b"\n") == 13
    assert outputs[0] == outputs[1]


def test_errors_that_cannot_travel_are_retold():
    assert isinstance(devices._portable(AesError("x")), AesError)
    assert str(devices._portable(ValueError("x"))) == "ValueError: x"
