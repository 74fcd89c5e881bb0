"""Write the degraded copy of avt_digits that `methods.sh` takes: harder, as AV-MNIST is harder than MNIST.

    python results/scripts/degrade_avt_digits.py avt_digits avt_digits_degraded

Images keep the principal components that hold a quarter of the training images' variance (Vielzeuf et al. 2018,
arXiv:1808.07275, do so for AV-MNIST); sounds get white noise as loud as they are (0 dB). Texts stay as they are.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

ENERGY = 0.25


def main(source: Path, target: Path) -> None:
    with (source / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    pixels = {row["id"]: np.asarray(Image.open(source / row["image"]).convert("L"), dtype=np.float64) for row in rows}
    train = np.stack([pixels[row["id"]].ravel() for row in rows if row["split"] == "train"])
    mean = train.mean(axis=0)
    _, singular, components = np.linalg.svd(train - mean, full_matrices=False)
    share = np.cumsum(singular**2) / np.sum(singular**2)
    kept = components[: int(np.searchsorted(share, ENERGY)) + 1]
    rng = np.random.default_rng(0)
    for folder in ("image", "audio"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    for row in rows:
        image = pixels[row["id"]]
        low = mean + (image.ravel() - mean) @ kept.T @ kept
        row["image"] = f"image/{row['id']}.png"
        Image.fromarray(low.clip(0, 255).round().astype(np.uint8).reshape(image.shape)).save(target / row["image"])
        sound, rate = soundfile.read(source / row["audio"])
        noisy = sound + rng.normal(size=len(sound)) * np.sqrt(np.mean(sound**2))
        row["audio"] = f"audio/{row['id']}.flac"
        soundfile.write(target / row["audio"], noisy / max(1.0, np.abs(noisy).max()), rate)
    with (target / "manifest.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    sys.stdout.write(f"{len(rows)} samples; {len(kept)} of {len(components)} components kept\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
