"""A recipe's augmentation by torchvision's transforms (v2), in a worker of PyTorch's DataLoader.

One affine map a picture, as in hemodist: crop, shift and rotation together cost one interpolation. `RandomResizedCrop`
and `RandomRotation` one after the other would be two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchvision.transforms import v2


def transforms(strengths: Mapping[str, float]) -> Any:
    """Transforms of an image of Pillow, or of a uint8 tensor [3, h, w]; the size stays.

    Brightness is multiplied where hemodist adds, and contrast changes about the picture's own mean.

    Args:
        strengths: fields of `AugmentConfig`.

    Raises:
        ValueError: torchvision has no such transform.
    """
    if strengths["transpose"]:
        raise ValueError("torchvision does not transpose at random; leave augment.transpose at 0")
    side = strengths["min_crop_area"] ** 0.5  # of the smallest crop, as a share of the picture's
    steps: list[Any] = []
    if strengths["rotation_degrees"] or side < 1:
        steps.append(
            v2.RandomAffine(
                strengths["rotation_degrees"],
                translate=((1 - side) / 2, (1 - side) / 2),
                scale=(1, 1 / side),
                interpolation=v2.InterpolationMode.BILINEAR,
            )
        )
    for flip, probability in ((v2.RandomHorizontalFlip, "flip_horizontal"), (v2.RandomVerticalFlip, "flip_vertical")):
        if strengths[probability]:
            steps.append(flip(strengths[probability]))
    if strengths["brightness"] or strengths["contrast"]:
        steps.append(v2.ColorJitter(brightness=strengths["brightness"], contrast=strengths["contrast"]))
    return v2.Compose(steps) if steps else v2.Identity()
