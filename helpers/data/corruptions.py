"""Corrupted images in five severities, to test what a network says about inputs that have drifted.

They are in the style of Hendrycks and Dietterich (2019, arXiv:1903.12261), and made from the images at hand. They are
not the published sets CIFAR-10-C and MNIST-C (Mu and Gilmer 2019, arXiv:1906.02337), so results on them cannot be
compared with published ones.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

# The constant of each severity from 1 to 5, for images in [0, 1]. Those marked with a star are the constants that the
# authors use for CIFAR-10-C (github.com/hendrycks/robustness, make_cifar_c.py). All others are ours.
SEVERITIES = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # * standard deviation
    "shot_noise": (500, 250, 100, 75, 50),  # * photons of a white pixel
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),  # * standard deviation in pixels
    "defocus_blur": (0.8, 1.0, 1.25, 1.5, 2.0),  # radius of the disk in pixels
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),  # * factor of the distance from the image's mean
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),  # * added to all channels; the authors add it to V of HSV
    "jpeg": (80, 65, 58, 50, 40),  # * quality
    "rotation": (12, 24, 36, 48, 60),  # degrees, in either direction
    "translation": (1, 2, 3, 4, 5),  # pixels along both axes, in either direction
}


def corrupt(images: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    """Return corrupted copies of images.

    What enters an image at its edges is black for rotation and translation. Blurs repeat the pixels at the edge.

    Args:
      images: uint8 [N, H, W, C], of which C is 1 or 3 for "jpeg".
      name: a key of `SEVERITIES`.
      severity: from 1 to 5.
      seed: of noise and directions. The first n images are corrupted in the same way however many follow.

    Returns:
      uint8 [N, H, W, C].

    Raises:
      ValueError: there is no such corruption or severity.
      TypeError: the images are not uint8 [N, H, W, C].
    """
    if name not in SEVERITIES:
        raise ValueError(f"there is no corruption {name!r}. Take one of {', '.join(SEVERITIES)}.")
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"expected a severity from 1 to 5, found {severity}")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        found = getattr(images, "dtype", type(images).__name__), getattr(images, "shape", "")
        raise TypeError(f"expected uint8 images [N, H, W, C], found {found[0]} {found[1]}. Corrupt before you scale.")
    rng = np.random.default_rng([seed, list(SEVERITIES).index(name), severity])
    return _CORRUPTIONS[name](images, SEVERITIES[name][severity - 1], rng)


def _uint8(x: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


def _scaled(change: Callable) -> Callable:
    """Let `change` see images in [0, 1], in parts that take little memory."""

    def corruption(images: np.ndarray, constant: float, rng: np.random.Generator) -> np.ndarray:
        parts = (images[start : start + 1000] for start in range(0, len(images), 1000))
        changed = [_uint8(change(part / np.float32(255), constant, rng)) for part in parts]
        return np.concatenate(changed) if changed else images.copy()

    return corruption


def _gaussian_noise(x: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    return x + deviation * rng.standard_normal(x.shape, np.float32)


def _shot_noise(x: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(x * photons) / photons


def _gaussian_blur(x: np.ndarray, deviation: float, _: np.random.Generator) -> np.ndarray:
    return ndimage.gaussian_filter(x, (0, deviation, deviation, 0), mode="nearest")


def _defocus_blur(x: np.ndarray, radius: float, _: np.random.Generator) -> np.ndarray:
    reach, fine = int(np.ceil(radius)), 10  # the disk is drawn on a grid that is ten times finer
    line = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    disk = (line[:, None] ** 2 + line**2 <= radius**2).reshape(2 * reach + 1, fine, -1, fine).mean((1, 3))
    return ndimage.convolve(x, (disk / disk.sum())[None, :, :, None], mode="nearest")


def _contrast(x: np.ndarray, factor: float, _: np.random.Generator) -> np.ndarray:
    mean = x.mean(axis=(1, 2), keepdims=True)
    return mean + factor * (x - mean)


def _brightness(x: np.ndarray, added: float, _: np.random.Generator) -> np.ndarray:
    return x + added


def _jpeg(images: np.ndarray, quality: float, _: np.random.Generator) -> np.ndarray:
    found = np.empty_like(images)
    for image, new in zip(images, found, strict=True):
        with io.BytesIO() as file:
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
                file, "JPEG", quality=int(quality)
            )
            new[...] = np.asarray(Image.open(file)).reshape(image.shape)
    return found


def _rotation(x: np.ndarray, degrees: float, rng: np.random.Generator) -> np.ndarray:
    signs = rng.choice([-1, 1], len(x))
    return np.stack([ndimage.rotate(a, s * degrees, reshape=False, order=1) for a, s in zip(x, signs, strict=True)])


def _translation(images: np.ndarray, pixels: float, rng: np.random.Generator) -> np.ndarray:
    shifts = rng.choice([-int(pixels), int(pixels)], (len(images), 2))
    found = np.zeros_like(images)
    for image, new, (down, right) in zip(images, found, shifts, strict=True):
        height, width = image.shape[:2]
        new[max(down, 0) : height + down, max(right, 0) : width + right] = image[
            max(-down, 0) : height - down, max(-right, 0) : width - right
        ]
    return found


_CORRUPTIONS = {
    "gaussian_noise": _scaled(_gaussian_noise),
    "shot_noise": _scaled(_shot_noise),
    "gaussian_blur": _scaled(_gaussian_blur),
    "defocus_blur": _scaled(_defocus_blur),
    "contrast": _scaled(_contrast),
    "brightness": _scaled(_brightness),
    "jpeg": _jpeg,
    "rotation": _scaled(_rotation),
    "translation": _translation,
}
