"""What a step counts and says of images that their metadata turn, or that are listed with another size than they have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ovseg.core.images import ImageHeader
from ovseg.core.options import Orientation

ROTATED = "rotated"  # images that their metadata turn or mirror
SAME_SIZE = "rotated_same_size"  # those whose size is the same either way
OTHER_SIZE = "rotated_other_size"  # those that are listed with the size they have with the other orientation
LISTED_SIZE = "listed_size_differs"  # images of a size that is neither the listed one nor that of the other orientation
UNREADABLE = "orientation_unreadable"  # images whose metadata state no orientation that can be read
USED = {"exif": "turned as it says", "raw": "used as they are stored"}
OTHER: dict[Orientation, Orientation] = {"exif": "raw", "raw": "exif"}


def rotation_counts(header: ImageHeader, listed_size: tuple[object, object] = (None, None)) -> Iterator[str]:
    """Yield the names that an image is counted under.

    Args:
        header: the header of the image.
        listed_size: width and height of the image in the list of images that comes with its masks; None where it has none.
    """
    if header.note:
        yield UNREADABLE
    turned = header.exif_orientation != 1 and not header.same_size and listed_size == (header.height, header.width)
    if header.exif_orientation != 1:
        yield ROTATED
        if header.same_size or turned:
            yield OTHER_SIZE if turned else SAME_SIZE
    if not turned and None not in listed_size and listed_size != (header.width, header.height):
        yield LISTED_SIZE


def explain_rotation(counts: Mapping[str, int], orientation: Orientation, parameter: str) -> Iterator[str]:
    """Yield warnings about images that may be used with another orientation than their masks were drawn with.

    Args:
        counts: the counts of the step, with the names above.
        orientation: the value of the parameter.
        parameter: its name.
    """
    rotated, same, other, unreadable = (counts.get(name, 0) for name in (ROTATED, SAME_SIZE, OTHER_SIZE, UNREADABLE))
    remedy = f"set {parameter} to {OTHER[orientation]}"
    if differing := counts.get(LISTED_SIZE, 0):
        yield (
            f"{differing} images have another size than they are listed with; masks that were drawn on that size do not fit, "
            "and are dropped"
        )
    if unreadable:
        yield f"{unreadable} images have an EXIF orientation that cannot be read; they are used as they are stored"
    if other:
        yield (
            f"{other} of {rotated} images with an EXIF orientation are {USED[orientation]}, but listed with the size that they "
            f"have otherwise: if their masks have that size, too, {remedy}"
        )
    if same:
        yield (
            f"{same} of {rotated} images with an EXIF orientation are square, or are not turned by 90 degrees, so that no size "
            f"tells how their masks were drawn; they are {USED[orientation]}, and if their masks are not, {remedy}"
        )
